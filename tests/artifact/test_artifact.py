from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.manifest import MANIFEST, ONNX_MODEL, SAMPLES, Manifest
from batchyard.artifact.reader import fetch_and_verify, read_manifest, read_samples, verify
from batchyard.artifact.writer import write

Publish = Callable[..., tuple[Path, str]]


def test_what_is_written_is_read_back_whole(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish()
    manifest = fetch_and_verify(str(folder), digest, tmp_path / "cache" / "copy")
    assert manifest == read_manifest(str(folder))
    assert manifest.fold_report[0].gamma == (-1.0,)
    samples = read_samples(tmp_path / "cache" / "copy")
    assert samples.inputs.shape == (2, 1, 2, 2)
    assert samples.outputs.dtype == np.float64


def test_the_returned_digest_is_that_of_the_manifest_file(publish: Publish) -> None:
    folder, digest = publish()
    assert hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() == digest


def test_writing_leaves_no_temporary_folder(publish: Publish) -> None:
    folder, _ = publish()
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_an_artifact_is_never_overwritten(publish: Publish) -> None:
    publish()
    with pytest.raises(ArtifactError, match="exists already"):
        publish()


def test_a_target_that_cannot_be_written_is_named_and_left_clean(
    tmp_path: Path, files: dict[str, bytes], publish: Publish
) -> None:
    manifest = read_manifest(str(publish()[0]))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="file/artifact cannot be written"):
        write(str(tmp_path / "file" / "artifact"), manifest, files)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, files: dict[str, bytes], publish: Publish) -> None:
    manifest = read_manifest(str(publish()[0]))
    with pytest.raises(ArtifactError, match="cannot be written"):
        write(str(tmp_path / "other"), manifest, {**files, "no/such/folder": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_damaged_file_is_named_with_both_digests(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish()
    expected = read_manifest(str(folder)).files[ONNX_MODEL]
    (folder / ONNX_MODEL).write_bytes(b"grapH")
    actual = hashlib.sha256(b"grapH").hexdigest()
    with pytest.raises(ArtifactError, match=rf"{ONNX_MODEL} is damaged.*{actual}.*{expected}"):
        fetch_and_verify(str(folder), digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_another_manifest_is_refused_before_its_files_are_copied(publish: Publish, tmp_path: Path) -> None:
    folder, _ = publish()
    with pytest.raises(ArtifactError, match=rf"{MANIFEST} is damaged.*expected {'a' * 64}"):
        fetch_and_verify(str(folder), "a" * 64, tmp_path / "copy")


def test_a_failed_certificate_is_refused(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish(certified=False)
    with pytest.raises(ArtifactError, match="certificate did not pass"):
        fetch_and_verify(str(folder), digest, tmp_path / "copy")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "..", "a/b", "a\\b", "", MANIFEST])
def test_a_manifest_cannot_name_files_outside_its_folder(publish: Publish, tmp_path: Path, name: str) -> None:
    folder, _ = publish()
    text = dataclasses.replace(read_manifest(str(folder)), files={name: "0" * 64}).to_json().encode()
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(ArtifactError, match="expected plain names"):
        fetch_and_verify(str(folder), hashlib.sha256(text).hexdigest(), tmp_path / "copy")


def test_a_missing_file_is_named(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish()
    (folder / SAMPLES).unlink()
    with pytest.raises(ArtifactError, match=SAMPLES):
        fetch_and_verify(str(folder), digest, tmp_path / "copy")
    with pytest.raises(ArtifactError, match=SAMPLES):
        verify(folder, digest)


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/manifest\.json"):
        read_manifest(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"schema_version": 99})])
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=MANIFEST):
        read_manifest(str(tmp_path))


def test_a_damaged_cached_copy_is_fetched_again(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish()
    copy = tmp_path / "copy"
    fetch_and_verify(str(folder), digest, copy)
    (copy / ONNX_MODEL).write_bytes(b"rot")
    fetch_and_verify(str(folder), digest, copy)
    assert (copy / ONNX_MODEL).read_bytes() == b"graph"


def test_a_whole_cached_copy_needs_no_source(publish: Publish, tmp_path: Path) -> None:
    folder, digest = publish()
    fetch_and_verify(str(folder), digest, tmp_path / "copy")
    assert fetch_and_verify("/no/such/source", digest, tmp_path / "copy").model == "mnist"


def test_samples_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / SAMPLES).write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match=SAMPLES):
        read_samples(tmp_path)


def test_an_object_store_gets_the_manifest_last(files: dict[str, bytes], publish: Publish, tmp_path: Path) -> None:
    manifest = read_manifest(str(publish()[0]))
    digest = write("memory://bucket/mnist/1", manifest, files)
    created = [fsspec.filesystem("memory").created(f"/bucket/mnist/1/{name}") for name in [*files, MANIFEST]]
    assert max(created) == created[-1]
    assert fetch_and_verify("memory://bucket/mnist/1", digest, tmp_path / "copy").files.keys() == files.keys()
    with pytest.raises(ArtifactError, match="exists already"):
        write("memory://bucket/mnist/1", manifest, files)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ArtifactError, match="nosuch://"):
        read_manifest("nosuch://bucket/model")


def test_a_manifest_survives_its_json(publish: Publish) -> None:
    manifest = read_manifest(str(publish()[0]))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_reading_loads_no_torch() -> None:
    code = "import sys, batchyard.artifact.reader, batchyard.artifact.writer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
