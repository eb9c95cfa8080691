"""Servers that are away, slow, strict or gone for a while, and runs that are killed; on a real OpenSearch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from search_kit import Place
from servers.certificates import make_certificate
from servers.search_front import GUEST, PASSWORD, Front, front
from servers.web import silent_server

from dataflare.connectors import memory
from dataflare.errors import DataFlareError
from dataflare.testing import source_of

PATIENT = "retry_policy: {max_attempts: 600, initial_backoff: 50ms, max_backoff: 500ms}"
LONG = """\
name: long
settings:
  parallelism: PARALLEL
  checkpoint: {interval: 50ms}
  batch: {initial: 500, min: 500, max: 500}
sources:
  rows: {type: generate, config: {rows: ROWS, seed: 1, columns: {id: {sequence: 0}, v: {int: [0, 9]}}}}
destinations:
  out:
    type: opensearch
    inputs: [rows]
    config: {connection: "URL", index: INDEX, id_field: id, batch_size: 500, MORE}
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("keys")
    make_certificate(folder / "server.crt", folder / "server.key")
    return folder / "server.crt", folder / "server.key"


@pytest.fixture
def plain(place: Place) -> Iterator[Front]:
    with front(place.server.port) as made:
        yield made


@pytest.fixture
def secure(place: Place, keys: tuple[Path, Path]) -> Iterator[Front]:
    with front(place.server.port, certificate=keys[0], key=keys[1]) as made:
        yield made


def failure(place: Place, url: str, more: str = "") -> DataFlareError:
    """The error of a run that writes to a server."""
    more = f"id_field: id, retry_policy: {{max_attempts: 1}}{more}"
    try:
        error = place.write([{"id": 1}], more, url=url).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    shown = f"{error.message} {error.notes} {error.help}"
    assert PASSWORD not in shown
    assert "s3cret" not in shown
    return error


def test_a_login_opens_and_another_one_does_not(place: Place, plain: Front) -> None:
    assert place.write([{"id": 1}], url=plain.url()).error is None
    assert {*place.documents()} == {"1"}
    for url in (plain.url(password="s3cret-wrong"), plain.url("stranger"), plain.address):
        error = failure(place, url)
        assert (error.code, "it does not accept the login" in error.message) == ("E0606", True)


def test_a_missing_right_is_named(place: Place, plain: Front) -> None:
    error = failure(place, plain.url(GUEST))
    assert error.code == "E0602"
    assert "no permissions for [indices:data/write/bulk]" in error.notes[0]
    assert place.write([{"id": 1}]).error is None
    error = failure(place, plain.url(GUEST), ", create_index: false")
    assert error.code == "E0602"


def test_tls_checks_the_certificate_and_the_name(
    place: Place, secure: Front, keys: tuple[Path, Path]
) -> None:
    trusted = f"id_field: id, tls: {{ca: {keys[0]}}}"
    assert place.write([{"id": 1}], trusted, url=secure.url()).error is None
    assert failure(place, secure.url()).code == "E0609"
    other = secure.url().replace("localhost", "127.0.0.1")
    assert failure(place, other, f", tls: {{ca: {keys[0]}}}").code == "E0609"
    unchecked = f"id_field: id, tls: {{ca: {keys[0]}, check_name: false}}"
    assert place.write([{"id": 1}], unchecked, url=other).error is None
    assert failure(place, secure.url(), ", tls: {ca: absent.pem}").code == "E0609"
    assert failure(place, secure.url().replace("https", "http")).code in ("E0607", "E0612")


def test_tls_shows_the_own_certificate_where_it_is_asked_for(
    place: Place, keys: tuple[Path, Path]
) -> None:
    certificate, key = keys
    with front(
        place.server.port, certificate=certificate, key=key, client_ca=certificate
    ) as strict:
        trusted = f"ca: {certificate}"
        assert failure(place, strict.url(), f", tls: {{{trusted}}}").code in ("E0607", "E0609")
        own = f"id_field: id, tls: {{{trusted}, certificate: {certificate}, key: {key}}}"
        assert place.write([{"id": 1}], own, url=strict.url()).error is None


def test_another_server_is_asked_when_one_is_away(place: Place) -> None:
    away = "http://127.0.0.1:1"
    assert place.write([{"id": 1}], url=f"{away},{place.server.url}").error is None
    assert {*place.documents()} == {"1"}
    assert failure(place, away).code == "E0607"


