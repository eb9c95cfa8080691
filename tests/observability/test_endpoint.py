"""Metrics of a run that lives, over HTTP, as the library of Prometheus reads them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataflare import load
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, arun
from dataflare.jobs.watching import Watch
from dataflare.observability.endpoint import parsed, serving
from dataflare.observability.table import METRICS
from dataflare.observability.view import RunView

WORKFLOW = """\
name: seen
settings: {checkpoint: {interval: 50ms}}
sources:
  numbers: {type: generate, config: {rate: 2000/s, columns: {n: {sequence: 0}}}}
transformations:
  odd: {type: map, inputs: [numbers], config: {derive: {half: "cast(n / 2 as int64)"}}}
destinations:
  out: {type: sqlite, inputs: [odd], config: {path: out.db, table: t}}
"""


def get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_that_lives_is_scraped(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    seen: dict[str, tuple[int, str]] = {}

    async def work() -> None:
        enough = threading.Event()
        url = ""

        @contextmanager
        def observer(watch: Watch) -> Iterator[None]:
            nonlocal url
            with serving("127.0.0.1", 0, lambda: [watch.ask()]) as port:
                url = f"http://127.0.0.1:{port}"
                enough.set()
                yield

        options = RunOptions(tmp_path / "home", observers=[observer])
        running = asyncio.ensure_future(arun(load(tmp_path / "w.yaml"), options))
        while not enough.is_set():
            await asyncio.wait([running], timeout=0.01)

        def until_rows() -> None:
            key = ("dataflare_checkpoints_total", frozenset({("workflow", "seen"), ("result", "completed")}))  # fmt: skip
            while samples((got := get(f"{url}/metrics"))[1]).get(key, 0) < 3:
                assert not running.done()
            seen["metrics"] = got
            for path in ("health/live", "health/ready", "else"):
                seen[path] = get(f"{url}/{path}")

        await asyncio.to_thread(until_rows)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(work())
    status, text = seen["metrics"]
    families = {family.name for family in text_string_to_metric_families(text)}
    assert status == 200
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= families
    got = samples(text)

    def value(name: str, **labels: str) -> float:
        return got[name, frozenset({"workflow": "seen", **labels}.items())]

    rows = value("dataflare_rows_total", step="out", direction="out")
    assert rows > 0
    assert value("dataflare_latency_seconds_count", step="out") == rows
    assert value("dataflare_latency_seconds_bucket", step="out", le="+Inf") == rows
    assert value("dataflare_task_seconds_total", step="numbers", state="waiting") > 0
    assert value("dataflare_up") == 1
    assert value("dataflare_process_resident_memory_bytes") > 10e6
    assert seen["health/live"][0] == 200
    assert json.loads(seen["health/ready"][1]) == {"status": "ok", "runs": {"seen": "running"}}
    assert seen["else"][0] == 404


def test_a_process_that_does_not_answer_is_not_live() -> None:
    def silent() -> Sequence[RunView]:
        raise TimeoutError

    with serving("127.0.0.1", 0, silent) as port:
        for path in ("metrics", "health/live", "health/ready"):
            assert get(f"http://127.0.0.1:{port}/{path}")[0] == 503
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"http://127.0.0.1:{port}/metrics", data=b"x"), timeout=10)
        assert refused.value.code == 405
        refused.value.close()


def test_an_address_that_is_taken_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(DataFlareError, match="metrics cannot be served") as error,
            serving("127.0.0.1", taken.getsockname()[1], list),
        ):
            pass
    assert error.value.code == "E0607"


def test_a_client_that_goes_early_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with serving("127.0.0.1", 0, list) as port:
        for sent in (
            b"",
            b"GET /met",
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\xff\x00\r\n\r\n",
        ):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(sent)
            client.close()  # with a reset
        assert get(f"http://127.0.0.1:{port}/health/live")[0] == 200
        while any(
            t.name.startswith("Thread") and "process_request" in t.name
            for t in threading.enumerate()
        ):
            pass
    assert capfd.readouterr().err == ""


def test_an_address_of_ipv6_is_served() -> None:
    with serving("::1", 0, list) as port:
        assert get(f"http://[::1]:{port}/metrics")[0] == 200


def test_addresses() -> None:
    assert parsed("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parsed("[::1]:9464") == ("::1", 9464)
    assert parsed(":9464") == ("127.0.0.1", 9464)
    for wrong in ("9464", "localhost", "h:x", "h:70000", "h:²", "h:٩٤٦٤"):
        with pytest.raises(ValueError, match=wrong):
            parsed(wrong)


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith(".")
