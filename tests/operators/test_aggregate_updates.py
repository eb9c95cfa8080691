"""`aggregate` with `emit: updates`: a changelog whose outcome is the final aggregate, at any moment."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from flows import flow, inline, refused, result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare import Workflow
from dataflare.connectors import memory
from dataflare.jobs import RunOptions, run
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.operators.aggregate_updates import AggregateUpdates
from dataflare.operators.base import ERROR_COLUMN
from dataflare.planner import plan
from dataflare.planner.changelog import row_kinds
from dataflare.planner.graph import StatefulNode
from dataflare.state.tables import Tables
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource
from dataflare.workflow import load_text

MEASURES = "{n: count(*), total: sum(v), low: min(v), kinds: count(distinct v)}"
KEYS = [None, "a", "b", "é"]


def operator_of(by: str = "[k]", measures: str = MEASURES) -> AggregateUpdates:
    steps = (
        "step: {type: aggregate, inputs: [s], config: {emit: updates, "
        f"group_by: {by}, measures: {measures}}}}}"
    )
    rows = inline([{"k": "a", "v": 1}], schema="{k: string, v: int64}")
    nodes = plan(flow(steps, s=rows)).written
    [node] = [node for node in nodes if isinstance(node, StatefulNode)]
    assert isinstance(node.operator, AggregateUpdates)
    return node.operator


KEYED, ALONE = operator_of(), operator_of("[]")


def prepared(rows: list[tuple[str | None, int | None]], keyed: bool) -> pl.DataFrame:
    """Rows as the operator gets them: its key and the inputs of its measures."""
    operator = KEYED if keyed else ALONE
    frame = pl.DataFrame(rows, schema={"k": pl.String, "v": pl.Int64}, orient="row")
    inputs = {name for name, _ in operator.aggregation.inputs}
    names = {name: pl.col("v").alias(name) for name in inputs}
    return frame.select(*(["k"] if keyed else []), *names.values())


def applied(changes: list[dict[str, Any]], result: dict[Any, Any]) -> None:
    """Apply changes, and check that each is right for what is there."""
    waiting: tuple[Any, Any] | None = None
    for row in changes:
        kind = RowKind(row.pop(KIND_COLUMN))
        key = row.get("k")
        assert (waiting is not None) == (kind is RowKind.UPDATE_AFTER), "halves stand side by side"
        match kind:
            case RowKind.INSERT:
                assert key not in result
                result[key] = row
            case RowKind.UPDATE_BEFORE | RowKind.DELETE:
                assert result.pop(key) == row, "the first half is what was given before"
                waiting = (key, row) if kind is RowKind.UPDATE_BEFORE else None
            case RowKind.UPDATE_AFTER:
                assert waiting is not None
                assert waiting[0] == key
                assert waiting[1] != row
                result[key], waiting = row, None
    assert waiting is None


batches = st.lists(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(-5, 5))), max_size=6
    ),
    max_size=12,
)


@given(batches, st.booleans())
@settings(max_examples=120, deadline=None)
def test_after_each_batch_the_changes_lead_to_the_aggregate_of_all_rows(
    given_batches: list[list[tuple[str | None, int | None]]], keyed: bool
) -> None:
    live = (KEYED if keyed else ALONE).open(Tables())
    result: dict[Any, Any] = {}
    so_far: dict[Any, list[int | None]] = {}
    for rows in given_batches:
        for key, value in rows:
            so_far.setdefault(key if keyed else None, []).append(value)
        for frame in live.process(0, prepared(rows, keyed)):
            applied(frame.drop(ERROR_COLUMN, strict=False).to_dicts(), result)
        expected = {}
        for key, values in so_far.items():
            there = [value for value in values if value is not None]
            expected[key] = {
                **({"k": key} if keyed else {}),
                "n": len(values),
                "total": sum(there) if there else None,
                "low": min(there, default=None),
                "kinds": len(set(there)),
            }
        assert result == expected
    for frame in live.end(0):
        applied(frame.drop(ERROR_COLUMN, strict=False).to_dicts(), result)
    assert keyed or result[None]["n"] == sum(map(len, given_batches))


def test_a_filter_behind_it_retracts_groups_that_leave() -> None:
    steps = (
        "sums: {type: aggregate, inputs: [s], config: {emit: updates, group_by: [k], "
        "measures: {total: sum(v)}}}\n"
        "step: {type: filter, inputs: [sums], config: {condition: total > 3}}"
    )
    rows = [{"k": "a", "v": 5}, {"k": "a", "v": -4}, {"k": "b", "v": 9}]
    made = result_of(
        steps, s=inline(rows), settings="{parallelism: 1, batch: {initial: 1, min: 1, max: 1}}"
    )
    there: list[Any] = []
    for row in made:
        kind = row.pop("_op")
        there.remove(row) if kind in ("delete", "update_before") else there.append(row)
    assert there == [{"k": "b", "total": 9}]


def test_a_group_that_fails_is_deleted_and_comes_back_as_an_insert() -> None:
    operator = operator_of(measures="{x: cast(sum(v) as int8)}")
    live, result = operator.open(Tables()), {}
    kinds = []
    for value in (2, 300, -297):
        for frame in live.process(0, prepared([("a", value)], True)):
            good = frame.filter(pl.col(ERROR_COLUMN).is_null()) if (
                ERROR_COLUMN in frame.columns) else frame  # fmt: skip
            kinds += [RowKind(kind).name for kind in good[KIND_COLUMN]]
            applied(good.drop(ERROR_COLUMN, strict=False).to_dicts(), result)
    assert result == {"a": {"k": "a", "x": 5}}
    assert RowKind.DELETE in operator.makes(frozenset())
    assert RowKind.DELETE not in operator_of(measures="{n: count(*)}").makes(frozenset())
    assert kinds == ["INSERT", "DELETE", "INSERT"]


def test_an_input_without_end_is_kept_up_to_date_in_a_database(tmp_path: Path) -> None:
    workflow = load_text(
        """\
