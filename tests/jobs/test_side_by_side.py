"""Runs beside each other on one event loop: none gets in another's way, and each can be cancelled."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare import RunOptions, Workflow
from dataflare.checkpoint.lock import lock_state
from dataflare.jobs import arun
from dataflare.sdk.crashpoints import observed
from dataflare.testing import Checkpoint, Lab, Pause, ScriptedSource, rows
from dataflare.workflow.load import load_text

TEXT = """\
name: job-{number}
sources:
  numbers: {{type: generate, config: {{columns: {{n: {{sequence: 0}}}}, rows: {rows}{more}}}}}
transformations:
  own: {{type: python, inputs: [numbers], config: {{function: "steps:step", schema: {{n: int64, who: string}}}}}}
destinations:
  out: {{type: file, inputs: [own], config: {{path: out.ndjson}}}}
"""


def job(folder: Path, number: int, rows: int = 1_000, more: str = "") -> Any:
    folder.mkdir()
    code = f"import polars as pl\ndef step(rows):\n    return rows.with_columns(who=pl.lit('job {number}'))\n"
    (folder / "steps.py").write_text(code)
    return load_text(TEXT.format(number=number, rows=rows, more=more), base=folder)


def test_jobs_with_a_file_of_functions_each_share_an_event_loop(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        jobs = [job(tmp_path / str(n), n) for n in range(5)]
        options = [RunOptions(tmp_path / str(n) / "home") for n in range(5)]
        return await asyncio.gather(*map(arun, jobs, options))

    results = asyncio.run(main())
    assert [r.status for r in results] == ["finished"] * 5, [r.error for r in results]
    for number in range(5):
        lines = (tmp_path / str(number) / "out.ndjson").read_text().splitlines()
        assert len(lines) == 1_000
        assert {json.loads(line)["who"] for line in lines} == {f"job {number}"}


def test_one_that_fails_or_is_cancelled_leaves_the_others_alone(tmp_path: Path) -> None:
    async def main() -> Any:
        good = job(tmp_path / "good", 1, rows=20_000, more=", rate: 40000/s")
        bad = job(tmp_path / "bad", 2)
        (tmp_path / "bad" / "steps.py").write_text("def step(rows):\n    raise ValueError\n")
        endless = job(tmp_path / "endless", 3, rows=10_000_000, more=", rate: 1000/s")
        running = [
            asyncio.ensure_future(arun(each, RunOptions(tmp_path / name / "home")))
            for name, each in (("good", good), ("bad", bad), ("endless", endless))
        ]
        failed = await running[1]
        running[2].cancel()
        return failed, await running[0], await asyncio.gather(running[2], return_exceptions=True)

    failed, finished, (cancelled,) = asyncio.run(main())
    assert (failed.status, finished.status) == ("failed", "finished")
    assert isinstance(cancelled, asyncio.CancelledError)
    assert len((tmp_path / "good" / "out.ndjson").read_text().splitlines()) == 20_000


def test_a_cancelled_run_takes_a_checkpoint_and_the_next_one_goes_on_from_it(
    tmp_path: Path,
) -> None:
    lab, flow = Lab(tmp_path), Workflow("cancelled")
    pause = Pause()
    source = ScriptedSource([*rows(0, 3), Checkpoint(), *rows(3, 5), pause, *rows(5, 8)])
    source.add_to(flow, "in").to("out", "memory")

    async def main() -> None:
        running = asyncio.ensure_future(lab.arun(flow))
        await asyncio.to_thread(pause.wait_reached)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert len(lab.rows("out")) == 5, "what was read before is committed"
    pause.release()
    result = lab.run(flow)
    assert (result.status, result.resumed_from is not None) == ("finished", True)
    assert [row["n"] for row in lab.rows("out")] == list(range(8))


class CancelledAt:
    """Cancels a run a second time when it reaches a place; a thread that reaches it stays there until the event loop
    has done a hundred turns. ended_first: the await had raised by then."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.running: asyncio.Future[Any] | None = None
        self.reached = self.ended_first = False
        self._loop = asyncio.get_running_loop()
        self._go_on = threading.Event()

    def __call__(self, place: str) -> None:
        if place != self.place or self.running is None or self.reached:
            return
        self.reached = True
        if threading.current_thread() is threading.main_thread():
            self.running.cancel()
        else:
            self._loop.call_soon_threadsafe(self._cancel)
            assert self._go_on.wait(30)

    def _cancel(self) -> None:
        assert self.running is not None
        self.running.cancel()
        self._turn(100)

    def _turn(self, left: int) -> None:
        if left:
            self._loop.call_soon(self._turn, left - 1)
            return
        assert self.running is not None
        self.ended_first = self.running.done()
        self._go_on.set()


@pytest.mark.parametrize(
    "place",
    [
        "engine.before_manifest",
        "checkpoint.before_publish",
        "engine.after_manifest",
        "engine.before_commit",
        "file.commit.before_publish",
        "engine.after_commit",
    ],
)
def test_nothing_is_left_of_a_run_that_was_cancelled_twice(tmp_path: Path, place: str) -> None:
    lab, flow = Lab(tmp_path / "home"), Workflow("cancelled", base=tmp_path)
    pause = Pause()
    source = ScriptedSource([*rows(0, 3), Checkpoint(), *rows(3, 5), pause, *rows(5, 8)])
    source.add_to(flow, "in").to("out", "file", path=str(tmp_path / "out"), format="ndjson")

    async def main() -> None:
        cancelling = CancelledAt(place)
        with observed(cancelling):
            running = asyncio.ensure_future(lab.arun(flow))
            await asyncio.to_thread(pause.wait_reached)
            cancelling.running = running
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            left = asyncio.all_tasks() - {asyncio.current_task()}
        assert (cancelling.reached, cancelling.ended_first, left) == (True, False, set())
        assert not lock_state(tmp_path / "home" / "cancelled").held
        pause.release()
        result = await lab.arun(flow)
        assert (result.status, result.resumed_from is not None) == ("finished", True)

    asyncio.run(main())
    parts = [file.read_text() for file in (tmp_path / "out").glob("*.ndjson")]
    assert sorted(json.loads(line)["n"] for text in parts for line in text.splitlines()) == [
        *range(8)
    ]