def test_a_server_that_never_answers_is_an_error(place: Place) -> None:
    with silent_server() as url:
        error = failure(place, url, ", timeout: 200ms")
    assert (error.code, "within 0.2 s" in error.message) == ("E0608", True)


def test_elasticsearch_is_asked_for_points_in_time_in_its_own_words(place: Place) -> None:
    assert place.write([{"id": n} for n in range(30)]).error is None
    with front(place.server.port, as_elasticsearch=True) as there:
        memory.clear()
        text = """\
name: read
settings: {parallelism: 1}
sources: {docs: {type: elasticsearch, config: {connection: "URL", index: INDEX, batch_size: 7}}}
destinations: {out: {type: memory, inputs: [docs], config: {name: read}}}
"""
        result = place.run(text, url=there.url())
        assert result.error is None, result.error
    assert sorted(memory.committed("read")["id"]) == [*range(30)]
    asked = [(method, path.partition("?")[0]) for method, path in there.asked]
    assert ("POST", f"/{place.index}/_pit") in asked
    assert ("DELETE", "/_pit") in asked


def test_a_server_that_restarts_in_the_middle_gets_all_rows(place: Place) -> None:
    server = place.server
    text = (
        LONG.replace("PARALLEL", "2")
        .replace("ROWS", "9000")
        .replace("MORE", PATIENT + ", timeout: 5s")
    )
    seen = threading.Event()

    def restart() -> None:
        seen.wait(60)
        server.kill()
        server.start()

    killer = threading.Thread(target=restart)
    killer.start()

    def listen(progress: Any) -> None:
        done = progress.steps.get("out")
        if done is not None and (done.rows_in or 0) > 2_000:
            seen.set()

    result = place.run(text, listener=listen)
    seen.set()
    killer.join()
    assert result.error is None, result.error
    assert [row["id"] for row in sorted(place_rows(place), key=lambda row: row["id"])] == [
        *range(9_000)
    ]


def place_rows(place: Place) -> list[dict[str, Any]]:
    """All documents, also more than one search gives."""
    memory.clear()
    text = """\
name: all
sources: {docs: {type: opensearch, config: {connection: "URL", index: INDEX}}}
destinations: {out: {type: memory, inputs: [docs], config: {name: all}}}
"""
    assert place.run(text, home="all").error is None
    rows: list[dict[str, Any]] = memory.committed("all").to_dicts()
    return rows


@pytest.mark.parametrize("fault", ["reset", "half_open"])
def test_connections_that_break_lose_no_rows(place: Place, fault: str) -> None:
    proxy = place.server.proxy
    text = (
        LONG.replace("PARALLEL", "1")
        .replace("ROWS", "3000")
        .replace("MORE", PATIENT + ", timeout: 2s")
    )
    done = threading.Event()

    def disturb() -> None:
        for _ in range(200):
            if done.wait(0.03):
                break
            getattr(proxy, fault)()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        result = place.run(text, url=place.server.proxied)
    finally:
        done.set()
        disturber.join()
    assert result.error is None, result.error
    assert place.server.count(place.index) == 3_000


def test_a_run_that_is_killed_goes_on_with_another_parallelism(place: Place) -> None:
    place.ask("PUT", "", {"mappings": {"properties": {"id": {"type": "long"}}}})
    file = place.folder / "long.yaml"

    def start(parallel: str) -> subprocess.Popen[bytes]:
        text = LONG.replace("PARALLEL", parallel).replace("ROWS", "15000").replace(", MORE", "")
        file.write_text(text.replace("INDEX", place.index).replace("URL", place.server.url))
        command = [sys.executable, "-m", "dataflare", "run", str(file), "--quiet"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    killed = start("2")
    while killed.poll() is None and place.server.count(place.index) < 1_000:
        pass
    assert killed.poll() is None, "it was done too soon"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = start("1")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said.decode()
    assert place.server.count(place.index) == 15_000
    rows = place_rows(place)
    assert len({json.dumps(row) for row in rows}) == 15_000


def test_check_names_the_server_and_the_index(place: Place) -> None:
    import asyncio

    assert place.write([{"id": 1}]).error is None
    source = source_of("opensearch", {"connection": place.server.url, "index": place.index})
    facts = asyncio.run(source.inspect())
    assert facts == {"server": "OpenSearch 2.19.1", "indexes": "1"}
