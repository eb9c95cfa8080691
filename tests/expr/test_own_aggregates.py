"""Aggregate functions of users: they work like the built-in ones, and wrong ones are refused before a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import Aggregate, Schema, Workflow, register
from dataflare.errors import ConfigError, ExpressionError
from dataflare.expr import check_measures, own, registry
from dataflare.model.types import DataType
from dataflare.testing import check_processor, processor_of


class OwnAvg(Aggregate):
    """What avg() is."""

    signature = "own_avg(value: number) -> float64"
    summary = "The mean."
    examples = (("own_avg(x) over (1, 2)", 1.5),)

    def state(self, types: Sequence[DataType]) -> Sequence[str]:
        return ["float64", "int64"]

    def partial(self, values: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [values[0].sum(), values[0].count()]

    def merge(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [column.sum() for column in state]

    def finish(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> pl.Expr:
        return pl.when(state[1] > 0).then(state[0] / state[1])


class OwnAbove(OwnAvg):
    signature = "own_above(value: number, limit: const number, [other: const string]) -> int64"

    def state(self, types: Sequence[DataType]) -> Sequence[str]:
        return ["int64"]

    def partial(self, values: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [(values[0] > options[0]).sum()]

    def finish(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> pl.Expr:
        return state[0]


class OwnMax(OwnAbove):
    signature = "own_max(value: T) -> T"

    def state(self, types: Sequence[DataType]) -> Sequence[DataType]:
        return types

    def partial(self, values: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [values[0].max()]

    merge = partial


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    for each in (OwnAvg, OwnAbove, OwnMax):
        register(each)
    yield
    for name in list(own._known):
        registry.forget(name)
        del own._known[name]


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.integers(-1000, 1000)), min_size=1, max_size=60
)
PAIRS = {
    "avg": ("own_avg(v)", "avg(v)"),
    "filtered": ("own_avg(v) FILTER (WHERE v > 3)", "avg(v) FILTER (WHERE v > 3)"),
    "inside": ("round(own_avg(v + 1) * 2, 3)", "round(avg(v + 1) * 2, 3)"),
    "above": ("own_above(v, 5)", "coalesce(sum(if(v > 5, 1, 0)), 0)"),
    "max": ("own_max(v)", "max(v)"),
    "text": ("own_max(k)", "max(k)"),
}


@given(ROWS, st.integers(1, 20))
def test_they_give_what_the_built_in_ones_give(rows: list[tuple[str, int | None]], size: int):
    """From partials of any split of the rows."""
    frame = pl.DataFrame(rows, schema={"k": pl.String, "v": pl.Int64}, orient="row")
    pairs = {f"{n}_{i}": text for n, both in PAIRS.items() for i, text in enumerate(both)}
    made = check_measures(pairs, Schema.from_polars(frame.schema))
    inputs = frame.select("k", **{name: typed.lower().value for name, typed in made.inputs})
    partials = [part.group_by("k").agg(made.partial()) for part in inputs.iter_slices(size)]
    one = pl.concat(partials).group_by("k").agg(made.merge())
    found = one.select(**{name: each.value for name, each in made.finish().items()})
    for name in PAIRS:
        own_, built_in = found[f"{name}_0"], found[f"{name}_1"].cast(found[f"{name}_0"].dtype)
        assert own_.equals(built_in.alias(own_.name), null_equal=True), name


@pytest.mark.parametrize("parallelism", [1, 3])
def test_in_a_workflow(parallelism: int):
    wf = Workflow("own", settings={"parallelism": parallelism})
    rows = wf.frame("rows", pl.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 4]}))
    rows.aggregate("m", {"mean": "own_avg(v)", "n": "own_above(v, 1)"}, group_by=["k"]).to(
        "out", "memory"
    )
    assert wf.run().frame("out").sort("k").rows() == [("a", 2.5, 1), ("b", 2.0, 1)]


def test_it_keeps_what_a_stateful_step_keeps():
    frame = pl.DataFrame({"k": ["a", "b", "c"] * 20, "v": range(60)})
    config = {"group_by": ["k"], "measures": {"mean": "own_avg(v)", "n": "own_above(v, 9)"}}
    asyncio.run(
        check_processor(processor_of("aggregate", config, Schema.from_polars(frame.schema)), frame)
    )


def test_it_is_documented_like_a_function():
    assert registry.function("own_avg").summary == "The mean."
    assert "own_avg" in [row.name for row in registry.functions()]


class Uneven(OwnAvg):
    signature = "uneven(value: number) -> float64"

    def merge(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [state[0].sum()]


class Untyped(OwnAvg):
    signature = "untyped(value: any) -> float64"

    def partial(self, values: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        return [values[0].str.len_chars().sum(), values[0].count()]


@pytest.mark.parametrize(
    ("measure", "code", "said"),
    [
        ("own_avg()", "E0206", "own_avg() takes 1 argument, 0 given"),
        ("own_avg(k)", "E0204", "own_avg() expects number, not string"),
        ("own_above(v, v)", "E0204", "the limit of own_above() must be a literal"),
        ("own_above(v, NULL)", "E0206", "an option of own_above() is NULL"),
        ("own_avg(DISTINCT v)", "E0205", "DISTINCT is possible in"),
        ("own_av(v)", "E0202", "unknown function 'own_av'"),
        ("own_avg(own_avg(v))", "E0205", "cannot be inside of another"),
        ("uneven(v)", "E0205", "the aggregate Uneven does not work here: ValueError"),
        ("untyped(v)", "E0205", "the aggregate Untyped does not work here"),
    ],
)
def test_what_is_wrong_is_told_before_a_run(measure: str, code: str, said: str):
    register(Uneven)
    register(Untyped)
    with pytest.raises(ExpressionError) as caught:
        check_measures({"m": measure}, Schema.of({"k": "string", "v": "int64"}))
    assert caught.value.code == code
    assert said in caught.value.message


def test_not_outside_of_measures():
    wf = Workflow("own")
    wf.frame("rows", pl.DataFrame({"v": [1]})).map("m", derive={"x": "own_avg(v)"}).to(
        "out", "memory"
    )
    with pytest.raises(ExpressionError, match="is not allowed here"):
        wf.run()


class NamedAsBuiltIn(OwnAvg):
    signature = "avg(value: number) -> float64"


class Unreadable(OwnAvg):
    signature = "unreadable"


class NoReturn(OwnAvg):
    signature = "no_return(value: number)"


class Half(Aggregate):
    signature = "half(value: number) -> float64"


@pytest.mark.parametrize("aggregate", [NamedAsBuiltIn, Unreadable, NoReturn, Half])
def test_what_cannot_be_registered(aggregate: Any):
    with pytest.raises(ConfigError) as caught:
        register(aggregate)
    assert caught.value.code == "E0418"


def test_an_installed_package_brings_its_own(monkeypatch: pytest.MonkeyPatch):
    class Brought(OwnAvg):
        signature = "brought(value: number) -> float64"

    point = metadata.EntryPoint("brought", "brought:Brought", "dataflare.aggregates")
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: Brought)
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [point] if group == own._GROUP else []
    )
    assert registry.function("brought").signature == Brought.signature


def test_a_package_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch):
    point = metadata.EntryPoint("gone", "no_such_module:Gone", "dataflare.aggregates")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    with pytest.raises(ConfigError, match="the aggregate 'gone' cannot be loaded") as caught:
        registry.function("gone")
    assert caught.value.code == "E0418"
