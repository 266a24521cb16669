"""Writes docs/metrics.md from the code: every metric of both planes. With --check it only compares.

Labels are read off samples, so each plane is shown one of everything first; a metric that got no sample is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from batchyard.control import metrics as control
from batchyard.control.states import State
from batchyard.serving import metrics as serving
from batchyard.serving import triton_metrics
from batchyard.serving.shadow import ShadowReport
from batchyard.serving.shadow_comparison import Comparison
from batchyard.serving.shift_report import LayerReport, ShiftReport
from batchyard.serving.shift_score import ChannelShifts
from batchyard.training import events

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yml"

HEAD = """# Metrics

Both planes answer `GET /metrics` in Prometheus' text format: the control plane on its HTTP port (8080), the inference
plane on its own (8002). `promtool check metrics` has nothing to say against either, but for Triton's names.
deploy/prometheus scrapes both and holds recording rules and alerts; deploy/grafana draws them, on a dashboard that
tools/generate_grafana_dashboard.py makes.

This page is generated from the code by tools/generate_metrics_doc.py; a test compares them.
"""

CONTROL = """## Control plane

Series with the label `job` belong to one training job (its id). **The rule:** they begin with the job's first report
and are gone as soon as its state is SUCCEEDED, FAILED or CANCELLED; `batchyard_job_samples_per_second` and
`batchyard_job_step_seconds` are there only while the job is RUNNING and trains. What a finished job was like stays in
its history (`batchyard job watch ID`, the dashboard), and, for as long as it keeps data, in Prometheus.

Prometheus gives every target a label `job` of its own and renames ours to `exported_job`, unless the scrape
configuration says `honor_labels: true` for the control plane, as deploy/prometheus does. Counters begin at 0 with
each process.
"""

INFERENCE = """## Inference plane

Series of one served version (labels `model`, `version`) exist while it is served. Requests that name nothing that is
served count under `model=""`.
"""

TRITON = """### By Triton's names

The same numbers of each served version (labels `model`, `version`; with `reason` for failures), so that dashboards
made for Triton work: times in microseconds, counters without `_total`. Triton's reasons are REJECTED (a full queue, a
deadline that passed in it), CANCELED, BACKEND (the engine failed) and OTHER.
"""


RECORDED = """## Recorded by Prometheus

Named level:metric:operation; deploy/prometheus/rules.yml has them.
"""


def control_families() -> list[Metric]:
    """Every metric of the control plane, with a sample of each."""
    metrics = control.Metrics(CollectorRegistry(), version="")
    for old, new in ((None, State.QUEUED), (State.QUEUED, State.STARTING), (State.STARTING, State.RUNNING)):
        metrics.job_state("j", old, new)
    layer = events.Layer(name="a", p15=0, p50=0, p85=0, saturated=0, dead=0, drift=0.0, worker_spread=0.0)
    for event in (
        events.StepMetrics(
            step=1,
            steps=1,
            loss=0,
            accuracy=0,
            learning_rate=0,
            samples_per_second=0,
            step_seconds=0,
            data_seconds=0,
            forward_seconds=0,
            backward_seconds=0,
            collectives_seconds=0,
            optimizer_seconds=0,
        ),
        events.Evaluation(step=1, loss=0, accuracy=0, samples=1),
        events.LayerStatistics(step=1, layers=(layer,)),
        events.Ended(outcome="succeeded"),
    ):
        metrics.job_event("j", event)
    return _parse(metrics.render())


def inference_families() -> list[Metric]:
    """Every metric of the inference plane, with a sample of each."""
    metrics = serving.Metrics()
    metrics.default_version("m", 1)
    metrics.load_failed("m")
    version = metrics.add_version("m", "1")
    version.answered(1, 0.1)
    version.failed("INTERNAL")
    layer = LayerReport(layer="a", channels=(0,), shifts=ChannelShifts(*np.zeros((3, 1))))
    report = ShiftReport(rows=1, dropped_rows=0, not_finite_rows=0, failure="", layers=(layer,))
    version.shift = lambda: report
    compared = Comparison(requests=1, rows=1)
    shadow = ShadowReport(version="2", share=0.1, compared=compared, dropped_rows=0, failed_rows=0, failure="")
    version.shadow = lambda: shadow
    return _parse(metrics.render())


def _parse(text: bytes) -> list[Metric]:
    families = list(text_string_to_metric_families(text.decode()))
    if bare := [family.name for family in families if not family.samples]:
        raise SystemExit(f"no sample of {', '.join(bare)}: teach {Path(__file__).name} to make one")
    return [family for family in families if not family.name.endswith("_created") and not _is_tritons(family)]


def _is_tritons(family: Metric) -> bool:
    """They have a table of their own: the parser would give them names that they do not have."""
    return family.name.startswith("nv_")


def triton_table() -> str:
    """A Markdown table."""
    counters = [(name, "counter", text) for name, text in triton_metrics.COUNTERS]
    others = [(*triton_metrics.FAILURES, "counter"), (*triton_metrics.PENDING, "gauge")]
    names = [*counters, *((name, kind, text) for name, text, kind in others)]
    lines = ["| metric | kind | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {kind} | {text} |" for name, kind, text in names)]) + "\n"


def table(families: Iterable[Metric]) -> str:
    """A Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        cells = (f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def recorded_table() -> str:
    """A Markdown table of the recording rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "record" in rule]
    rows = (f"| `{rule['record']}` | `{' '.join(rule['expr'].split())}` |" for rule in rules)
    return "\n".join(["| series | query |", "|---|---|", *rows]) + "\n"


def page() -> str:
    """The whole page."""
    planes = (CONTROL, table(control_families()), INFERENCE, table(inference_families()))
    return "\n".join((HEAD, *planes, TRITON, triton_table(), RECORDED, recorded_table()))


def main(arguments: list[str]) -> int:
    """Writes the page, or, with --check, says whether it is fresh."""
    fresh = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == fresh:
            return 0
        print(f"{PAGE} is not what the code says: run tools/generate_metrics_doc.py")
        return 1
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
