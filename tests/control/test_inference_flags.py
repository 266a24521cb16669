"""What the control plane hands on to its inference plane."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from batchyard.control.inference_flags import InferenceFlags
from batchyard.control.settings import Settings, SettingsError
from batchyard.serving.__main__ import _parser as parser_of_serving


def read(*words: str) -> InferenceFlags:
    parser = argparse.ArgumentParser()
    InferenceFlags.add_to(parser)
    return InferenceFlags.read(parser.parse_args(words))


def test_what_was_not_said_is_not_handed_on() -> None:
    assert read().words() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--shift-sample-rate", "0.0"],
        ["--engines", "torch,onnxruntime"],
        ["--triton-error-codes"],
        ["--trace-dir", "/tmp/traces", "--otlp-endpoint", "http://127.0.0.1:4317", "--otlp-sample-rate", "1.0"],
    ],
    ids=lambda words: words[0],
)
def test_what_was_said_is_handed_on_as_it_stands(words: list[str]) -> None:
    assert read(*words).words() == words


def test_every_flag_is_one_of_the_inference_plane() -> None:
    known = {option for action in parser_of_serving()._actions for option in action.option_strings}
    flags = {f"--{each.name.replace('_', '-')}" for each in dataclasses.fields(InferenceFlags)}
    assert flags <= known


@pytest.mark.parametrize("flag", ["--shift-sample-rate", "--otlp-sample-rate"])
def test_a_share_above_one_is_refused_before_anything_starts(flag: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{flag} 1.5: expected a share"):
        Settings(data_dir=tmp_path, inference_flags=read(flag, "1.5"))
