"""Runs beside each other on one event loop: none gets in another's way, and each can be cancelled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare import RunOptions, Workflow
from dataflare.jobs import arun
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
