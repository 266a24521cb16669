"""Writes deploy/grafana/dashboards/batchyard.json with Grafana's Foundation SDK. With --check it only compares.

The dashboard is this file: rows of panels, each a title, its queries and a unit. The SDK lays them out: from left to
right, SPAN wide unless they say otherwise, 24 columns to a row.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards" / "batchyard.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="batchyard")
"""As deploy/grafana/provisioning/datasources names it."""
SPAN, HEIGHT = 8, 7
Queries = dict[str, str]
"""What a series is called -> its PromQL."""


def graph(title: str, unit: str, queries: Queries, *, span: int = SPAN, about: str = "") -> timeseries.Panel:
    """Lines over time."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .span(span)
        .height(HEIGHT)
        .datasource(SOURCE)
        .line_width(1)
        .fill_opacity(0)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(True)
        .legend(legend.show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for query in _targets(queries):
        panel.with_target(query)
    return panel


def number(title: str, queries: Queries, *, span: int = SPAN) -> stat.Panel:
    """The last values, large."""
    panel = (
        stat.Panel()
        .title(title)
        .unit("short")
        .span(span)
        .height(HEIGHT)
        .datasource(SOURCE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.NONE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
    )
    for query in _targets(queries):
        panel.with_target(query)
    return panel


def _targets(queries: Queries) -> Iterator[prometheus.Dataquery]:
    for letter, (name, expression) in zip(ascii_uppercase, queries.items(), strict=False):
        yield prometheus.Dataquery().expr(expression).legend_format(name).ref_id(letter).datasource(SOURCE)


def quantiles(metric: str, window: str, by: str = "") -> Queries:
    """Median and p99 of a histogram."""
    labels, name = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    rates = f"sum by ({labels}) (rate({metric}_bucket[{window}]))"
    return {f"{name}median": f"histogram_quantile(0.5, {rates})", f"{name}p99": f"histogram_quantile(0.99, {rates})"}


def jobs(board: dashboard.Dashboard) -> None:
    """All jobs."""
    board.with_row(dashboard.Row("Jobs"))
    board.with_panel(number("Jobs by state", {"{{state}}": "sum by (state) (batchyard_jobs)"}))
    ended = "sum by (outcome) (increase(batchyard_jobs_finished_total[1h]))"
    board.with_panel(graph("Jobs that ended per hour", "short", {"{{outcome}}": ended}))
    first = quantiles("batchyard_job_first_step_seconds", "1h")
    board.with_panel(graph("Submission to first step", "s", first))


def one_job(board: dashboard.Dashboard) -> None:
    """The job that is chosen."""

    def of(metric: str) -> str:
        return f'{metric}{{job=~"$job"}}'

    board.with_row(dashboard.Row("Training job $job"))
    loss = {"training": of("batchyard_job_loss"), "held out": of("batchyard_job_evaluation_loss")}
    board.with_panel(graph("Loss", "short", loss))
    accuracy = {"training": of("batchyard_job_accuracy"), "held out": of("batchyard_job_evaluation_accuracy")}
    board.with_panel(graph("Accuracy", "percentunit", accuracy))
    speed = {"samples/s": of("batchyard_job_samples_per_second"), "time of a step": of("batchyard_job_step_seconds")}
    right = [
        DynamicConfigValue(id_val="unit", value="s"),
        DynamicConfigValue(id_val="custom.axisPlacement", value=AxisPlacement.RIGHT),
    ]
    board.with_panel(graph("Speed", "short", speed).override_by_name("time of a step", right))
    parts = graph("Where a step's time goes", "s", {"{{part}}": of("batchyard_job_step_part_seconds")}, span=6)
    stacked = common.StackingConfig().mode(StackingMode.NORMAL)
    board.with_panel(parts.stacking(stacked).fill_opacity(30))
    progress = {"{{job}}": of("job:batchyard_job_progress:ratio")}
    board.with_panel(graph("Progress", "percentunit", progress, span=6))
    flat = {
        "{{layer}}": of("batchyard_job_layer_saturated_ratio"),
        "{{layer}} dead": of("batchyard_job_layer_dead_ratio"),
    }
    board.with_panel(graph("Saturated and dead share by layer", "percentunit", flat, span=6))
    apart = {
        "{{layer}} drift": of("batchyard_job_layer_drift"),
        "{{layer}} spread": of("batchyard_job_layer_worker_spread"),
    }
    board.with_panel(graph("Batch against running statistics, spread of workers", "short", apart, span=6))
    board.with_panel(activations())


def activations() -> timeseries.Panel:
    """The paper's Figure 1 of each layer that is chosen, beside one another."""
    series = 'batchyard_job_layer_activation{job=~"$job", layer="$layer"'
    queries = {name: f'{series}, percentile="{name}"}}' for name in ("p15", "p50", "p85")}
    about = "Inputs of the activation function: median, and the band from the 15th to the 85th percentile."
    band = [
        DynamicConfigValue(id_val="custom.fillBelowTo", value="p15"),
        DynamicConfigValue(id_val="custom.fillOpacity", value=15),
    ]
    return (
        graph("Activation percentiles of $layer", "short", queries, about=about)
        .override_by_name("p85", band)
        .override_by_name("p50", [DynamicConfigValue(id_val="custom.lineWidth", value=2)])
        .repeat("layer")
        .repeat_direction("h")
        .max_per_row(3)
    )


def inference(board: dashboard.Dashboard) -> None:
    """Traffic and batches."""
    board.with_row(dashboard.Row("Inference"))
    rate = "sum by (model, version) (rate(batchyard_inference_requests_total[1m]))"
    board.with_panel(graph("Requests per second", "reqps", {"{{model}} {{version}}": rate}))
    failures = "sum by (code) (rate(batchyard_inference_failures_total[1m]))"
    board.with_panel(graph("Failures per second, by code", "reqps", {"{{code}}": failures}))
    answered = quantiles("batchyard_inference_request_duration_seconds", "1m", by="model")
    board.with_panel(graph("Time to answer", "s", answered))
    queued = quantiles("batchyard_inference_queue_duration_seconds", "1m", by="model")
    board.with_panel(graph("Time in the queue", "s", queued, span=6))
    computed = quantiles("batchyard_inference_engine_duration_seconds", "1m", by="model")
    board.with_panel(graph("Time of a batch in the engine", "s", computed, span=6))
    rows = "sum by (model) (rate(batchyard_inference_batch_rows_{}[1m]))"
    mean = {"{{model}} mean": f"{rows.format('sum')} / {rows.format('count')}"}
    board.with_panel(graph("Rows in a batch", "short", mean, span=6))
    serving = {"{{model}}": "max by (model) (batchyard_inference_model_version)"}
    board.with_panel(number("Version that is served", serving, span=6))


def live_data(board: dashboard.Dashboard) -> None:
    """Whether what comes in is like the training data, and how a shadow compares."""
    board.with_row(dashboard.Row("Live data"))
    shift = {"{{model}} {{version}}": "batchyard_inference_shift"}
    about = "0: like the training data; above the line BatchyardShift is raised."
    limit = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    limit.steps([Threshold(value=None, color="transparent"), Threshold(value=0.1, color="red")])
    line = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE)
    board.with_panel(graph("Shift", "short", shift, about=about).thresholds(limit).thresholds_style(line))
    layers = {"{{model}} {{version}} {{layer}}": "batchyard_inference_layer_shift"}
    board.with_panel(graph("Shift by layer", "short", layers))
    rows = "sum by (model, shadow) (rate(batchyard_inference_shadow_{}_total[5m]))"
    same = {"{{model}} {{shadow}}": f"{rows.format('agreeing_rows')} / {rows.format('rows')}"}
    board.with_panel(graph("Shadow names the same class", "percentunit", same))


def processes(board: dashboard.Dashboard) -> None:
    """The planes themselves."""
    board.with_row(dashboard.Row("Processes"))
    board.with_panel(graph("Memory", "bytes", {"{{instance}}": "process_resident_memory_bytes"}))
    board.with_panel(graph("Cores in use", "short", {"{{instance}}": "rate(process_cpu_seconds_total[1m])"}))
    board.with_panel(number("Control plane heard", {"{{instance}}": "batchyard_inference_control_connected"}))


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice at the top of the page."""
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query({"query": query, "refId": name})
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def text() -> str:
    """The dashboard's JSON."""
    board = dashboard.Dashboard("Batchyard").uid("batchyard").tags(["batchyard"]).readonly().refresh("5s")
    board.time("now-30m", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(variable("job", "Job", "label_values(batchyard_job_step, job)"))
    layers = variable("layer", "Layer", 'label_values(batchyard_job_layer_activation{job=~"$job"}, layer)')
    every = VariableOption(text="All", value="$__all")
    board.with_variable(layers.multi(True).include_all(True).current(every))
    for part in (jobs, one_job, inference, live_data, processes):
        part(board)
    made = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    for place, panel in enumerate(made["panels"], start=1):
        panel["id"] = place
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the file, or, with --check, says whether it is fresh."""
    fresh = text()
    if arguments == ["--check"]:
        if FILE.exists() and FILE.read_text() == fresh:
            return 0
        print(f"{FILE} is not what {Path(__file__).name} makes: run tools/{Path(__file__).name}")
        return 1
    FILE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
