"""Storage on a real S3 server, and what it says when it cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.artifact import writer
from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.reader import read_manifest
from batchyard.artifact.storage import Folder, StorageError, probe
from tests import s3

ROOT = f"s3://{s3.BUCKET}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


def said(uri: str, environment: dict[str, str], before: str = "") -> str:
    """What `probe` says of `uri` in a process with this environment."""
    code = f"from batchyard.artifact.storage import probe, StorageError\n{before}\ntry:\n    probe({uri!r})\n"
    code += "except StorageError as error:\n    print(error.passing, error)\n"
    command = [sys.executable, "-W", "error", "-c", code]
    whole = {**s3.without_settings(), **environment}
    done = subprocess.run(command, env=whole, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_written_can_be_read_listed_and_removed(server: dict[str, str]) -> None:
    folder = Folder(f"{ROOT}/first")
    assert folder.names() == []
    folder.write("a", b"1")
    folder.below("b").write("c", b"2")
    assert sorted(folder.names()) == ["a", "b"]
    assert (folder.read("b/c"), folder.exists("b"), folder.exists("z")) == (b"2", True, False)
    folder.remove("b")
    folder.remove("nothing")
    assert s3.keys(server, "first") == ["first/a"]


def test_what_another_process_writes_and_removes_is_seen_at_once(server: dict[str, str]) -> None:
    folder = Folder(f"{ROOT}/second")
    assert (folder.names(), folder.exists("a")) == ([], False)
    s3.bucket(server).put_object(Key="second/a", Body=b"1")
    assert (folder.names(), folder.exists("a")) == (["a"], True)
    s3.bucket(server).delete_objects(Delete={"Objects": [{"Key": "second/a"}]})
    assert (folder.names(), folder.exists("a")) == ([], False)


def test_a_file_that_is_not_there_is_not_found(server: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError):
        Folder(f"{ROOT}/third").read("a")


def test_what_a_write_has_left_half_done_is_written_over_and_a_whole_one_is_not(server: dict[str, str]) -> None:
    files = {"model.onnx": b"graph", "manifest.json": b"{}"}
    Folder(f"{ROOT}/half").write("model.onnx", b"gra")
    writer.write_folder(f"{ROOT}/half", files)
    assert Folder(f"{ROOT}/half").read("model.onnx") == b"graph"
    with pytest.raises(ArtifactError, match="exists already"):
        writer.write_folder(f"{ROOT}/half", files)
    writer.remove(f"{ROOT}/half")
    writer.remove(f"{ROOT}/half")
    assert s3.keys(server, "half") == []


def test_a_probe_leaves_nothing(server: dict[str, str], tmp_path: Path) -> None:
    probe(f"{ROOT}/probed")
    probe(f"file://{tmp_path}/probed")
    assert s3.keys(server, "probed") == []
    assert list((tmp_path / "probed").iterdir()) == []


def test_a_bucket_that_does_not_exist_is_named(server: dict[str, str]) -> None:
    with pytest.raises(StorageError, match="create the bucket 'nobody', or correct the URI") as found:
        probe("s3://nobody/models")
    assert not found.value.passing
    with pytest.raises(ArtifactError, match="'nobody'"):
        read_manifest("s3://nobody/models/one")


def test_missing_credentials_say_where_they_go(server: dict[str, str]) -> None:
    kept = {name: server[name] for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED", "AWS_DEFAULT_REGION")}
    text = said(f"{ROOT}/models", kept)
    assert text.startswith(f"False {ROOT}/models/.probe-")
    assert "no credentials were found" in text
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in text


def test_a_missing_package_says_what_to_install(server: dict[str, str]) -> None:
    text = said(f"{ROOT}/models", server, before="import sys; sys.modules['s3fs'] = None")
    expected = f"{ROOT}/models: the package for s3:// is not installed: pip install 'batchyard[s3]'"
    assert text == f"False {expected}"


def test_a_protocol_that_nobody_knows_is_named() -> None:
    with pytest.raises(StorageError, match="nosuch://bucket cannot be opened"):
        Folder("nosuch://bucket")


def test_a_store_out_of_reach_may_come_back(server: dict[str, str]) -> None:
    text = said(f"{ROOT}/models", {**server, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    assert text.startswith(f"True {ROOT}/models/.probe-")
    assert "cannot be used now: EndpointConnectionError" in text
