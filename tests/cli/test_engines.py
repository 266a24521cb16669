"""model engines."""

import json
from typing import Any

import pytest

from batchyard.client.testing import FakeService
from batchyard.oip import messages

TABLE = {
    "conditions": {"processor": "Some CPU", "cores": 2, "libraries": {"onnxruntime": "1.32.0", "openvino": ""}},
    "trials": [
        {"engine": "onnxruntime", "precision": "fp32", "threads": 1, "passed": True, "reason": "", "error": 1.5e-6,
         "seconds": {"1": 1e-5, "2": 1.25e-5, "16": 0.00012}},
        {"engine": "torch", "precision": "bf16", "threads": 1, "passed": True, "reason": "", "error": 2e-3,
         "seconds": {"1": 3e-5}},
        {"engine": "openvino", "precision": "fp32", "threads": 0, "passed": False, "reason": "not installed: openvino",
         "error": None, "seconds": {}},
    ],
    "chosen": [{"up_to": 16, "engine": "onnxruntime", "threads": 1}],
}  # fmt: skip


@pytest.fixture
def measured(service: FakeService) -> None:
    texts = {
        "engine": "onnxruntime with 1 thread up to 16 rows",
        "precision": "bf16",
        "engine_choice": "measured on 'tiny' version 1",
        "engine_timings": json.dumps(TABLE),
    }
    parameters = {name: messages.ModelParameter(string_value=text) for name, text in texts.items()}
    service.configs["tiny"] = messages.ModelConfig(name="tiny", parameters=parameters)


@pytest.mark.usefixtures("measured")
def test_every_engine_is_told_with_its_times_or_why_it_does_not_serve(run: Any) -> None:
    lines = run("model", "engines", "tiny").stdout.splitlines()
    assert lines == [
        "model\ttiny",
        "served by\tonnxruntime with 1 thread up to 16 rows",
        "precision\tbf16",
        "choice\tmeasured on 'tiny' version 1",
        "processor\tSome CPU, 2 cores",
        "libraries\tonnxruntime 1.32.0, openvino missing",
        "onnxruntime\tfp32\t1\t1.5e-06\t0.01\t0.0125\t0.12\t-",
        "torch\tbf16\t1\t0.002\t0.03\t-\t-\t-",
        "openvino\tfp32\t-\t-\t-\t-\t-\tnot installed: openvino",
    ]


@pytest.mark.usefixtures("measured")
def test_json_is_the_table_as_the_server_keeps_it(run: Any, service: FakeService) -> None:
    assert json.loads(run("model", "engines", "tiny@production", "--json").stdout) == TABLE
    _, request, _ = service.calls[-1]
    assert (request.name, request.version) == ("tiny@production", "")


def test_a_server_that_keeps_no_times_is_an_error(run: Any, service: FakeService) -> None:
    service.configs["tiny"] = messages.ModelConfig(name="tiny")
    result = run("model", "engines", "tiny")
    assert result.exit_code == 1
    assert "the server tells no times of engines" in result.stderr


@pytest.mark.usefixtures("measured")
def test_a_model_that_is_not_served_is_an_error(run: Any) -> None:
    result = run("model", "engines", "other")
    assert result.exit_code == 1
    assert "other does not exist" in result.stderr
