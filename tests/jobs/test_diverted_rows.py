"""`fallback: DESTINATION`: while a destination's breaker is open, its rows go to another destination, each to one of both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.web import Answer, Asked, http_server

from dataflare.errors import DataFlareError
from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.jobs.watching import Watch
from dataflare.observability.table import METRICS
from dataflare.planner import check, plan
from dataflare.workflow.load import load_text

ROWS = 6_000
FLOW = """\
name: diverted
settings: {parallelism: 2, checkpoint: {interval: 20ms}, batch: {initial: 100, min: 100, max: 100}RUN_COLUMN}
sources:
  rows: {type: generate, config: {columns: {id: {sequence: 0}}, rows: ROWS, rate: RATE}}
destinations:
  spill: {type: sqlite, inputs: [FIRST], config: {path: spill.db, table: t}}
  FIRST:
    type: TYPE
    inputs: [rows]
    config: {CONFIG}
    error_handling:
      retry_policy: {max_attempts: 200, initial_backoff: 1ms, max_backoff: 1ms}
      circuit_breaker: {failure_rate: 0.2, window: 60s, recovery: RECOVERY, fallback: spill}
"""


def flow(url: str, *, recovery: str = "60s", rate: str = "1000000/s", run_column: str = "") -> str:
    text = FLOW.replace("FIRST", "hook").replace("TYPE", "http").replace("RECOVERY", recovery)
    text = text.replace("CONFIG", f'url: "{url}", batch_size: 70').replace("RATE", rate)
    return text.replace("ROWS", str(ROWS)).replace("RUN_COLUMN", run_column)


def spilled(folder: Path) -> list[int]:
    """The rows that are committed in the destination of the fallback."""
    with contextlib.closing(sqlite3.connect(folder / "spill.db", timeout=30)) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 't'")
        if tables.fetchone() == (0,):
            return []
        return [id_ for (id_,) in database.execute("SELECT id FROM t")]


class Hook:
    """A server that takes rows. is_away: asked before each answer; while it says so, it takes none."""

    def __init__(self) -> None:
        self.lock, self.refused = threading.Lock(), 0
        self.taken: list[int] = []
        self.is_away: Callable[[], bool] = lambda: False

    def __call__(self, asked: Asked) -> Answer:
        with self.lock:
            if self.is_away():
                self.refused += 1
                return Answer(None, 503)
            self.taken.extend(row["id"] for row in asked.json())
            return Answer()


def start(folder: Path, text: str, said: list[str] | None = None, **options: object) -> RunResult:
    def listen(progress: Progress) -> None:
        if said is not None and progress.message is not None:
            said.append(progress.message)

    workflow = load_text(text, base=folder)
    return run(workflow, RunOptions(folder / "home", listener=listen, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("run_column", ["", ", run_column: _run"])
def test_rows_for_a_system_that_is_away_go_to_the_other_destination(
    tmp_path: Path, run_column: str
) -> None:
    hook, watches, said = Hook(), list[Watch](), list[str]()

    @contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        watches.append(watch)
        yield

    hook.is_away = lambda: len(hook.taken) >= 300
    with http_server(hook) as server:
        text = flow(server.url, rate="6000/s", run_column=run_column)
        result = start(tmp_path, text, said, observers=[observed])
    assert result.status == "finished", result.error
    rows = spilled(tmp_path)
    assert sorted([*hook.taken, *rows]) == list(range(ROWS))
    assert len(hook.taken) >= 300
    steps = result.to_json()["steps"]
    assert steps["hook"]["rows_out"] == len(hook.taken)
    assert steps["hook"]["diverted"] == {"spill": len(rows)}
    assert (steps["hook"]["errors"], steps["hook"]["dead_letters"]) == (0, 0)
    assert (steps["spill"]["rows_in"], steps["spill"]["rows_out"]) == (len(rows), len(rows))
    told = f"step 'hook': {len(rows):,} rows went to 'spill' instead, while its circuit breaker was open"
    assert told in result.warnings
    assert "step 'hook': its rows go to 'spill' while its circuit breaker is open" in said
    (metric,) = [each for each in METRICS if each.name == "dataflare_diverted_rows_total"]
    assert [*metric.read(watches[0].view())] == [(("hook", "spill"), len(rows))]
    if run_column:
        with contextlib.closing(sqlite3.connect(tmp_path / "spill.db")) as database:
            runs = database.execute("SELECT DISTINCT _run FROM t").fetchall()
        assert runs == [(result.run_id,)]


def test_a_system_that_comes_back_gets_its_rows_again(tmp_path: Path) -> None:
    hook, said = Hook(), list[str]()

    hook.is_away = lambda: len(hook.taken) >= 300 and hook.refused < 6
    with http_server(hook) as server:
        result = start(tmp_path, flow(server.url, recovery="20ms", rate="1500/s"), said)
    assert result.status == "finished", result.error
    rows = spilled(tmp_path)
    assert sorted([*hook.taken, *rows]) == list(range(ROWS))
    assert max(hook.taken) > max(rows), "it got rows after it came back"
    assert hook.taken == sorted(hook.taken)
    assert rows == sorted(rows)
    assert "step 'hook': it takes all again" in said


@pytest.mark.parametrize("phase", ["away", "back"])
def test_a_kill_leaves_each_row_in_one_of_both(tmp_path: Path, phase: str) -> None:
    """SIGKILL while rows go elsewhere, and after the system has come back. What was committed in the one is not sent to the
    other by the run that goes on; the system itself gets again what it got since the last checkpoint, as always."""
    hook, killed = Hook(), threading.Event()
    is_back, taken_then = threading.Event(), [0]
    processes: list[subprocess.Popen[bytes]] = []

    def kill() -> bool:
        os.kill(processes[0].pid, signal.SIGKILL)
        killed.set()
        return True

    def is_away() -> bool:
        if killed.is_set() or len(hook.taken) < 300:
            return False
        if not is_back.is_set() and len(spilled(tmp_path)) >= 400:
            is_back.set()
            taken_then[0] = len(hook.taken)
            return phase == "back" or kill()
        if is_back.is_set() and len(hook.taken) >= taken_then[0] + 500:
            return kill()
        return not is_back.is_set()

    hook.is_away = is_away
    with http_server(hook) as server:
        (tmp_path / "flow.yaml").write_text(flow(server.url, recovery="20ms", rate="1500/s"))
        command = [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--json"]
        with (tmp_path / "log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
            )
            assert processes[0].wait(120) == -signal.SIGKILL, (tmp_path / "log").read_text()
        before, in_spill = list(hook.taken), spilled(tmp_path)
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["resumed_from"]
    rows = spilled(tmp_path)
    assert killed.is_set()
    assert len(in_spill) >= 400
    assert {*in_spill} <= {*rows}
    assert len({*rows}) == len(rows), "a row was committed twice"
    assert not {*rows} & {*hook.taken}, "a row went to both"
    assert {*rows} | {*hook.taken} == {*range(ROWS)}
    repeated = sorted({*before} & {*hook.taken[len(before) :]})
    if phase == "away":
        assert not repeated
    else:
        assert repeated == before[len(before) - len(repeated) :], "only the last ones come again"


def test_a_search_destination_hands_its_rows_on(tmp_path: Path) -> None:
    """Of a bulk request that fails half-way, what the servers took stays there and the rest goes elsewhere."""
    documents: list[int] = []

    def answer(asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer({"version": {"distribution": "opensearch", "number": "2.19.1"}})
        if asked.path != "/_bulk":
            return Answer({})
        if len(documents) >= 1_000:
            return Answer(None, 500)
        lines = [json.loads(line) for line in asked.body.decode().splitlines()]
        documents.extend(row["id"] for row in lines[1::2])
        return Answer({"errors": False, "items": [{"index": {"status": 201}} for _ in lines[::2]]})

    with http_server(answer) as server:
        config = f'connection: "{server.url}", index: t, id_field: id, batch_size: 30'
        text = FLOW.replace("FIRST", "hook").replace("TYPE", "opensearch")
        text = (
            text.replace("CONFIG", config).replace("RECOVERY", "60s").replace("RATE", "9999999/s")
        )
        result = start(tmp_path, text.replace("ROWS", str(ROWS)).replace("RUN_COLUMN", ""))
    assert result.status == "finished", result.error
    rows = spilled(tmp_path)
    assert sorted([*documents, *rows]) == list(range(ROWS))
    assert len(documents) >= 1_000
    step = result.to_json()["steps"]["hook"]
    assert (step["rows_out"], step["diverted"]) == (len(documents), {"spill": len(rows)})


REFUSED = """\
name: refused
sources:
  rows: {type: inline, config: {rows: [{id: 1, n: 2}]}}
  others: {type: inline, config: {rows: [{id: 1, z: 3}]}}
