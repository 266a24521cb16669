"""Prometheus and Grafana: configuration that their own tools accept, and queries for metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .conftest import load

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/batchyard.json").read_text())
OF_PROMETHEUS_ITSELF = {"up"}


def known_metrics() -> set[str]:
    """Every series name, as docs/metrics.md (which a test holds against the code) lists them."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    names = {name for name, _ in rows} | {rule["record"] for rule in rules("record")}
    return names | {
        f"{name}_{part}" for name, kind in rows if kind == "histogram" for part in ("bucket", "sum", "count")
    }


def metrics_in(query: str) -> set[str]:
    """Names of metrics in a PromQL expression: recorded ones, batchyard_..., process_... and up."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(\w+:\w+:\w+|batchyard_\w+|process_\w+|up)\b", bare))


def rules(kind: str) -> list[dict[str, Any]]:
    """The recording rules (`record`) or the alerts (`alert`)."""
    groups = load("deploy/prometheus/rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels() -> Iterator[Any]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def promtool(*arguments: str) -> str:
    ran = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    assert "prometheus.yml is valid prometheus config file syntax" in promtool("check", "config", "prometheus.yml")
    # Its files lie in the container; without --syntax-only promtool would look for them here.
    assert "is valid" in promtool("check", "config", "--syntax-only", "prometheus.tls.yml")
    assert "16 rules found" in promtool("check", "rules", "rules.yml")


def test_alerts_fire_when_they_should_and_what_is_recorded_is_right() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml")


def test_rules_ask_only_for_metrics_that_exist() -> None:
    both = [*rules("record"), *rules("alert")]
    asked = set().union(*(metrics_in(rule["expr"]) for rule in both))

    assert asked - known_metrics() == OF_PROMETHEUS_ITSELF
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_rule_is_unit_tested_or_tried_against_a_running_service() -> None:
    tried = (PROMETHEUS / "rules_test.yml").read_text() + Path(__file__).with_name("test_scrape.py").read_text()
    names = [rule.get("record") or rule["alert"] for rule in (*rules("record"), *rules("alert"))]
    assert [name for name in names if name not in tried] == []


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.tls.yml"])
def test_both_planes_are_scraped_where_compose_puts_them(name: str, compose: dict[str, Any]) -> None:
    jobs = {job["job_name"]: job for job in load(f"deploy/prometheus/{name}")["scrape_configs"]}

    targets = {name: job["static_configs"][0]["targets"] for name, job in jobs.items()}
    assert targets == {"batchyard-control": ["control:8080"], "batchyard-inference": ["inference:8002"]}
    for target in ("control:8080", "inference:8002"):
        service, port = target.split(":")
        assert any(published.endswith(f":{port}") for published in compose["services"][service]["ports"])
    assert jobs["batchyard-control"]["honor_labels"], "else our label `job` would be renamed"


def test_dashboard_queries_ask_only_for_metrics_that_exist() -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]

    assert len(queries) > 30
    asked = set().union(*map(metrics_in, queries))
    assert asked - known_metrics() == set()
    assert all(metrics_in(query) for query in queries)


def test_prometheus_can_parse_every_dashboard_query(tmp_path: Path) -> None:
    queries = [target["expr"].replace("$job", ".+").replace("$layer", "a") for p in panels() for target in p["targets"]]
    recorded = [{"record": f"dashboard:query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))

    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(file))


def test_the_dashboard_is_what_its_code_makes() -> None:
    command = [sys.executable, "tools/generate_grafana_dashboard.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_made_for_the_grafana_that_runs(compose: dict[str, Any]) -> None:
    made_for = version("grafana-foundation-sdk").rpartition("!")[2]
    assert compose["services"]["grafana"]["image"].rpartition(":")[2] == made_for


def test_panels_are_well_formed_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_the_dashboard_and_the_datasource(compose: dict[str, Any]) -> None:
    source = load("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    provider = load("deploy/grafana/provisioning/dashboards/batchyard.yaml")["providers"][0]
    grafana = compose["services"]["grafana"]

    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    folder = provider["options"]["path"]
    assert f"../grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy/grafana/dashboards" / Path(home).relative_to(folder)).is_file()
