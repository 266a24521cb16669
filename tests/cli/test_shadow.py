"""model shadow, and the alias and the setting that make one."""

import json
from typing import Any

from batchyard.client import ShadowComparison
from batchyard.client.testing import FakeService


def compared(service: FakeService) -> ShadowComparison:
    found = ShadowComparison(
        model="tiny", version="1", shadow_version="2", share=0.1, requests=40, rows=400, agreeing_rows=398,
        mean_difference=0.0125, largest_difference=1.5, seconds_per_row=2e-6, shadow_seconds_per_row=3.25e-6,
    )  # fmt: skip
    service.shadows["tiny"] = found
    return found


def test_the_comparison_is_told(run: Any, service: FakeService) -> None:
    compared(service)
    lines = run("model", "shadow", "tiny").stdout.splitlines()
    assert lines == [
        "model\ttiny",
        "version\t1",
        "shadow\tversion 2, copies of 10.00% of the requests",
        "compared\t40 requests, 400 rows",
        "same class\t99.50% of 400 rows",
        "mean difference\t0.0125",
        "largest difference\t1.5",
        "engine for a row\t2.0 us",
        "shadow's for a row\t3.2 us",
    ]
    assert json.loads(run("model", "shadow", "tiny", "--json").stdout)["agreeing_rows"] == 398


def test_what_went_wrong_is_told_and_nothing_is_made_up(run: Any, service: FakeService) -> None:
    service.shadows["tiny"] = ShadowComparison(
        model="tiny", version="1", shadow_version="2", share=1.0, dropped_rows=7, failed_rows=3, failure="no memory"
    )
    lines = run("model", "shadow", "tiny").stdout.splitlines()
    assert "same class\tunknown until a request is compared" in lines
    assert "dropped rows\t7, because too many waited" in lines
    assert "the shadow's last failure\tno memory" in lines
    assert not any("difference" in line for line in lines)
    assert run("model", "shadow", "other").exit_code == 1


def test_a_shadow_is_an_alias_and_a_share(run: Any, service: FakeService, digit_model: str) -> None:
    assert "shadow\t2" in run("alias", "tiny", "shadow", "2").stdout.splitlines()
    assert run("model", "set", "tiny", "--shadow-share", "50%").stdout == "shadow share\t50.00%\n"
    assert service.models["models/tiny"].serving_settings.shadow_share == 0.5
    assert run("alias", "tiny", "shadow", "--delete").stdout == "production\t2\n"
    assert run("alias", "tiny", "shadow", "--delete").exit_code == 1


def test_what_is_no_share_and_what_is_no_order_are_usage_errors(run: Any, digit_model: str) -> None:
    for arguments, words in (
        (("model", "set", "tiny", "--shadow-share", "110%"), "expected a share, for example 10% or 0.1"),
        (("model", "set", "tiny", "--shadow-share", "-1"), "expected a share, for example 10% or 0.1"),
        (("alias", "tiny", "shadow"), "give one of VERSION and --delete"),
        (("alias", "tiny", "shadow", "2", "--delete"), "give one of VERSION and --delete"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
