"""Who may bind what, and whose token is taken."""

from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from batchyard.endpoint.security import Security, SecurityError, is_loopback, read_token, web_middleware

TOKEN = "a-token-of-some-length"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:0", "[::1]:80", "localhost:5", "unix:/tmp/x"])
def test_loopback_may_be_bound_without_anything(address: str) -> None:
    Security().check_bind(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1", ":1", "::1"])
def test_other_addresses_are_refused_with_the_way_out(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(SecurityError, match="--tls-cert, --tls-key and --token-file"):
        Security().check_bind(address)


def test_insecure_says_that_the_network_is_trusted() -> None:
    Security(insecure=True).check_bind("0.0.0.0:1")


def test_a_token_alone_does_not_open_an_address(token_file: Path) -> None:
    with pytest.raises(SecurityError):
        Security(token_file=token_file).check_bind("0.0.0.0:1")


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="go together"):
        Security(tls_cert=tmp_path / "cert.pem")


def test_a_token_file_that_others_can_read_is_refused(token_file: Path) -> None:
    token_file.chmod(0o640)
    with pytest.raises(SecurityError, match=f"chmod 600 {token_file}"):
        read_token(token_file)


@pytest.mark.parametrize("content", ["", "short", "two words of enough length", "naïve-token-of-some-length"])
def test_a_token_that_is_none_is_refused(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    with pytest.raises(SecurityError, match="one word of at least 16"):
        read_token(token_file)


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="absent: No such file"):
        Security(token_file=tmp_path / "absent")


@pytest.mark.parametrize("given", [None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"])
def test_only_the_whole_token_is_admitted(token_file: Path, given: str | None) -> None:
    security = Security(token_file=token_file)
    assert not security.admits(given)
    assert security.admits(f"Bearer {TOKEN}")


async def fetch(security: Security, path: str, headers: dict[str, str]) -> int:
    app = web.Application(middlewares=[web_middleware(security)])

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="here")

    for route in ("/", "/healthz", "/static/app.js", "/api/jobs", "/metrics"):
        app.router.add_get(route, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as reply:
            return reply.status
    finally:
        await runner.cleanup()


async def test_the_page_is_open_and_the_data_behind_it_asks_for_the_token(token_file: Path) -> None:
    security = Security(token_file=token_file)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert [await fetch(security, p, {}) for p in ("/", "/healthz", "/static/app.js")] == [200, 200, 200]
    assert [await fetch(security, p, {}) for p in ("/api/jobs", "/metrics")] == [401, 401]
    assert [await fetch(security, p, bearer) for p in ("/api/jobs", "/metrics")] == [200, 200]


async def test_a_page_elsewhere_that_rebinds_its_name_gets_nothing() -> None:
    assert await fetch(Security(), "/api/jobs", {"Host": "evil.example:8080"}) == 403
    assert await fetch(Security(), "/api/jobs", {"Host": "localhost"}) == 200
    assert await fetch(Security(), "/api/jobs", {}) == 200
