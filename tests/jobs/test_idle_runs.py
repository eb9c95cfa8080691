"""A run in which nothing happens takes no checkpoints, and loses nothing by that; many runs look at themselves less often."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dataflare import Workflow, arun
from dataflare.checkpoint.manifest import Manifest
from dataflare.jobs import living_runs
from dataflare.jobs.watching import Watch
from dataflare.testing import Checkpoint, Crash, Lab, Pause, ScriptedSource, rows

_WITHIN_S = 30.0


class Observed:
    """The watch of a run, once it has begun."""

    def __init__(self) -> None:
        self.watch: Watch | None = None

    @contextlib.contextmanager
    def __call__(self, watch: Watch) -> Iterator[None]:
        self.watch = watch
        yield


async def until(condition: Callable[[], Any]) -> Any:
    """What it gives, once that is true."""
    async with asyncio.timeout(_WITHIN_S):
        while not (found := condition()):
            await asyncio.sleep(0.002)
        return found


def plain(flow: Workflow, source: ScriptedSource) -> None:
    source.add_to(flow, "in").filter("some", "n >= 0").to("out", "memory")


def with_state(flow: Workflow, source: ScriptedSource) -> None:
    source.add_to(flow, "in").deduplicate("first", key="n").to("out", "memory")


def two_ways(flow: Workflow, source: ScriptedSource) -> None:
    read = source.add_to(flow, "in")
    read.filter("even", "n % 2 = 0").to("out", "memory")
    read.deduplicate("first", key="n").filter("none_left", "n < 0").to("none", "memory")


@pytest.mark.parametrize("build", [plain, with_state, two_ways])
def test_a_checkpoint_that_is_left_out_would_have_had_what_the_last_one_has(
    tmp_path: Path, build: Callable[[Workflow, ScriptedSource], None]
) -> None:
    lab, flow = Lab(tmp_path), Workflow("idle")
    pause, again = Pause(), Pause()
    build(flow, ScriptedSource([*rows(0, 4), pause, *rows(4, 8), again, *rows(8, 9)]))

    async def quiet(observed: Observed) -> None:
        """Until two checkpoints were left out; then one is asked for."""
        watch = observed.watch
        assert watch is not None
        await until(lambda: watch.attempt and watch.attempt.coordinator)
        checkpoints, attempt = watch.metrics.checkpoints, watch.attempt
        assert attempt is not None
        since = time.time()
        first = await until(lambda: (at := checkpoints.not_needed_at or 0.0) > since and at)
        completed = checkpoints.completed
        assert completed
        await until(lambda: (checkpoints.not_needed_at or 0.0) > first)
        assert checkpoints.completed == completed
        assert checkpoints.has_all_of == checkpoints.not_needed_at
        last = attempt.store.list_manifests()[0].manifest
        asked = await attempt.checkpoint_now()
        assert checkpoints.completed == completed + 1, "who asks for one gets one"
        assert kept(asked) == kept(last)

    async def main() -> None:
        observed = Observed()
        options = replace(lab.options, observers=[observed])
        running = asyncio.ensure_future(arun(lab._prepared(flow, None, 3), options))
        await asyncio.to_thread(pause.wait_reached)
        await quiet(observed)
        pause.release()
        await asyncio.to_thread(again.wait_reached)
        await quiet(observed)  # what came since is in a checkpoint of its own
        again.release()
        assert (await running).status == "finished"

    asyncio.run(main())
    wanted = [0, 2, 4, 6, 8] if build is two_ways else [*range(9)]
    assert [row["n"] for row in lab.rows("out")] == wanted


def kept(manifest: Manifest | None) -> tuple[object, ...]:
    """What a run that resumes from it goes on from."""
    assert manifest is not None
    return manifest.sources, manifest.operators, manifest.counters, manifest.event_times


def test_a_run_that_was_idle_when_it_died_goes_on_where_it_stood(tmp_path: Path) -> None:
    lab, flow = Lab(tmp_path), Workflow("idle")
    pause = Pause()
    source = ScriptedSource([*rows(0, 4), Checkpoint(), pause, Crash(), *rows(4, 8)])
    source.add_to(flow, "in").deduplicate("first", key="n").to("out", "memory")
    observed = Observed()
    options = replace(lab.options, observers=[observed])

    async def main() -> Any:
        running = asyncio.ensure_future(arun(lab._prepared(flow, None, 3), options))
        await asyncio.to_thread(pause.wait_reached)
        assert observed.watch is not None
        checkpoints = observed.watch.metrics.checkpoints
        await until(lambda: checkpoints.not_needed_at)
        pause.release()
        return await running

    result = asyncio.run(main())
    assert result.status == "finished"
    assert [row["n"] for row in lab.rows("out")] == [*range(8)]
    assert result.steps["in"]["rows_out"] == 8, "no row was read twice"


def test_all_runs_together_look_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living_runs, "_alive", 1)
    assert living_runs.look_every_s(0.25) == 0.25
    monkeypatch.setattr(living_runs, "_alive", 1_000)
    assert 1_000 / living_runs.look_every_s(1.0) == living_runs.LOOKS_PER_S


def test_garbage_is_collected_seldom_while_there_are_many_runs() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        with contextlib.ExitStack() as some:
            for _ in range(19):
                some.enter_context(living_runs.living())
            assert gc.get_threshold() == (700, 10, 10)
            with living_runs.living():
                assert gc.get_threshold()[0] > 700
            assert gc.get_threshold() == (700, 10, 10)
        gc.set_threshold(1_234, 10, 10)
        with contextlib.ExitStack() as many:
            for _ in range(30):
                many.enter_context(living_runs.living())
            assert gc.get_threshold() == (1_234, 10, 10), "a program that sets its own keeps it"
        assert gc.get_threshold() == (1_234, 10, 10)
        assert living_runs.alive() == 0
    finally:
        gc.set_threshold(*before)
