"""A lookup in a Redis that speaks TLS alone, with a certificate made for the occasion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import redis as servers
from servers.certificates import make_certificate
from test_redis_lookup import flow, out, raised, start

from dataflare.errors import Retry
from dataflare.jobs.inspect import inspect
from dataflare.workflow.load import load_text


@pytest.fixture(scope="module")
def secure() -> Iterator[servers.RedisServer]:
    with servers.server(tls=True) as made:
        yield made


def test_rows_come_over_tls(secure: servers.RedisServer, tmp_path: Path) -> None:
    with secure.client() as client:
        client.hset("customer:7", "name", "Ada")
    result = start(tmp_path, flow(secure.url))
    assert result.status == "finished", result.error
    assert out(tmp_path)[0]["name"] == "Ada"
    (found,) = [e for e in inspect(load_text(flow(secure.url), base=tmp_path)) if e.step == "named"]
    assert found.facts["server"] == f"localhost:{secure.port}/0"


def test_another_certificate_is_refused(secure: servers.RedisServer, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    make_certificate(other, tmp_path / "other.key")
    for url in (
        secure.url.replace(str(secure.certificate), str(other)),
        secure.url.partition("?")[0],
    ):
        error = raised(tmp_path, flow(url))
        assert error.code == "E0609"
        assert f"no TLS connection to localhost:{secure.port}/0" in error.message
        assert "self-signed certificate" in error.message or "verify failed" in error.message
        assert error.retry is Retry.NEVER
        assert "ssl_ca_certs" in (error.help or "")


def test_a_name_that_the_certificate_does_not_have_is_refused(
    secure: servers.RedisServer, tmp_path: Path
) -> None:
    error = raised(tmp_path, flow(secure.url.replace("@localhost", "@127.0.0.1")))
    assert error.code == "E0609"
    assert "127.0.0.1" in error.message


def test_a_missing_file_of_certificates_is_named(
    secure: servers.RedisServer, tmp_path: Path
) -> None:
    url = secure.url.replace(str(secure.certificate), "/nowhere.crt")
    error = raised(tmp_path, flow(url))
    assert error.code == "E0609"
    assert "/nowhere.crt" in error.message


def test_tls_and_plain_do_not_meet(secure: servers.RedisServer, tmp_path: Path) -> None:
    error = raised(tmp_path, flow(secure.url.partition("?")[0].replace("rediss", "redis")))
    assert error.code in ("E0607", "E0609")
    assert "rediss://" in (error.help or "")