transformations:
  changes: {type: aggregate, inputs: [rows], config: {group_by: [id], measures: {n: "sum(n)"}, emit: updates}}
destinations:
  first: FIRST
  spill: SPILL
  third: {type: blackhole, inputs: [others]}
  fourth: {type: sqlite, inputs: [changes], config: {path: b.db, table: c, mode: upsert, key: id}}
"""
HOOK = 'type: http, inputs: [rows], config: {url: "http://127.0.0.1:9"}'


def handling(fallback: str) -> str:
    return f"error_handling: {{circuit_breaker: {{fallback: {fallback}}}}}"


@pytest.mark.parametrize(
    ("first", "spill", "told"),
    [
        (f"{{{HOOK}, {handling('spil')}}}", "{type: blackhole, inputs: [rows]}", "did you mean 'spill'"),
        (f"{{{HOOK}, {handling('rows')}}}", "{type: blackhole, inputs: [rows]}", "neither dead_letter nor another destination"),
        (f"{{{HOOK}, {handling('spill')}}}", "{type: blackhole, inputs: [rows]}", "'spill' does not read it"),
        (f"{{{HOOK}}}", "{type: blackhole, inputs: [first]}", "which is a destination"),
        (f"{{{HOOK}, {handling('spill')}}}", "{type: blackhole, inputs: [first, others]}", "takes other columns than 'first'"),
        (
            "{type: sqlite, inputs: [rows], config: {path: a.db, table: t}, " + handling("spill") + "}",
            "{type: blackhole, inputs: [first]}",
            "a destination that sends rows as they come",
        ),
        (
            f"{{{HOOK.replace('[rows]', '[spill]')}, {handling('spill')}}}",
            f"{{{HOOK.replace('[rows]', '[first]')}, {handling('first')}}}",
            "form a circle",
        ),
        (
            "{type: opensearch, inputs: [changes], config: {connection: 'http://127.0.0.1:9', index: t, id_field: id, mode: upsert}, "
            + handling("spill")
            + "}",
            "{type: blackhole, inputs: [first]}",
            "its rows are changes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_fallback_is_refused(
    tmp_path: Path, first: str, spill: str, told: str
) -> None:
    text = REFUSED.replace("FIRST", first).replace("SPILL", spill)
    with pytest.raises(DataFlareError) as raised:
        check(load_text(text, base=tmp_path))
    assert told in f"{raised.value} {raised.value.help}"


def test_the_plan_shows_where_rows_go(tmp_path: Path) -> None:
    view = plan(load_text(flow("http://127.0.0.1:9"), base=tmp_path)).view()
    assert {(e["from"], e["to"]) for e in view["edges"]} == {("rows", "hook"), ("hook", "spill")}
    assert (
        "gets the rows of hook while the circuit breaker" in view["guarantees"]["spill"]["reason"]
    )
    assert view["guarantees"]["spill"]["level"] == "exactly once"
