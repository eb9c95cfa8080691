"""A run that gets another size while it goes on gives what an undisturbed one gives."""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import DataFlareError, RunError
from dataflare.jobs.progress import Progress
from dataflare.jobs.scaling import Scaled, Size, wanted, workers_needed
from dataflare.jobs.watching import Watch

ROWS = 24_000
WORKFLOW = """
name: sized
sources:
  events: {type: file, rate: RATE, config: {path: in/*.csv}, event_time: {column: at, out_of_orderness: 10m}}
  others: {type: file, config: {path: in/0.csv}}
transformations:
  per_minute:
    type: window
    inputs: [events]
    config: {kind: tumbling, size: 1m, group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}
  fewer: {type: map, inputs: [others], config: {select: [id], derive: {other: "amount + 1"}}}
  both: {type: join, inputs: [events, fewer], config: {kind: left, on: [id]}}
  first: {type: deduplicate, inputs: [events], config: {key: [user]}}
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations:
  windows: {type: file, inputs: [per_minute], config: {path: windows, format: csv}}
  joined: {type: sqlite, inputs: [both], config: {path: joined.db, table: t}}
  firsts: {type: file, inputs: [first], config: {path: firsts.csv}}
  totals: {type: file, inputs: [sums], config: {path: totals.csv}}
  raw: {type: file, inputs: [events], config: {path: raw, format: parquet}}
settings: {parallelism: 2, checkpoint: {interval: 100ms}}
"""


