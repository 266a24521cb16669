"""Where the service is: flags, environment, a local service's file, defaults."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from batchyard.client import Client, ConfigurationError, Settings, read_settings
from batchyard.client.settings import current_user


def write_control_file(folder: Path, **values: Any) -> None:
    (folder / "batchyard-data").mkdir()
    facts = {"grpc": "127.0.0.1:11", "inference_grpc": "127.0.0.1:12", "tls": False, "token_file": None}
    (folder / "batchyard-data" / "control.json").write_text(json.dumps({**facts, **values}))


def token_file(folder: Path, mode: int = 0o600, text: str = "secret\n") -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = read_settings(environ={}, folder=tmp_path)
    assert settings == Settings(control="127.0.0.1:50051", inference="127.0.0.1:8001", token=None, tls_ca=None)


def test_a_local_service_goes_before_the_defaults(tmp_path: Path) -> None:
    write_control_file(tmp_path, token_file=str(token_file(tmp_path)))
    settings = read_settings(environ={}, folder=tmp_path)
    assert (settings.control, settings.inference, settings.token) == ("127.0.0.1:11", "127.0.0.1:12", "secret")


def test_the_environment_goes_before_a_local_service_and_flags_before_both(tmp_path: Path) -> None:
    write_control_file(tmp_path)
    environ = {"BATCHYARD_CONTROL": "127.0.0.1:21", "BATCHYARD_INFERENCE": "127.0.0.1:22"}
    settings = read_settings(control="127.0.0.1:31", environ=environ, folder=tmp_path)
    assert (settings.control, settings.inference) == ("127.0.0.1:31", "127.0.0.1:22")


def test_a_local_services_token_goes_nowhere_else(tmp_path: Path) -> None:
    write_control_file(tmp_path, token_file=str(token_file(tmp_path)))
    assert read_settings(control="192.0.2.1:50051", environ={}, folder=tmp_path).token is None
    assert read_settings(control="127.0.0.1:11", environ={}, folder=tmp_path).token == "secret"


def test_a_token_file_comes_from_the_environment(tmp_path: Path) -> None:
    environ = {"BATCHYARD_TOKEN_FILE": str(token_file(tmp_path))}
    assert read_settings(environ=environ, folder=tmp_path).token == "secret"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_that_others_may_read_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, mode)
    with pytest.raises(ConfigurationError, match=f"mode is {mode:04o}") as caught:
        Client(token_file=path)
    assert caught.value.hint == f"Run: chmod 600 {path}"


@pytest.mark.parametrize(("text", "words"), [("", "empty"), ("\n", "empty"), ("schlüssel", "ascii")])
def test_a_token_file_without_a_usable_token_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_settings(token_file=token_file(tmp_path, text=text), environ={}, folder=tmp_path)


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no-such-token"):
        read_settings(token_file=tmp_path / "no-such-token", environ={}, folder=tmp_path)


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:50051 unencrypted"):
        Settings(control="192.0.2.1:50051", token="secret")
    assert Settings(control="192.0.2.1:50051", inference="192.0.2.1:1", token="secret", tls_ca="system").token


@pytest.mark.parametrize(
    "address", ["50051", "localhost", "localhost:", ":50051", "localhost:0", "localhost:99999", "h:x"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ConfigurationError, match="expected host:port"):
        Client(address)


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_a_damaged_control_file_is_named(tmp_path: Path, text: str) -> None:
    write_control_file(tmp_path)
    (tmp_path / "batchyard-data" / "control.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"control\.json"):
        read_settings(environ={}, folder=tmp_path)


@pytest.mark.parametrize(("text", "words"), [(None, "No such file"), ("no certificate", "not a PEM certificate")])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        Client(tls_ca=str(path))


def test_jobs_are_submitted_for_whom_the_environment_names_or_else_for_who_runs_this() -> None:
    assert current_user({"BATCHYARD_USER": "ann"}) == "ann"
    assert current_user({}) == getpass.getuser()


def test_a_user_that_no_service_would_take_is_refused_here() -> None:
    with pytest.raises(ConfigurationError, match="BATCHYARD_USER: 'ann smith' given; expected 1 to 64 letters"):
        current_user({"BATCHYARD_USER": "ann smith"})