name: counts
settings: {parallelism: 2, checkpoint: {interval: 20ms}}
sources: {s: {type: generate, config: {rate: 2000/s, columns: {n: {sequence: 0}}}}}
transformations:
  tens: {type: aggregate, inputs: [s], config: {group_by: {ten: n % 10}, measures: {c: count(*), m: max(n)}}}
destinations:
  out:
    type: sqlite
    inputs: [tens]
    config: {path: out.db, table: t, mode: upsert, key: [ten]}
""",
        base=tmp_path,
    )
    result = run(workflow, RunOptions(home=tmp_path / "home", for_s=0.6))
    assert result.error is None
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        rows = db.execute("select ten, c, m from t order by ten").fetchall()
    read = max(m for _, _, m in rows) + 1
    assert [ten for ten, _, _ in rows] == list(range(10))
    assert [(c, m) for _, c, m in rows] == [
        (len(range(ten, read, 10)), range(ten, read, 10)[-1]) for ten in range(10)
    ]


def test_each_update_comes_once_over_a_crash_and_another_parallelism(tmp_path: Path) -> None:
    rows = [{"k": f"k{n % 5}", "v": n} for n in range(200)]
    script = ScriptedSource([*rows[:90], Checkpoint(), *rows[90:130], Crash(), *rows[130:]])

    def counted() -> Workflow:
        wf = Workflow("totals", parallelism=2)
        script.add_to(wf, "s").aggregate(
            "totals", {"n": "count(*)", "t": "sum(v)"}, group_by=["k"], emit="updates"
        ).to("out", "memory")
        return wf

    lab = Lab(tmp_path)
    lab.run_until_crash(counted())
    assert lab.run(counted(), parallelism=3).status == "finished"
    result: dict[Any, Any] = {}
    for row in memory.committed("out").to_dicts():
        row[KIND_COLUMN] = RowKind[row.pop("_op").upper()]
        applied_one(row, result)
    assert result == {
        f"k{k}": {"k": f"k{k}", "n": 40, "t": sum(range(k, 200, 5))} for k in range(5)
    }


def applied_one(row: dict[str, Any], result: dict[Any, Any]) -> None:
    """Apply one change, where those of several groups may be mixed."""
    kind = row.pop(KIND_COLUMN)
    if kind in (RowKind.INSERT, RowKind.UPDATE_AFTER):
        assert row["k"] not in result
        result[row["k"]] = row
    else:
        assert result.pop(row["k"]) == row


def test_the_planner_knows_its_kinds_and_refuses_what_cannot_take_them() -> None:
    steps = (
        "step: {type: aggregate, inputs: [s], config: {emit: updates, group_by: [k], "
        "measures: {n: count(*)}}}"
    )
    kinds = row_kinds(plan(flow(steps, s=inline([{"k": 1}]))).written)
    assert kinds["step"] == {RowKind.INSERT, RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER}
    block = refused(
        steps.replace("step:", "sums:")
        + "\nstep: {type: limit, inputs: [sums], config: {rows: 1}}",
        s=inline([{"k": 1}]),
    )
    assert block.startswith(
        "error[E0315]: step 'step' receives a changelog (rows with inserts and updates)"
    )
    assert "the changelog comes from: sums" in block


@pytest.mark.parametrize(("emit", "code"), [("emit: final, ", "E0316"), ("", None)])
def test_without_an_end_updates_are_the_default(emit: str, code: str | None) -> None:
    steps = f"step: {{type: aggregate, inputs: [s], config: {{{emit}measures: {{n: count(*)}}}}}}"
    source = "{type: generate, config: {columns: {n: {sequence: 0}}}}"
    if code:
        assert refused(steps, s=source).startswith(f"error[{code}]")
    else:
        assert not plan(flow(steps, s=source)).stages.bounded
