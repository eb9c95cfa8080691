"""What it costs to be seen: `python -m benchmarks.observing [CASE ...]`.

A run with a metrics endpoint that is scraped each second and with metrics and traces sent by OTLP, beside the same run
without; a run with `tap` attached, beside the same run without. The receiver is a server of this process that counts what
it gets. Prints a table in Markdown.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.measure import Failed
from benchmarks.streams.case import (
    DATAFLARE,
    OURS,
    Bench,
    Outcome,
    Way,
    inverted,
    shown,
    spread,
    turns,
    workflow,
)
from benchmarks.streams.command import main

PLAIN = "not observed"
LEAST, LEAST_TAPPED = 0.97, 0.95


def definition(rows: int, rate: str | None) -> dict[str, Any]:
    columns = {
        "id": {"sequence": 0},
        "status": {"choice": ["active", "idle", "gone"]},
        "amount": {"float": [0, 1000]},
    }
    config: dict[str, Any] = {"columns": columns, "rows": rows}
    if rate is not None:
        config["rate"] = rate
    derive = {"tax": "round(amount * 0.19, 2)", "label": "concat(status, '-', id)"}
    return {
        "settings": {"checkpoint": {"interval": "1s"}},
        "sources": {"made": {"type": "generate", "config": config}},
        "transformations": {
            "active": {"type": "filter", "inputs": ["made"], "config": {"condition": "id >= 0"}},
            "taxed": {"type": "map", "inputs": ["active"], "config": {"derive": derive}},
        },
        "destinations": {"out": {"type": "blackhole", "inputs": ["taxed"]}},
    }


def ways(bench: Bench, rows: int, rate: str | None, more: Callable[[], list[str]]) -> list[Way]:
    """more: what the first of two equal commands has besides."""
    command = [*workflow(bench, "seen", definition(rows, rate)), "--json"]

    def count(name: str) -> Callable[[], int]:
        def counted() -> int:
            text = (bench.scratch / name / "stderr.txt").read_text()
            return int(json.loads(text.splitlines()[-1])["steps"]["out"]["rows_in"])

        return counted

    return [
        Way(OURS, [*command, *more()], count(OURS)),
        Way(PLAIN, command, count(PLAIN)),
    ]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes what is sent by OTLP. bodies: how many came."""

    bodies = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Receiver.bodies += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def receiver() -> Iterator[int]:
    """The port of a server in a thread."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def scraper(port: int) -> Iterator[list[int]]:
    """Reads a metrics endpoint each second, while there is one. The sizes of its answers."""
    stopped, sizes = threading.Event(), list[int]()

    def scrape() -> None:
        while not stopped.wait(1.0):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer,
            ):
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        stopped.set()
        thread.join()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def observed(bench: Bench, case: str, rows: int, rate: str | None) -> Outcome:
    port = free_port()
    target = bench.stack.enter_context(receiver())
    scraped = bench.stack.enter_context(scraper(port))
    Receiver.bodies = 0
    more = ["--metrics", f"127.0.0.1:{port}", "--otlp", f"http://127.0.0.1:{target}"]
    outcome = cost(bench, case, ways(bench, rows, rate, lambda: more), rows, LEAST)
    if not Receiver.bodies or not scraped:
        raise Failed(f"{case}: {Receiver.bodies} messages of OTLP, {len(scraped)} scrapes")
    return outcome


def cost(bench: Bench, case: str, both: list[Way], rows: int, least: float) -> Outcome:
    """The ratio of CPU: its noise is smaller than that of time."""
    ours, plain, again = turns(bench, both, rows)
    ratio = plain.cpu.median / ours.cpu.median
    outcome = Outcome(case, f"CPU at least {least:g}", shown(ours, rows), shown(plain, rows))
    outcome.ratio = f"CPU {ratio:.3f}; speed {spread(inverted(ours.against[PLAIN]))}"
    outcome.control = (
        f"CPU {plain.cpu.median / again.cpu.median:.3f}; {spread(again.against[PLAIN])}"
    )
    outcome.met = ratio >= least
    return outcome


def unpaced(bench: Bench) -> Outcome:
    return observed(bench, "metrics and traces, as fast as it goes", bench.rows(60_000_000), None)


def paced(bench: Bench) -> Outcome:
    rows = bench.rows(500_000)
    return observed(bench, "metrics and traces, 50,000 rows/s", rows, "50000/s")


def tapped(bench: Bench) -> Outcome:
    rows = bench.rows(60_000_000)
    both = ways(bench, rows, None, list)
    home = bench.scratch / ".dataflare"
    taps: list[subprocess.Popen[bytes]] = []

    def attach() -> None:
        """Try until the run is there."""
        command = (
            f"until {DATAFLARE} tap seen taxed --rate 100 >> rows.txt 2>> taps.txt; do :; done"
        )
        taps.append(subprocess.Popen(["timeout", "60", "bash", "-c", command], cwd=home.parent))

    def detach() -> None:
        for tap in taps:
            tap.terminate()
            tap.wait(10)
        taps.clear()

    ours = Way(OURS, both[0].command, counted_and(both[0].count, detach), attach)
    outcome = cost(bench, "tap, 100 rows/s of one step", [ours, both[1]], rows, LEAST_TAPPED)
    seen = (home.parent / "rows.txt").read_text().count("\n")
    if not seen:
        raise Failed("tap has seen no row")
    outcome.case += f" ({seen} rows seen)"
    return outcome


def counted_and(count: Callable[[], int], then: Callable[[], None]) -> Callable[[], int]:
    def counted() -> int:
        then()
        return count()

    return counted


CASES: Mapping[str, Callable[[Bench], Outcome]] = {
    "unpaced": unpaced,
    "paced": paced,
    "tapped": tapped,
}


if __name__ == "__main__":
    sys.exit(main("benchmarks.observing", __doc__, CASES, sys.argv[1:]))
