"""The compose files: what they build and mount exists; nothing is open to other machines without TLS and a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchyard.control.settings import Settings
from batchyard.endpoint.security import Security, SecurityError, is_loopback

from .test_docker import accepts, command_line

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/compose"
MODULES = {"control": "batchyard.control", "inference": "batchyard.serving"}
PORTS = {"control": {"50051", "8080"}, "inference": {"8001", "8002"}, "prometheus": {"9090"}, "grafana": {"3000"}}


def test_the_services_are_both_planes_prometheus_and_grafana(compose: dict[str, Any]) -> None:
    assert compose["services"].keys() == PORTS.keys()


def test_builds_start_at_the_top_of_the_repository_with_a_dockerfile_that_exists(compose: dict[str, Any]) -> None:
    for name in MODULES:
        build = compose["services"][name]["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()


def test_other_images_are_pinned_to_a_release(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert tag.lstrip("v").replace(".", "").isdigit(), name


def test_every_file_that_is_mounted_exists(compose: dict[str, Any], compose_tls: dict[str, Any]) -> None:
    for configuration in (compose, compose_tls):
        for name, service in configuration["services"].items():
            for volume in service.get("volumes", []):
                source = volume.rsplit(":", 2)[0] if volume.endswith(":ro") else volume.rsplit(":", 1)[0]
                if source.startswith("${"):
                    assert source.endswith(":-./datasets}"), "the user's own folder"
                elif source.startswith("."):
                    assert (FOLDER / source).exists(), (name, volume)
                    assert volume.endswith(":ro")
                else:
                    assert source in configuration["volumes"], (name, volume)


def test_ports_are_published_on_this_machine_alone(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        published = [port.split(":") for port in service["ports"]]
        assert {address for address, _, _ in published} == {"127.0.0.1"}
        assert {inner for _, _, inner in published} == PORTS[name]


def test_every_service_says_when_it_is_well_and_none_runs_with_more_rights_than_it_needs(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        assert "healthcheck" in service or name in MODULES, "our own images bring theirs"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


def test_services_wait_for_those_they_need(compose: dict[str, Any]) -> None:
    assert compose["services"]["inference"]["depends_on"] == {"control": {"condition": "service_healthy"}}
    assert compose["services"]["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("kind", ["compose", "compose_tls"])
def test_the_commands_are_understood_and_may_bind_what_they_bind(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    service = request.getfixturevalue(kind)["services"][name]
    entrypoint = command_line(ROOT / service["build"]["dockerfile"])

    given = accepts(MODULES[name], [*entrypoint[3:], *service["command"]])

    guarded = bool(given.tls_cert and given.tls_key and given.token_file)
    assert not is_loopback(given.grpc)
    assert not is_loopback(given.http)
    assert guarded != given.insecure, "either TLS with a token, or --insecure behind loopback ports; never both or none"
    assert guarded == (kind == "compose_tls")
    opened = {port.rpartition(":")[2] for port in service["ports"]}
    assert opened == {given.grpc.rpartition(":")[2], given.http.rpartition(":")[2]}
    if not guarded:
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_planes_refuse_what_compose_would_be_without_its_guards(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="can be reached from other machines"):
        Settings(data_dir=tmp_path, grpc="0.0.0.0:50051", inference=False, security=Security())


def test_secrets_named_in_commands_are_handed_to_the_service(compose_tls: dict[str, Any]) -> None:
    for name in MODULES:
        service = compose_tls["services"][name]
        paths = (part for part in service["command"] if part.startswith("/run/secrets/"))
        assert {Path(path).name for path in paths} == set(service["secrets"])
    for service in compose_tls["services"].values():
        assert set(service.get("secrets", [])) <= compose_tls["secrets"].keys()


def test_the_inference_plane_reads_artifacts_where_the_control_plane_writes_them(compose: dict[str, Any]) -> None:
    control, inference = compose["services"]["control"], compose["services"]["inference"]

    assert "data:/data" in control["volumes"]
    assert "data:/data:ro" in inference["volumes"]
    given = accepts(
        "batchyard.control", [*command_line(ROOT / control["build"]["dockerfile"])[3:], *control["command"]]
    )
    assert str(given.data_dir) == "/data"
    assert given.no_inference
    asked = accepts(
        "batchyard.serving", [*command_line(ROOT / inference["build"]["dockerfile"])[3:], *inference["command"]]
    )
    assert asked.control == f"control:{given.grpc.rpartition(':')[2]}"