def test_a_workflow_in_python_runs_on_the_loop_that_is_there(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        flows = []
        for number in range(3):
            flow = Workflow(f"flow-{number}")
            flow.frame("in", pl.DataFrame({"n": [number]})).to(f"out-{number}", "memory")
            flows.append(flow)
        return await asyncio.gather(*(flow.arun(home=tmp_path / flow.name) for flow in flows))

    outcomes = asyncio.run(main())
    frames = [o.frame(f"out-{n}")["n"].to_list() for n, o in enumerate(outcomes)]
    assert frames == [[0], [1], [2]]


TWO = """\
name: counted
settings: {{checkpoint: {{interval: 50ms}}}}
sources:
  numbers: {{type: generate, config: {{columns: {{n: {{sequence: 0}}}}, rows: 100_000_000, rate: 4000/s}}}}
transformations:
  own:
    type: python
    inputs: [numbers]
    config: {{function: "steps:step", mode: record, schema: {{n: int64, who: string}}}}
    error_handling: {{on_error: dead_letter}}
  shown: {{type: filter, inputs: [own], config: {{condition: "who != ${{secret:KEY}}"}}}}
destinations:
  out: {{type: stdout, inputs: [shown], config: {{format: ndjson}}}}
"""
STEPS = """\
from names import WHO

def step(row):
    if row["n"] % 250 == 7:
        raise ValueError(f"row {row['n']}: of-a-1234 and of-b-5678")
    return {"n": row["n"], "who": WHO}
"""


class Printed(io.StringIO):
    """What a run prints. `have` waits until it has printed so many lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.loop = asyncio.get_running_loop()
        self.more = asyncio.Event()

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        self.loop.call_soon_threadsafe(self.more.set)
        return super().write(text)

    async def have(self, lines: int) -> None:
        async with asyncio.timeout(30):
            while self.lines < lines:
                self.more.clear()
                await self.more.wait()

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def letters_of(folder: Path) -> list[Any]:
    files = sorted((folder / "home").rglob("*.ndjson"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_two_runs_share_neither_code_nor_secrets_nor_standard_output(tmp_path: Path) -> None:
    secrets = {"a": "of-a-1234", "b": "of-b-5678"}
    flows = {}
    for who in "ab":
        folder = tmp_path / who
        folder.mkdir()
        (folder / "steps.py").write_text(STEPS)
        (folder / "names.py").write_text(f"WHO = '{who}'\n")
        flows[who] = load_text(TWO.format(), base=folder, environ={"KEY": secrets[who]})

    def begin(who: str, printed: Printed) -> asyncio.Future[Any]:
        options = RunOptions(tmp_path / who / "home", stdout=printed)
        return asyncio.ensure_future(arun(flows[who], options))

    async def stop(run: asyncio.Future[Any]) -> None:
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    async def main() -> tuple[Printed, Printed, Printed]:
        a, b, again = Printed(), Printed(), Printed()
        first, second = begin("a", a), begin("b", b)
        await asyncio.gather(a.have(300), b.have(300))
        await stop(first)
        await b.have(b.lines + 300)
        third = begin("a", again)
        await asyncio.gather(again.have(300), b.have(b.lines + 300))
        await stop(third)
        await stop(second)
        return a, again, b

    a, again, b = asyncio.run(main())
    printed = {"a": a.rows + again.rows, "b": b.rows}
    for who, hidden in (("a", "*** and of-b-5678"), ("b", "of-a-1234 and ***")):
        shown, letters = printed[who], letters_of(tmp_path / who)
        assert {row["who"] for row in shown} == {who}
        failed = [json.loads(letter["row"])["n"] for letter in letters]
        numbers = [row["n"] for row in shown]
        assert sorted(numbers + failed) == list(range(len(numbers) + len(failed)))
        assert failed
        assert all(n % 250 == 7 for n in failed)
        assert all(letter["message"].endswith(f": {hidden}") for letter in letters)


def test_many_jobs_share_few_threads(tmp_path: Path) -> None:
    text = """\
name: small-{number}
sources:
  numbers: {{type: generate, config: {{columns: {{n: {{sequence: 0}}}}, rows: 1_000_000, rate: 50/s}}}}
destinations:
  out: {{type: stdout, inputs: [numbers], config: {{format: ndjson}}}}
"""
    jobs, before = 40, threading.active_count()

    async def main() -> int:
        printed = [Printed() for _ in range(jobs)]
        running = [
            asyncio.ensure_future(
                arun(
                    load_text(text.format(number=number), base=tmp_path),
                    RunOptions(tmp_path / "home", stdout=stream),
                )
            )
            for number, stream in enumerate(printed)
        ]
        await asyncio.gather(*(stream.have(5) for stream in printed))
        threads = threading.active_count()
        for each in running:
            each.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in results)
        return threads

    # Two for each job were 80; the number depends on how slow this disk is.
    assert asyncio.run(main()) - before < jobs
