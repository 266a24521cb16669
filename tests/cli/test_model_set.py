"""model set."""

import json
from typing import Any

from batchyard.client.testing import FakeService


def test_settings_are_set_shown_and_taken_back(run: Any, service: FakeService, digit_model: str) -> None:
    flags = ["--max-batch", "64", "--queue-delay", "2ms", "--preferred-sizes", "8,16", "--timeout", "1.5s"]
    lines = run("model", "set", "tiny", *flags, "--timeout-action", "delay", "--timeout-override", "no").stdout
    assert lines.splitlines() == [
        "max batch\t64", "queue delay\t2 ms", "preferred sizes\t8, 16", "timeout\t1500 ms", "timeout override\tno",
        "timeout action\tdelay",
    ]  # fmt: skip
    assert "queue delay\t2 ms" in run("model", "show", "tiny").stdout
    assert "precision\tbf16" in run("model", "set", "tiny", "--precision", "bf16").stdout.splitlines()
    changed = json.loads(run("model", "set", "tiny", "--queue-delay", "default", "--json").stdout)
    assert changed["serving_settings"]["max_batch_size"] == 64
    assert not service.models["models/tiny"].serving_settings.HasField("max_queue_delay_microseconds")


def test_what_cannot_be_read_is_a_usage_error_that_shows_how(run: Any, digit_model: str) -> None:
    for flags, words in (
        (["--queue-delay", "2"], "for example 500us, 2ms or 1.5s"),
        (["--max-batch", "many"], "expected a number or `default`"),
        (["--timeout-action", "drop"], "expected reject, delay or `default`"),
        (["--precision", "fp16"], "expected fp32, bf16 or `default`"),
        ([], "no setting given"),
    ):
        result = run("model", "set", "tiny", *flags)
        assert result.exit_code == 2
        assert words in result.stderr
