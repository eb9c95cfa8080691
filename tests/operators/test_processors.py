"""Users' processors: their input, their output, and the errors when they are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl
import pytest
from pydantic import BaseModel

import dataflare
from dataflare import Processor, Schema, SharedDataBatch, Workflow
from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import (
    Checkpoint,
    Crash,
    Lab,
    ScriptedSource,
    check_processor,
    processor_of,
    rows,
)

ROWS = pl.DataFrame({"k": ["a", "b", "a", "b", "a", "c"], "at": [1, 2, 5, 13, -4, 9]})


class Column(BaseModel):
    key: str = "k"


class Gaps(Processor):
    """How far each row is from the one before it with the same key."""

    type = "gaps"
    Config = Column
    summary = "Distances between neighbours."

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.keys = (config.key,)

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of({**inputs[0].to_json(), "gap": "int64"})

    def process(self, port: int, batch: SharedDataBatch) -> pl.DataFrame:
        key, state, frame = self.config.key, self.context.state, batch.frame
        self.context.refuse(frame.filter(pl.col("at") < 0), "the time is negative")
        frame = frame.filter(pl.col("at") >= 0)
        if (frame["at"] == 13).any():
            raise ValueError("thirteen")
        last = state.get("last")
        known = frame.head(0) if last is None else last
        both = pl.concat([known, frame])
        state.set("last", both.group_by(key, maintain_order=True).last().select(both.columns))
        return both.with_columns(gap=pl.col("at").diff().over(key)).slice(known.height)


class Doubled(Processor):
    """No row needs another."""

    type = "doubled"
    keys = None

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return inputs[0]

    def process(self, port: int, batch: SharedDataBatch) -> SharedDataBatch:
        return batch.map(lambda frame: frame.with_columns(pl.col("at") * 2))


class Paired(Processor):
    """Rows of two inputs with the same key, whichever comes first."""

    type = "paired"
    inputs_max = 2
    keys = ("k",)

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of({"k": inputs[0]["k"], "at": "int64", "name": "string"})

    def process(self, port: int, batch: SharedDataBatch) -> list[pl.DataFrame]:
        mine, theirs = ("left", "right") if port == 0 else ("right", "left")
        self.context.state.append(mine, batch)
        others = self.context.state.get(theirs)
        if others is None:
            return []
        left, right = (batch.frame, others) if port == 0 else (others, batch.frame)
        return [left.join(right, on="k")]


class Listed(Processor):
    """Every row as a result of its own, at the end."""

    type = "listed"
    keys = ("k",)

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return inputs[0]

    def process(self, port: int, batch: SharedDataBatch) -> list[pl.DataFrame]:
        self.context.state.append("rows", batch)
        return []

    def end(self) -> list[pl.DataFrame]:
        kept = self.context.state.get("rows")
        return [] if kept is None else [kept.slice(n, 1) for n in range(kept.height)]


def run(processor: Any, *rows: pl.DataFrame, parallelism: int = 1, **step: Any) -> Any:
    wf = Workflow("own", settings={"parallelism": parallelism})
    first, *more = [wf.frame(f"rows{i}", frame) for i, frame in enumerate(rows)]
    first.process("own", processor, *more, **step).to("out", "memory")
    return wf.run()


def failure(processor: Any, *rows: pl.DataFrame, **step: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(processor, *(rows or (ROWS,)), **step)
    return caught.value


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_bad_rows_are_left_out_and_the_good_ones_of_their_batch_stay(parallelism: int):
    result = run(Gaps, ROWS, parallelism=parallelism, on_error="skip")
    found = result.frame("out").sort("k", "at")
    assert found.rows() == [("a", 1, None), ("a", 5, 4), ("b", 2, None), ("c", 9, None)]
    assert result.errors == {"own": 2}


def test_a_bad_row_fails_the_run_where_nothing_else_is_said():
    error = failure(Gaps, ROWS.filter(pl.col("at") < 10))
    assert (error.code, error.step) == ("E0544", "own")
    assert "the time is negative" in error.message
    assert "at=-4" in str(error.notes)


def test_an_exception_is_told_with_its_line_and_without_a_traceback():
    error = failure(Gaps, ROWS.filter(pl.col("at") >= 0))
    assert error.code == "E0520"
    assert "Gaps.process raised ValueError: thirteen" in error.message
    assert 'raise ValueError("thirteen")' in str(error.notes)


def test_rows_that_need_no_other_are_spread_over_tasks():
    wf = Workflow("spread", settings={"parallelism": 2})
    wf.frame("rows", [ROWS, ROWS]).process("twice", Doubled).to("out", "memory")
    assert "(hash" not in str(wf.plan())
    assert "(gather" not in str(wf.plan())
    assert wf.run().frame("out")["at"].sum() == 2 * 2 * ROWS["at"].sum()


@pytest.mark.parametrize("parallelism", [1, 3])
def test_several_inputs_are_ports(parallelism: int):
    names = pl.DataFrame({"name": ["Ann", "Bob"], "k": ["a", "b"]})
    found = run(Paired, ROWS, names, parallelism=parallelism).frame("out").sort("k", "at")
    assert found.columns == ["k", "at", "name"]
    assert found.rows() == ROWS.join(names, on="k").sort("k", "at").rows()


@pytest.mark.parametrize(
    ("made", "frames"),
    [
        (lambda: processor_of(Gaps, {}, schema(GOOD)), lambda: [GOOD]),
        (lambda: processor_of(Doubled, {}, schema(GOOD)), lambda: [GOOD]),
        (lambda: processor_of(Paired, {}, schema(GOOD), schema(NAMES)), lambda: [GOOD, NAMES]),
        (lambda: processor_of(Listed, {}, schema(GOOD)), lambda: [GOOD]),
    ],
    ids=["Gaps", "Doubled", "Paired", "Listed"],
)
def test_the_suite_holds_for_these(made: Any, frames: Any):
    asyncio.run(check_processor(made(), *frames()))


GOOD = pl.DataFrame({"k": [f"key {n % 7}" for n in range(60)], "at": [20 + n for n in range(60)]})
NAMES = pl.DataFrame({"k": [f"key {n}" for n in range(5)], "name": [f"name {n}" for n in range(5)]})


def schema(frame: pl.DataFrame) -> Schema:
    return Schema.from_polars(frame.schema)


class Forgetful(Doubled):
    """Keeps what it should keep in the object, where no checkpoint sees it."""

    type = "forgetful"
    keys = ("k",)

    def open(self) -> None:
        self.rows = 0

    def process(self, port: int, batch: SharedDataBatch) -> pl.DataFrame:
        first, self.rows = self.rows, self.rows + batch.num_rows
        return batch.frame.with_columns(at=pl.int_range(first, self.rows, dtype=pl.Int64))


def test_the_suite_finds_state_that_is_kept_elsewhere():
    from dataflare.testing import ContractBroken

    with pytest.raises(ContractBroken, match="a_checkpoint_goes_on"):
        asyncio.run(
            check_processor(
                processor_of(Forgetful, {}, schema(GOOD)),
                GOOD,
                skip=["parallelism_does_not_matter"],
            )
        )


class Wrong(Doubled):
    type = "wrong"
    gives: ClassVar[Any] = None

    def process(self, port: int, batch: SharedDataBatch) -> Any:
        return self.gives


class GivesNumber(Wrong):
    gives: ClassVar[Any] = [5]


class GivesOther(Wrong):
    gives: ClassVar[Any] = pl.DataFrame({"k": ["x"]})


class GivesMore(Wrong):
    gives: ClassVar[Any] = pl.DataFrame({"k": ["x"], "more": [1], "at": [1], "and": [2]})


class GivesText(Wrong):
    gives: ClassVar[Any] = pl.DataFrame({"k": ["x"], "at": ["y"]})


class KeepsUnkeyed(Gaps):
    def process(self, port: int, batch: SharedDataBatch) -> Any:
        self.context.state.set("seen", batch.frame.select("at"))


class KeepsSpread(Doubled):
    def process(self, port: int, batch: SharedDataBatch) -> Any:
        self.context.state.set("seen", batch)


class EndsSpread(Doubled):
    def end(self) -> Any:
        return []


class NoSchema(Doubled):
    def output_schema(self, inputs: Sequence[Schema]) -> Any:
        return {"k": "string"}


class Broken(Doubled):
    def output_schema(self, inputs: Sequence[Schema]) -> Any:
        return inputs[7]


class KeyedByNothing(Doubled):
    keys = ("customer",)


@pytest.mark.parametrize(
    ("processor", "code", "said"),
    [
        (GivesNumber, "E0521", "returned a value of the type int"),
        (GivesOther, "E0521", "left out the columns at"),
        (GivesMore, "E0521", "columns that output_schema does not name: more, and"),
        (GivesText, "E0521", "returned string in the column 'at', which is int64"),
        (KeepsUnkeyed, "E0416", "the state 'seen' lacks the key k"),
        (KeepsSpread, "E0416", "keys = None"),
        (EndsSpread, "E0417", "EndsSpread has an end"),
        (NoSchema, "E0417", "output_schema returned a value of the type dict, not a Schema"),
        (Broken, "E0520", "Broken.output_schema raised IndexError"),
        (KeyedByNothing, "E0203", "unknown column 'customer'"),
    ],
)
def test_what_is_wrong_is_told(processor: Any, code: str, said: str):
    error = failure(processor)
    assert error.code == code
    assert said in error.message
    assert error.step == "own"


def test_more_inputs_than_it_takes():
    assert failure(Gaps, ROWS, ROWS).code == "E0318"


def test_keys_of_several_inputs_have_one_type():
    other = pl.DataFrame({"k": [1], "name": ["x"]})
    assert failure(Paired, ROWS, other).code == "E0312"


def test_an_option_that_it_does_not_have():
    error = failure(Gaps, ROWS, config={"keys": "k"})
    assert error.code == "E0403"
    assert "unknown key 'keys'" in error.message


@pytest.mark.parametrize("extension", [int, type("Half", (Processor,), {"type": "half"})])
def test_what_is_no_extension_is_refused(extension: Any):
    with pytest.raises(ConfigError) as caught:
        dataflare.register(extension)
    assert caught.value.code == "E0418"


def test_a_class_is_known_by_its_type_once_registered():
    dataflare.register(Doubled)
    wf = Workflow("known")
    wf.frame("rows", ROWS).process("twice", "doubled").to("out", "memory")
    assert wf.run().frame("out")["at"].to_list() == [2 * at for at in ROWS["at"]]


def test_state_grows_by_what_is_new():
    from dataflare.sdk.processor import KeptRows

    state, stored, written = KeptRows(("k",)), set(), 0
    for n in range(200):
        state.append("seen", pl.DataFrame({"k": [n]}))
        fresh = [(number, f) for number, f in state.chunks("seen") if number not in stored]
        stored |= {number for number, _ in fresh}
        written += sum(frame.height for _, frame in fresh)
    assert state.get("seen")["k"].to_list() == list(range(200))
    assert len(state.chunks("seen")) < 12
    assert written < 200 * 12


class Closing(Processor):
    """Notes when it is opened and closed."""

    type = "closing"
    keys = ()
    log: ClassVar[list[str]] = []

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return inputs[0]

    def open(self) -> None:
        self.log.append("open")

    def process(self, port: int, batch: SharedDataBatch) -> SharedDataBatch:
        if "boom" in batch.frame["k"]:
            raise ValueError("boom")
        return batch

    def close(self) -> None:
        self.log.append("close")


@pytest.mark.parametrize("key", ["a", "boom"])
def test_a_processor_is_closed_once_at_its_end_and_after_an_error(key: str):
    Closing.log.clear()
    wf = Workflow("closing", settings={"restart": {"attempts": 0}})
    wf.frame("rows", pl.DataFrame({"k": [key]})).process("own", Closing).to("out", "memory")
    assert wf.run(check=False).status == ("finished" if key == "a" else "failed")
    assert Closing.log == ["open", "close"]


class TwoTables(Processor):
    """Keeps its rows under two names with other columns, which are not in the order of the alphabet."""

    type = "two_tables"
    keys = ()

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of({"n": "int64", "text": "string"})

    def process(self, port: int, batch: SharedDataBatch) -> None:
        self.context.state.append("numbers", batch.frame.select("n"))
        self.context.state.append("b", batch.frame.select(text=pl.col("n").cast(pl.String)))

    def end(self) -> pl.DataFrame:
        numbers, texts = (self.context.state.get(name) for name in ("numbers", "b"))
        return pl.concat([numbers, texts], how="horizontal")


def test_rows_under_several_names_come_back_under_their_names(tmp_path):
    lab, flow = Lab(tmp_path), Workflow("names")
    source = ScriptedSource([*rows(0, 3), Checkpoint(), Crash(), *rows(3, 6)])
    source.add_to(flow, "in").process("own", TwoTables).to("out", "memory")
    lab.run_until_crash(flow)
    assert lab.run(flow).status == "finished"
    assert lab.rows("out") == [{"n": n, "text": str(n)} for n in range(6)]
