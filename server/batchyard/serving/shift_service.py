"""ShiftService: see proto/batchyard/v1/shift.proto."""

from __future__ import annotations

from typing import Any

from batchyard.endpoint.errors import FieldViolation, InvalidInputError, PreconditionError
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository
from batchyard.serving.shift_monitor import ShiftMonitor
from batchyard.serving.shift_report import LEAST_ROWS, LayerReport
from batchyard.serving.shift_window import WINDOW_ROWS
from batchyard.v1 import shift_pb2 as pb
from batchyard.v1 import shift_pb2_grpc

DEFAULT_CHANNELS = 5


class ShiftServicer(shift_pb2_grpc.ShiftServiceServicer):
    """Each method converts, calls once and converts back."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def GetShift(self, request: pb.GetShiftRequest, context: Any) -> pb.ModelShift:  # noqa: N802, D102
        if request.channels < -1:
            _refuse("channels", f"{request.channels} given; expected how many, 0 for {DEFAULT_CHANNELS}, -1 for all")
        served = self._repository.resolve(request.model, request.version)
        monitor = _monitor(served)
        report, known = monitor.report(), {}
        if report.shift is not None:
            known["shift"] = report.shift
        return pb.ModelShift(
            model=served.name,
            version=served.version,
            sample_rate=monitor.rate,
            rows=report.rows,
            window_rows=WINDOW_ROWS,
            least_rows=LEAST_ROWS,
            dropped_rows=report.dropped_rows,
            not_finite_rows=report.not_finite_rows,
            layers=[_layer(layer, request.channels or DEFAULT_CHANNELS) for layer in report.layers],
            left_out=monitor.record.left_out,
            failure=report.failure,
            **known,
        )

    async def GetSampledInputs(  # noqa: N802, D102
        self, request: pb.GetSampledInputsRequest, context: Any
    ) -> pb.SampledInputs:
        if request.rows < 0:
            _refuse("rows", f"{request.rows} given; expected how many, or 0 for all that are kept")
        served = self._repository.resolve(request.model, request.version)
        monitor = _monitor(served)
        if not monitor.keep_rows:
            text = f"model {served.wanted.label}: this inference plane keeps no inputs (--shift-keep-rows 0)"
            raise PreconditionError(text, reason="INPUTS_NOT_KEPT")
        rows = monitor.newest_rows(min(request.rows or monitor.keep_rows, monitor.keep_rows))
        return pb.SampledInputs(
            model=served.name,
            version=served.version,
            datatype="UINT8" if rows.dtype == "uint8" else "FP32",
            shape=(len(rows), *served.input.shape[1:]),
            raw=rows.tobytes(),
        )


def _monitor(served: ServedVersion) -> ShiftMonitor:
    if served.shift is not None:
        return served.shift
    probe = served.manifest.probe
    if probe is not None and probe.layers:
        text = "this inference plane samples no requests; start it with --shift-sample-rate above 0"
        raise PreconditionError(f"model {served.wanted.label}: {text}", reason="SHIFT_NOT_SAMPLED")
    why = "none of its normalisation layers can be measured" if probe else "it was published without a probe graph"
    raise PreconditionError(f"model {served.wanted.label}: {why}", reason="NO_SHIFT_PROBE")


def _layer(report: LayerReport, channels: int) -> pb.LayerShift:
    layer = pb.LayerShift(layer=report.layer, measured_channels=len(report.channels))
    if report.shifts is None or report.shift is None:
        return layer
    layer.shift = report.shift
    for position in report.worst(len(report.channels) if channels == -1 else channels):
        layer.channels.add(
            channel=report.channels[position],
            mean_shift=report.shifts.mean_shift[position],
            std_ratio=report.shifts.std_ratio[position],
            shift=report.shifts.shift[position],
        )
    return layer


def _refuse(field: str, problem: str) -> None:
    raise InvalidInputError([FieldViolation(field, problem)])