def project(folder: Path, rate: str) -> Path:
    (folder / "in").mkdir(parents=True)
    for part in range(6):
        ids = range(part * ROWS // 6, (part + 1) * ROWS // 6)
        frame = pl.DataFrame({"id": ids}).with_columns(
            user=pl.col("id") * 7 % 97,
            amount=pl.col("id") * 3 % 1_000,
            at=pl.datetime(2026, 1, 1, time_unit="us")
            + pl.duration(milliseconds=pl.col("id") * 50),
        )
        frame.write_csv(folder / "in" / f"{part}.csv")
    (folder / "w.yaml").write_text(WORKFLOW.replace("RATE", rate))
    return folder


def results(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {}
    for name in ("windows", "firsts.csv", "totals.csv", "raw"):
        paths = sorted(folder.glob(f"{name}/*") if "." not in name else folder.glob(name))
        frames = [pl.read_parquet(p) if name == "raw" else pl.read_csv(p) for p in paths]
        # Which row of a user comes first depends on which file is read first.
        columns = ["user"] if name == "firsts.csv" else frames[0].columns
        found[name] = sorted(pl.concat(frames).select(columns).rows())
    with sqlite3.connect(folder / "joined.db") as db:
        found["joined"] = sorted(db.execute("select * from t").fetchall(), key=str)
    return found


Ask = Callable[[Watch, Callable[[int], None]], None]


def with_requests(asks: Ask) -> dict[str, object]:
    """Options of a run that is asked on a thread of its own. asks: gets the watch, and a call that waits for so many
    checkpoints."""
    moved = threading.Condition()
    seen = 0

    def listen(progress: Progress) -> None:
        nonlocal seen
        with moved:
            seen = progress.checkpoints
            moved.notify_all()

    def until(checkpoints: int) -> None:
        with moved:
            assert moved.wait_for(lambda: seen >= checkpoints, timeout=60)

    @contextlib.contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        asking = threading.Thread(target=asks, args=(watch, until))
        asking.start()
        yield
        asking.join(60)

    def observer(watch: Watch) -> AbstractContextManager[object]:
        return observed(watch)

    return {"listener": listen, "observers": [observer]}


def go(folder: Path, **options: object) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home", **options))  # type: ignore[arg-type]


def test_up_and_down_again_and_again(tmp_path: Path) -> None:
    answers: list[Scaled] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        for parallelism in (4, 1, 3, 2):
            until(len(answers) * 3 + 2)
            answers.append(watch.scale(None, parallelism).result(60))

    result = go(project(tmp_path / "scaled", f"{ROWS // 6}/s"), **with_requests(asks))
    assert (result.status, result.error) == ("finished", None)
    assert [answer.now.parallelism for answer in answers] == [4, 1, 3, 2]
    assert [answer.before.parallelism for answer in answers] == [2, 4, 1, 3]
    epochs = [answer.epoch for answer in answers]
    assert all(earlier < later for earlier, later in itertools.pairwise(epochs))  # type: ignore[operator]
    assert not [w for w in result.warnings if "restarted" in w], "it does not count as a failure"
    assert result.resumed_from is None, "no earlier run has ended in the middle"
    assert result.steps["events"]["rows_out"] == ROWS, "no row was counted twice"

    plain = go(project(tmp_path / "plain", "10000000/s"))
    assert plain.status == "finished"
    assert results(tmp_path / "scaled") == results(tmp_path / "plain")
    assert len(results(tmp_path / "plain")["joined"]) == ROWS


def test_no_row_is_read_twice(tmp_path: Path) -> None:
    processed: list[int] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        until(2)
        watch.scale(None, 5).result(60)

    def at_end(watch: Watch) -> AbstractContextManager[object]:
        @contextlib.contextmanager
        def observed() -> Iterator[None]:
            yield
            processed.append(watch.view().steps["events"].rows_out or 0)

        return observed()

    options = with_requests(asks)
    options["observers"] = [*options["observers"], at_end]  # type: ignore[misc]
    result = go(project(tmp_path, f"{ROWS // 3}/s"), **options)
    assert result.status == "finished", result.error
    # Counts of all attempts, also of what is done again.
    assert processed[-1] == ROWS


@pytest.mark.parametrize(
    ("workers", "parallelism", "why"),
    [(3, None, "in one process"), (None, 0, "1 to 128 tasks"), (None, 200, "1 to 128 tasks")],
)
def test_what_cannot_be_is_refused_and_the_run_goes_on(
    tmp_path: Path, workers: int | None, parallelism: int | None, why: str
) -> None:
    refused: list[DataFlareError] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        until(1)
        with pytest.raises(RunError, match=why) as error:
            watch.scale(workers, parallelism).result(60)
        refused.append(error.value)

    result = go(project(tmp_path, f"{ROWS}/s"), **with_requests(asks))
    assert result.status == "finished", result.error
    assert refused[0].code == "E0834"
    assert refused[0].help


def test_a_run_that_commits_at_its_end_is_not_scaled(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute(
            "create table t as with recursive c(n) as (select 1 union all select n + 1 from c where n < 4000) select n from c"
        )
    (tmp_path / "w.yaml").write_text(
        "name: late\nsources: {n: {type: sqlite, rate: 2000/s, config: {path: in.db, query: select n from t}}}\n"
        "destinations: {out: {type: sqlite, inputs: [n], config: {path: out.db, table: t}}}\n"
    )
    told: list[str] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        told.append(str(watch.scale(None, 3).exception(60)))

    result = go(tmp_path, **with_requests(asks))
    assert result.status == "finished", result.error
    assert "takes no checkpoint before its end" in told[0]


def test_the_same_size_again_changes_nothing(tmp_path: Path) -> None:
    answers: list[Scaled] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        until(1)
        answers.append(watch.scale(None, 2).result(60))

    result = go(project(tmp_path, f"{ROWS}/s"), **with_requests(asks))
    assert result.status == "finished", result.error
    assert answers == [Scaled(Size(None, 2), Size(None, 2))]


def test_a_run_that_ends_meanwhile_says_so(tmp_path: Path) -> None:
    told: list[BaseException | None] = []

    def asks(watch: Watch, until: Callable[[int], None]) -> None:
        until(1)
        answer = watch.scale(None, 3)
        told.append(answer.exception(60))

    options = with_requests(asks)
    result = go(project(tmp_path, f"{ROWS * 20}/s"), **options)
    assert result.status == "finished", result.error
    assert told[0] is None or "has ended" in str(told[0])


sizes = st.integers(1, 60)


@given(have=sizes, want=sizes, tasks=sizes, state=st.integers(0, 1 << 40), follows=st.booleans())
def test_a_smaller_size_always_has_room_for_the_state(
    have: int, want: int, tasks: int, state: int, follows: bool
) -> None:
    memory = 1 << 30
    before = Size(have, tasks)
    needed = min(workers_needed(state, memory), have)
    if want < needed:
        with pytest.raises(RunError, match="no room for the state") as refused:
            wanted(before, want, None, follows=follows, state_bytes=state, memory=memory)
        assert f"at least {needed} workers" in str(refused.value.help)
        return
    now = wanted(before, want, None, follows=follows, state_bytes=state, memory=memory)
    assert now.workers == want
    assert now.parallelism == (want if follows else tasks)
    assert want >= have or want * memory / 2 >= state


@given(state=st.integers(0, 1 << 45), memory=st.integers(1 << 20, 1 << 40))
def test_workers_needed_are_enough_and_not_one_too_many(state: int, memory: int) -> None:
    needed = workers_needed(state, memory)
    assert needed * memory * 0.5 >= state * (1 - 1e-9)
    assert needed == 1 or (needed - 1) * memory * 0.5 < state * (1 + 1e-9)
    assert math.isfinite(needed)
