"""Users' processors that work by event time: timers, on_time, named inputs, results with a time of their own."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import Processor, Schema, SharedDataBatch, Workflow
from dataflare.errors import DataFlareError
from dataflare.model.hashing import KEY_GROUPS
from dataflare.state.timers import AT_COLUMN, FIRST, LAST, Timers
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource, check_processor, processor_of

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


def at(*seconds: float) -> list[datetime.datetime]:
    return [START + s * SECOND for s in seconds]


ROWS = pl.DataFrame({"k": ["a", "b", "a", "c", "b", "a"], "at": at(0, 1, 2, 9, 20, 40)})


class Delayed(Processor):
    """Gives each row back ten seconds of event time after its own, with the time of that moment."""

    type = "delayed"
    timed = True
    keys = ("k",)
    event_time = "at"

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return inputs[0]

    def process(self, port: int, batch: SharedDataBatch) -> None:
        times = self.context.times
        assert times.of_rows is not None
        assert times.of_rows.to_list() == batch.frame["at"].to_list()
        times.set_timers(batch.frame.with_columns(pl.col("at") + 10 * SECOND))

    def on_timer(self, rows: SharedDataBatch, time: datetime.datetime) -> pl.DataFrame:
        assert (rows.frame["at"] <= time).all()
        return rows.frame


class Clock(Processor):
    """Tells each progress of event time."""

    type = "clock"
    timed = True

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of({"at": "timestamp[us, UTC]"})

    def process(self, port: int, batch: SharedDataBatch) -> None:
        pass

    def on_time(self, time: datetime.datetime) -> pl.DataFrame:
        return pl.DataFrame({"at": [time]})


class Matched(Processor):
    """Tells which of its named inputs a row came from."""

    type = "matched"
    ports: ClassVar = ("orders", "payments")
    inputs_max = 2
    keys = ("k",)

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of({"k": "string", "of": "string"})

    def process(self, port: int, batch: SharedDataBatch) -> pl.DataFrame:
        return batch.frame.select("k", of=pl.lit(self.ports[port]))


EVENT_TIME = {"column": "at"}


def flow(mode: str = "streaming", parallelism: int = 1) -> Workflow:
    return Workflow("timed", settings={"parallelism": parallelism, "mode": mode})


def clicks(wf: Workflow, frames: Sequence[pl.DataFrame]) -> Any:
    return wf.source("clicks", "inline", rows=pl.concat(frames).to_dicts(), event_time=EVENT_TIME)


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("mode", ["streaming", "batch"])
def test_timers_give_each_row_back_once(mode: str, parallelism: int) -> None:
    wf = flow(mode, parallelism)
    clicks(wf, [ROWS]).process("late", Delayed).to("out", "memory")
    found = wf.run().frame("out").sort("at")
    assert found.rows() == ROWS.with_columns(pl.col("at") + 10 * SECOND).sort("at").rows()


def test_results_have_an_event_time_for_steps_behind() -> None:
    wf = flow()
    late = clicks(wf, [ROWS]).process("late", Delayed)
    late.process("later", Delayed).to("out", "memory")
    found = wf.run().frame("out").sort("at")
    assert found["at"].to_list() == [t + 20 * SECOND for t in ROWS["at"].to_list()]


def test_the_suite_holds_for_timers() -> None:
    many = pl.concat([ROWS.with_columns(pl.col("at") + n * 7 * SECOND) for n in range(12)])
    tested = processor_of(Delayed, {}, Schema.of({"k": "string", "at": "timestamp[us, UTC]"}))
    asyncio.run(check_processor(tested, many, event_time="at"))


def test_timers_come_once_after_a_crash(tmp_path: Any) -> None:
    lab, wf = Lab(tmp_path), flow()
    first, second = ROWS.head(3).to_dicts(), ROWS.slice(3).to_dicts()
    script = [*first, Checkpoint(), second[0], Crash(), *second[1:]]
    source = ScriptedSource(script).add_to(wf, "clicks", event_time=EVENT_TIME)
    source.process("late", Delayed).to("out", "memory")
    lab.run_until_crash(wf)
    assert lab.run(wf).status == "finished"
    expected = ROWS.with_columns(pl.col("at") + 10 * SECOND).sort("k", "at")
    assert pl.DataFrame(lab.rows("out")).sort("k", "at").rows() == expected.rows()


def test_on_time_is_called_with_each_progress_and_never_goes_back() -> None:
    wf = flow()
    clicks(wf, [ROWS]).process("clock", Clock).to("out", "memory")
    told = wf.run().frame("out")["at"].to_list()
    assert told == sorted(set(told))
    assert told[-1] == ROWS["at"].max()
    assert flow_of_batch() == []


def flow_of_batch() -> list[Any]:
    """In batch mode time does not move before the end."""
    wf = flow("batch")
    clicks(wf, [ROWS]).process("clock", Clock).to("out", "memory")
    return wf.run().frame("out").rows()


def test_inputs_have_names() -> None:
    wf = flow("batch")
    orders, payments = (wf.frame(name, ROWS.select("k").unique()) for name in ("o", "p"))
    orders.process("both", Matched, payments).to("out", "memory")
    found = wf.run().frame("out").sort("k", "of").rows()
    assert found == [(k, of) for k in "abc" for of in ("orders", "payments")]
    wf = flow("batch")
    wf.frame("o", ROWS).process("one", Matched).to("out", "memory")
    with pytest.raises(DataFlareError) as caught:
        wf.run()
    assert caught.value.code == "E0318"
    assert "orders, payments" in caught.value.message


def test_a_step_that_works_by_event_time_needs_one() -> None:
    wf = flow("batch")
    wf.frame("clicks", ROWS).process("late", Delayed).to("out", "memory")
    with pytest.raises(DataFlareError) as caught:
        wf.run()
    assert (caught.value.code, caught.value.step) == ("E0331", "late")
    assert "clicks" in caught.value.message
    wf = flow("batch")
    summed = clicks(wf, [ROWS]).aggregate("summed", {"at": "max(at)"}, group_by=["k"])
    summed.process("late", Delayed).to("out", "memory")
    with pytest.raises(DataFlareError) as caught:
        wf.run()
    assert "an aggregate" in (caught.value.help or "")


class NoKeys(Delayed):
    keys: ClassVar = None  # type: ignore[assignment]


class NoColumn(Delayed):
    event_time = "k"


class NotTimed(Delayed):
    timed = False


class NoMoment(Delayed):
    def process(self, port: int, batch: SharedDataBatch) -> None:
        self.context.times.set_timers(batch.frame.select("k"))


@pytest.mark.parametrize(
    ("processor", "code", "said"),
    [
        (NoKeys, "E0417", "keys = None"),
        (NoColumn, "E0417", "not a timestamp"),
        (NotTimed, "E0417", "not timed"),
        (NoMoment, "E0521", "lack at"),
    ],
)
def test_what_does_not_fit_together_is_told(processor: Any, code: str, said: str) -> None:
    wf = flow()
    clicks(wf, [ROWS]).process("own", processor).to("out", "memory")
    with pytest.raises(DataFlareError) as caught:
        wf.run()
    assert (caught.value.code, caught.value.step) == (code, "own")
    assert said in caught.value.message


class Told:
    value = FIRST


Steps = st.lists(
    st.one_of(
        st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(0, 60).map(lambda t: (t,))
    ),
    max_size=30,
)


@given(Steps)
def test_the_table_gives_each_row_at_the_first_time_at_or_behind_its_moment(steps: Any) -> None:
    """Against a plain list. A list adds rows, a tuple moves the time."""
    timers, told = Timers((), Told(), (0, KEY_GROUPS - 1)), -1
    waiting: list[int] = []
    for step in [*steps, (LAST,)]:
        if isinstance(step, list):
            timers.add(pl.DataFrame({AT_COLUMN: pl.Series(step, dtype=pl.Int64)}))
            waiting += [max(moment, told + 1) for moment in step]
            continue
        told = max(told, step[0])
        due = timers.due(step[0])
        got = [] if due is None else due[AT_COLUMN].to_list()
        assert got == sorted(moment for moment in waiting if moment <= step[0])
        waiting = [moment for moment in waiting if moment > step[0]]
    assert timers.pieces() == []
