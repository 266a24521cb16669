"""What is known of a version's shift at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.artifact.manifest import ProbedLayer
from batchyard.serving.shift_score import ChannelShifts, RowSums, channel_shifts, layer_shift

LEAST_ROWS = 32
"""Below this many rows a shift is unknown."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer."""

    layer: str
    channels: tuple[int, ...]
    """The measured ones, by their index in the layer."""
    shifts: ChannelShifts | None = None
    """In the order of `channels`; None: unknown yet."""

    @property
    def shift(self) -> float | None:
        """The layer's shift, 0 or more; None: unknown yet."""
        return None if self.shifts is None else layer_shift(self.shifts.shift)

    def worst(self, count: int) -> list[int]:
        """Positions in `channels` of the `count` that have shifted most, most first."""
        if self.shifts is None:
            return []
        return [int(position) for position in (-self.shifts.shift).argsort(kind="stable")[:count]]


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """One version."""

    rows: int
    """In the window."""
    dropped_rows: int
    not_finite_rows: int
    failure: str
    layers: tuple[LayerReport, ...]

    @property
    def shift(self) -> float | None:
        """Mean of the layers' shifts; None: unknown yet."""
        known = [layer.shift for layer in self.layers if layer.shift is not None]
        return sum(known) / len(known) if known else None


def layer_reports(layers: tuple[ProbedLayer, ...], total: RowSums) -> tuple[LayerReport, ...]:
    """Each layer's part of the sums over its channels, which follow one another in `total`."""
    if total.rows < LEAST_ROWS:
        return tuple(LayerReport(layer=layer.layer, channels=layer.channels) for layer in layers)
    whole, reports, start = channel_shifts(total), [], 0
    for layer in layers:
        part = slice(start, start + len(layer.channels))
        own = ChannelShifts(whole.mean_shift[part], whole.std_ratio[part], whole.shift[part])
        reports.append(LayerReport(layer=layer.layer, channels=layer.channels, shifts=own))
        start = part.stop
    return tuple(reports)
