"""Tables in an object store behind a network that breaks, and two runs that write one table at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_kit import KINDS, Lake
from servers import services
from servers.aws import AwsServer
from servers.s3 import KEYS, empty

from dataflare.testing import FaultProxy, Faults

pytestmark = pytest.mark.rotates(2)

ROWS = 1_000
CUTS = {"delta": (300, 6_000), "iceberg": (500, 12_000)}
"""After how many bytes connections break. Iceberg makes several times the requests of Delta."""
WORKFLOW = """\
name: NAME
settings:
  checkpoint: {interval: 30ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 200ms}
sources:
  s:
    type: generate
    config: {rows: 1000, rate: 8000/s, columns: {id: {sequence: START}}}
destinations:
  d:
    type: KIND
    inputs: [s]
    config: {CONFIG}
    error_handling: {retry_policy: {max_attempts: 1000, initial_backoff: 20ms, max_backoff: 200ms}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[AwsServer]:
    for made in services.running("aws"):
        empty(made.endpoint, "lake")
        yield made


def filled(lake: Lake, name: str, first: int) -> str:
    place = lake.place or "lake"
    config = {
        "delta": f"path: {place}/t",
        "iceberg": f"catalog: {{type: sql, uri: 'sqlite:///catalog.db', warehouse: '{place}'}}, table: shop.t",
    }[lake.kind]
    text = WORKFLOW.replace("NAME", name).replace("START", str(first))
    return text.replace("KIND", lake.kind).replace("CONFIG", config)


def ids(lake: Lake) -> list[int]:
    return sorted(lake.frame()["id"].to_list())


def start(lake: Lake, name: str, first: int) -> subprocess.Popen[str]:
    """A run in a process of its own: deltalake waits for the network with the interpreter's lock, which the proxy needs."""
    file = lake.folder / f"{name}.yaml"
    file.write_text(filled(lake, name, first))
    return subprocess.Popen(
        [sys.executable, "-m", "dataflare", "run", "--quiet", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_comes_once_over_a_network_that_breaks(
    kind: str, server: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**KEYS, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    lake = Lake(kind, tmp_path, f"s3://lake/{kind}-broken")
    with FaultProxy("127.0.0.1", server.port, seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        proxy.faults = Faults(cut_after=CUTS[kind], jitter_s=0.002, reset=True)
        finish(start(lake, "broken", 0))
        assert proxy.broken
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    assert ids(lake) == list(range(ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_at_once_write_each_of_their_rows_once(kind: str, tmp_path: Path) -> None:
    lake = Lake(kind, tmp_path)
    both = [start(lake, name, first) for name, first in (("one", 0), ("two", ROWS))]
    for process in both:
        finish(process)
    assert ids(lake) == list(range(2 * ROWS))
