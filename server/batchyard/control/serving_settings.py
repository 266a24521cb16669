"""How a model is served, as the registry keeps it: a mapping of the fields of ServingSettings that are set.

Rules only; proto/batchyard/v1/serving.proto says what each field means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from batchyard.endpoint.errors import FieldViolation, InvalidInputError

ROOT = "serving_settings"
RANGES: dict[str, tuple[int, int]] = {
    "max_batch_size": (1, 65536),
    "max_queue_delay_microseconds": (0, 10_000_000),
    "max_queue_rows": (1, 1 << 30),
    "priority_levels": (0, 100),
    "default_priority_level": (1, 100),
    "default_timeout_microseconds": (0, 3_600_000_000),
}
"""Field -> its least and its greatest value."""
FIELDS = (*RANGES, "preferred_batch_sizes", "allow_timeout_override", "timeout_action", "shadow_share", "precision")
MOST_PREFERRED = 16


def updated(before: Mapping[str, Any], given: Mapping[str, Any], mask: Iterable[str]) -> dict[str, Any]:
    """`before` with what is `given` for the fields of the mask; those not given take their defaults again.

    An empty mask means the fields that are given. Raises InvalidInputError naming the field.
    """
    after = dict(before)
    for name in _named(mask) or given:
        after.pop(name, None)
        if name in given:
            after[name] = given[name]
    if violations := list(_violations(after)):
        raise InvalidInputError(violations)
    return after


def _named(mask: Iterable[str]) -> list[str]:
    names: list[str] = []
    for path in mask:
        root, _, field = path.partition(".")
        if root != ROOT or (field and field not in FIELDS):
            legal = f"{ROOT}, or one of its fields, as {ROOT}.max_batch_size"
            raise InvalidInputError([FieldViolation("update_mask", f"{path[:80]!r} given; expected {legal}")])
        names += [field] if field else FIELDS
    return names


def _violations(settings: Mapping[str, Any]) -> Iterable[FieldViolation]:
    def wrong(field: str, problem: str) -> FieldViolation:
        return FieldViolation(f"{ROOT}.{field}", problem)

    for field, (least, most) in RANGES.items():
        if field in settings and not least <= settings[field] <= most:
            yield wrong(field, f"{settings[field]} given; expected {least} to {most}")
    sizes = settings.get("preferred_batch_sizes", ())
    most = settings.get("max_batch_size", RANGES["max_batch_size"][1])
    rising = all(one < other for one, other in pairwise((0, *sizes)))
    if not rising or len(sizes) > MOST_PREFERRED or max(sizes, default=0) > most:
        expected = f"at most {MOST_PREFERRED} rising numbers from 1 to {most}"
        yield wrong("preferred_batch_sizes", f"{list(sizes[:20])} given; expected {expected}")
    levels = settings.get("priority_levels", 0)
    if settings.get("default_priority_level", 0) > levels:
        given = settings["default_priority_level"]
        yield wrong("default_priority_level", f"{given} given; expected 1 to priority_levels, which is {levels}")
    if settings.get("timeout_action", 1) not in (1, 2):
        yield wrong("timeout_action", f"{settings['timeout_action']} given; expected REJECT or DELAY")
    if settings.get("precision", 1) not in (1, 2):
        yield wrong("precision", f"{settings['precision']} given; expected FP32 or BF16")
    if not 0 <= settings.get("shadow_share", 0.0) <= 1:  # so that NaN is wrong, too
        yield wrong("shadow_share", f"{settings['shadow_share']:g} given; expected a share, 0 to 1")
