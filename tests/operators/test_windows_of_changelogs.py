"""`window` over a changelog: what is left of the results is what DuckDB makes of the changes that were in time,
whatever the batches, watermarks, checkpoints and the parallelism."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from changelogs import applied, asked, history, left_of, listed
from flows import ended, flow_text, ordered, refused, result_of
from timed_runs import Outcome, Play, Split, at, timed

from dataflare.model.batch import CHANGES, KIND_COLUMN, RowKind
from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.types import Schema
from dataflare.operators import window_panes
from dataflare.operators.base import ERROR_COLUMN, BindContext, Bound, Lowering, Result
from dataflare.operators.window import WindowStep
from dataflare.sdk.context import Policy
from dataflare.state.layout import STEP, Held
from dataflare.state.tables import TableShare
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource
from dataflare.workflow import bind, load_text

pytestmark = pytest.mark.rotates(2)

SECOND = 1_000_000
SCHEMA = Schema.of({"k": "string", "v": "int64", "d": "decimal(12, 2)"})
MEASURES = {
    "n": "count(*)", "values": "count(v)", "total": "sum(v)", "money": "sum(d)", "mean": "avg(v)",
    "high": "count(*) FILTER (WHERE v > 1)",
}  # fmt: skip
QUERY = """
WITH summed AS (
    SELECT KEY start, sum(w)::BIGINT AS n, coalesce(sum(w) FILTER (v IS NOT NULL), 0)::BIGINT AS there,
        sum(v * w)::BIGINT AS total, sum(d * w)::DECIMAL(38, 2) AS money,
        coalesce(sum(w) FILTER (v > 1), 0)::BIGINT AS high
    FROM (SELECT *, unnest(starts) AS start FROM e) GROUP BY ALL HAVING sum(w) > 0
)
SELECT KEY start, n, there, CASE WHEN there > 0 THEN total END, money, CASE WHEN there > 0 THEN total / there END, high
FROM summed
"""
"""Changes as weights in each window that takes them. A window is named by its start, in seconds."""


KEPT = {
    "n": "count(*)", "low": "min(v)", "high": "max(v)", "middle": "median(v)", "kinds": "count(DISTINCT v)",
    "money": "sum(d)", "many": "list(v ORDER BY v)",
}  # fmt: skip
KEPT_QUERY = """
WITH counted AS (
    SELECT KEY start, v, d, sum(w)::BIGINT AS times
    FROM (SELECT *, unnest(starts) AS start FROM e) GROUP BY ALL
), repeated AS (
    SELECT *, unnest(range(greatest(times, 0)))
    FROM (SELECT *, sum(times) OVER (PARTITION BY KEY start) AS rows FROM counted) WHERE rows > 0
)
SELECT KEY start, count(*), min(v), max(v), median(v), count(DISTINCT v), sum(d)::DECIMAL(38, 2), list(v ORDER BY v)
FROM repeated GROUP BY ALL
"""
"""The same for measures that need the values which are there."""


class Loose(Outcome):
    """Results of windows that take late rows may be earlier than what was told."""

    def take(self, results: Any, least: int = NEVER) -> None:
        super().take(_without_faults(result) for result in results)


def _without_faults(result: Result) -> Result:
    if isinstance(result, pl.DataFrame) and ERROR_COLUMN in result.columns:
        assert result[ERROR_COLUMN].null_count() == result.height
        return result.drop(ERROR_COLUMN)
    return result


class WindowPlay(Play):
    def _open(self, subtasks: int, shares: Sequence[TableShare]) -> None:
        super()._open(subtasks if self.operator.keys else 1, shares)

    def _tell(self) -> None:
        super()._tell()
        if self.lives[0].tick_s is not None and self.random.random() < 0.5:
            for live in self.lives:
                self.outcome.take(live.tick())


def bound(config: dict[str, Any], *, streaming: bool) -> Bound:
    context = BindContext(
        step="w",
        base=Path(),
        policy=Policy(),
        bounded=True,
        parallelism=1,
        table=lambda _: None,  # type: ignore[arg-type, return-value]
        timed=(True,),
        streaming=streaming,
        read=frozenset({"late"}),
        kinds=(CHANGES,),
    )
    return WindowStep.bind(bind(WindowStep.Config, config, step="w"), [SCHEMA], context)


def a_row(rng: Random) -> tuple[Any, ...]:
    return (
        rng.choice((None, "a", "b")), rng.choice((None, 0, 1, 2, -3)), Decimal(rng.randrange(-300, 300)) / 100,
        rng.randrange(60) * SECOND,
    )  # fmt: skip


def a_config(rng: Random, measures: dict[str, str]) -> dict[str, Any]:
    size = rng.choice((3, 10))
    slide = rng.choice((size, size, 3, 1))
    config: dict[str, Any] = {"measures": measures, "group_by": rng.choice((["k"], ["k"], []))}
    config |= {"kind": "tumbling", "size": f"{size}s"}
    if slide < size:
        config |= {"kind": "sliding", "slide": f"{slide}s"}
    how = rng.choice(("final", "late", "every", "both", "global"))
    if how == "global" and measures is KEPT:
        how = "final"
    if how == "global":
        config = {"kind": "global", "measures": measures, "group_by": config["group_by"]}
        how = rng.choice(("final", "every"))
    if how in ("late", "both"):
        config["allowed_lateness"] = "5s"
    if how in ("every", "both"):
        config["trigger"] = {"every": "1s"}
    if how != "final":
        config["emit"] = "updates"
    return config


def starts_of(config: dict[str, Any], time: int, closed: int) -> list[int]:
    """The windows that take a row, those that end later than `closed`."""
    if config["kind"] == "global":
        return [0]
    size = int(config["size"][:-1]) * SECOND
    slide = int(config.get("slide", config["size"])[:-1]) * SECOND
    last = time - time % slide
    starts = range(last - (size - 1) // slide * slide, last + 1, slide)
    return [s // SECOND for s in starts if s <= time < s + size and s + size > closed]


@pytest.mark.parametrize(
    ("measures", "query"), [(MEASURES, QUERY), (KEPT, KEPT_QUERY)], ids=["sums", "values"]
)
@pytest.mark.parametrize("part", range(4))
def test_windows_are_those_of_the_changes_in_time(
    part: int, measures: dict[str, str], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_panes, "_COPIES_MAX", 0 if part == 3 else 20_000)
    monkeypatch.setattr(window_panes, "_SLICE_ROWS", 2 if part == 2 else 100_000)
    for seed in range(part, 60, 4):
        rng = Random(seed)
        config = a_config(rng, measures)
        disorder = rng.choice((None, 0, 10 * SECOND, 60 * SECOND))
        lateness = 5 * SECOND if "allowed_lateness" in config else 0
        step = bound(config, streaming=disorder is not None)
        splits, taken, late, everything = [], [], [], []
        for _ in range(rng.randint(1, 2)):
            changes = history(rng, rng.choice((0, 4, 40)), a_row)
            everything += left_of(changes)
            frame = pl.DataFrame(
                [row for _, row in changes],
                schema={**SCHEMA.to_polars(), TIME_COLUMN: pl.Int64},
                orient="row",
            )
            kinds = pl.Series(KIND_COLUMN, [kind.value for kind, _ in changes], dtype=pl.UInt8)
            marks, greatest = [], NEVER
            for kind, (k, v, d, time) in changes:
                greatest = max(greatest, time)
                marks.append(greatest - (disorder or 0))
                closed = NEVER if disorder is None else marks[-1] - lateness
                leaves = kind in (RowKind.DELETE, RowKind.UPDATE_BEFORE)
                starts = starts_of(config, time, closed)
                if starts:
                    taken.append((k, v, d, -1 if leaves else 1, starts))
                else:
                    late.append((k, v, d, "delete" if leaves else "insert"))
            frame = frame.with_columns(kinds)
            if disorder is not None:
                frame = frame.with_columns(pl.Series(WATERMARK_COLUMN, marks, dtype=pl.Int64))
            lowered = frame.lazy()
            for operator in step.operators:
                lowered = operator.lower(lowered, Lowering(changelog=True))
            splits.append(Split(0, lowered.collect()))
        assert step.stateful is not None
        play = WindowPlay(step.stateful, splits, rng, disorder)
        play.outcome = Loose([], {})
        outcome = play.run()

        types = {**SCHEMA.to_polars(), "w": pl.Int64, "starts": pl.List(pl.Int64)}
        keyed = bool(config["group_by"])
        found = asked(
            query.replace("KEY", "k," * keyed),
            e=pl.DataFrame(taken, schema=types, orient="row"),
        )
        frames = [named(frame, config) for frame in outcome.main]
        context = (seed, config, disorder)
        assert applied(frames) == found, context
        assert KIND_COLUMN in frames[0].columns if frames and "emit" in config else True
        side = [_shown(frame) for frame in outcome.sides.get("late", [])]
        made = listed(row for frame in side for row in frame.rows())
        assert made == listed(late), context
        if disorder is None:
            # Without watermarks no change is late: the results are those of the rows that are left.
            left = [(k, v, d, 1, starts_of(config, time, NEVER)) for k, v, d, time in everything]
            table = pl.DataFrame(left, schema=types, orient="row")
            assert found == asked(query.replace("KEY", "k," * keyed), e=table), context


def named(frame: pl.DataFrame, config: dict[str, Any]) -> pl.DataFrame:
    """Results with the start of their window in seconds."""
    start = (pl.col("window_start").dt.epoch("s")).fill_null(0)
    frame = frame.drop("window_end", TIME_COLUMN, WATERMARK_COLUMN, strict=False)
    keys = ["k"] if config["group_by"] else []
    kind = [KIND_COLUMN] if KIND_COLUMN in frame.columns else []
    return frame.select(*keys, start, *config["measures"], *kind)


def _shown(late: pl.DataFrame) -> pl.DataFrame:
    return late.select("k", "v", "d", "_op")


CHANGED = [
    ("insert", 1, "a", 5, 1),
    ("insert", 2, "a", 7, 3),
    ("insert", 3, "b", 9, 4),
    ("update_before", 2, "a", 7, 3),
    ("update_after", 2, "b", 8, 12),
    ("delete", 3, "b", 9, 4),
    ("insert", 4, "a", 1, 25),
    ("delete", 1, "a", 5, 1),
]
"""The last delete comes when its window has ended."""


def changed(rows: list[tuple[str, int, str, int, float]], out_of_orderness: str = "15s") -> str:
    items = [{"_op": op, "id": i, "k": k, "v": v, "at": at(time)} for op, i, k, v, time in rows]
    text = timed(items, "at", id="int64", k="string", v="int64")
    text = text.replace("config: {", "config: {changelog: columns, ", 1)
    return text.replace("out_of_orderness: 1s", f"out_of_orderness: {out_of_orderness}")


ONE_BY_ONE = "{mode: streaming, batch: {initial: 1, min: 1, max: 1}}"
WINDOW = "kind: tumbling, size: 10s, group_by: [k], measures: {n: count(*), total: sum(v)}"


def result(row: dict[str, Any]) -> tuple[Any, ...]:
    return (str(row["window_start"])[17:19], row["k"], row["n"], row["total"])


def test_a_delete_takes_its_row_back_from_its_window() -> None:
    made = result_of(
        f"step: {{type: window, inputs: [s], config: {{{WINDOW}}}}}",
        s=changed(CHANGED, "1m"),
        settings=ONE_BY_ONE,
    )
    assert ordered([result(row) for row in made]) == [("10", "b", 1, 8), ("20", "a", 1, 1)]


def test_late_rows_go_to_any_destination_whatever_the_results_are(tmp_path: Path) -> None:
    """Also to a file, which takes no changelog."""
    late = tmp_path / "late.ndjson"
    for more in ("", ", emit: updates", ", emit: updates, allowed_lateness: 1s"):
        text = flow_text(
            f"step: {{type: window, inputs: [s], config: {{{WINDOW}{more}}}}}",
            s=changed(CHANGED, "12s"),
            settings=ONE_BY_ONE,
        )
        text += f"  late: {{type: file, inputs: [step.late], config: {{path: {late}}}}}\n"
        assert ended(load_text(text, file="flow.yaml")).error is None, more
        assert [json.loads(line)["_op"] for line in late.open()] == ["delete"], more


def test_a_delete_that_is_late_is_told_as_such() -> None:
    made, late = result_of(
        f"step: {{type: window, inputs: [s], config: {{{WINDOW}}}}}",
        outputs={"out": "step", "late": "step.late"},
        s=changed(CHANGED, "12s"),
        settings=ONE_BY_ONE,
    )
    assert ordered([result(row) for row in made]) == [
        ("00", "a", 1, 5), ("10", "b", 1, 8), ("20", "a", 1, 1),
    ]  # fmt: skip
    assert [(row["id"], row["v"], row["_op"]) for row in late] == [(1, 5, "delete")]


def test_a_window_that_has_lost_its_last_row_is_deleted() -> None:
    made = result_of(
        f"step: {{type: window, inputs: [s], config: {{{WINDOW}, emit: updates, allowed_lateness: 1m}}}}",
        s=changed(CHANGED, "12s"),
        settings=ONE_BY_ONE,
    )
    first = [(row["_op"], *result(row)) for row in made if result(row)[:2] == ("00", "a")]
    assert first == [("insert", "00", "a", 1, 5), ("delete", "00", "a", 1, 5)]


def test_a_window_of_windows_takes_results_back() -> None:
    """The totals of ten seconds change; so does their total of a minute."""
    steps = (
        f"first: {{type: window, inputs: [s], config: {{{WINDOW}, emit: updates, allowed_lateness: 1m}}}}\n"
        "step: {type: window, inputs: [first], config: {kind: tumbling, size: 1m, measures: {windows: count(*), "
        "total: sum(total)}}}"
    )
    made = result_of(steps, s=changed(CHANGED, "12s"), settings=ONE_BY_ONE)
    assert [(row["windows"], row["total"]) for row in made] == [(2, 9)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("kind: session, gap: 1s, measures: {n: count(*)}", "may have joined two sessions"),
        ("kind: tumbling, size: 1s, fill: 0, measures: {n: count(*)}", "`fill` goes on"),
        ("kind: tumbling, size: 1s, trigger: {count: 2}, emit: updates, measures: {n: count(*)}", "by count"),
        ("kind: global, trigger: {every: 1s}, measures: {n: count(*)}", "set emit: updates"),
        ("kind: tumbling, size: 1s, allowed_lateness: 1s, measures: {n: count(*)}", "set emit: updates"),
        ("kind: tumbling, size: 1s, measures: {any: first(v)}", "first() depends on the order"),
        ("kind: tumbling, size: 1s, measures: {all: list(v)}", "list(value ORDER BY other)"),
        ("kind: global, measures: {high: max(v)}", "max() would need all values of a window that is open"),
        ("kind: global, measures: {n: sum(v / 2.0)}", "sum() would need all values"),
    ],
)  # fmt: skip
def test_what_could_not_be_taken_back_is_refused(config: str, words: str) -> None:
    block = refused(
        f"step: {{type: window, inputs: [s], config: {{{config}}}}}",
        s=changed(CHANGED),
        settings="{mode: streaming}",
    )
    assert block.startswith("error[E0315]: step 'step' receives a changelog")
    assert words in block


@pytest.mark.parametrize("seed", range(3))
def test_a_mirror_of_windows_has_what_is_left_after_a_crash(seed: int, tmp_path: Path) -> None:
    rng = Random(f"windows {seed}")
    schema = {"id": "int64", "k": "string", "v": "int64", "at": "timestamp[us, UTC]"}

    def drawn(rng: Random) -> tuple[Any, ...]:
        time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(600))
        return (rng.randrange(500), rng.choice("ab"), rng.randrange(-9, 9), time)

    changes = history(rng, 150, drawn, key=0)
    rows: list[Any] = [
        {"_op": kind.name.lower(), **dict(zip(schema, row, strict=True))} for kind, row in changes
    ]
    places = [n for n in range(60, 120) if rows[n - 1]["_op"] != "update_before"]
    rows.insert(places[-1], Crash())
    rows.insert(places[0], Checkpoint())
    source = ScriptedSource(rows, schema=schema, changelog=True)
    size = rng.choice((1, 7, 40))
    workflow = load_text(
        "name: law\n"
        f"settings: {{mode: streaming, batch: {{initial: {size}, min: {size}, max: {size}}}}}\n"
        "sources:\n"
        f"  s: {{type: scripted, config: {{script: {source.name}}}, event_time: {{column: at, out_of_orderness: 5s}}}}\n"
        "transformations:\n"
        "  windows: {type: window, inputs: [s], config: {kind: tumbling, size: 1m, group_by: [k], emit: updates, "
        "allowed_lateness: 1d, measures: {n: count(*), total: sum(v)}}}\n"
        "  out_rows: {type: map, inputs: [windows], config: {select: [k, w, n, total], "
        "derive: {w: cast(window_start AS string)}}}\n"
        "destinations:\n"
        "  out: {type: sqlite, inputs: [out_rows], config: {path: out.db, table: t, mode: mirror, key: [k, w]}}\n",
        base=tmp_path,
    )
    lab = Lab(tmp_path / "home")
    lab.run_until_crash(workflow, parallelism=rng.randrange(1, 4))
    result = lab.run(workflow, parallelism=rng.randrange(1, 4))
    assert result.error is None, result.error
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        made = database.execute("SELECT k, substr(w, 1, 16), n, total FROM t").fetchall()
    left = pl.DataFrame(left_of(changes), schema=Schema.of(schema).to_polars(), orient="row")
    left = left.with_columns(pl.col("at").dt.replace_time_zone(None))
    query = (
        "SELECT k, strftime(t.\"at\", '%Y-%m-%d %H:%M') AS w, count(*), sum(v)::BIGINT "
        "FROM t GROUP BY 1, 2"
    )
    assert listed(made) == asked(query, t=left)


def test_state_of_inserts_is_not_taken_for_that_of_a_changelog() -> None:
    config = {"kind": "tumbling", "size": "10s", "group_by": ["k"], "measures": MEASURES}
    operator = bound(config, streaming=True).stateful
    assert operator is not None
    now = operator.layout([SCHEMA])[STEP].settings  # type: ignore[index]
    before = {name: value for name, value in now.items() if name != "changes"}
    held = Held(rows={"panes": 1})
    reasons = [operator.adapted(*pair, held) for pair in ((before, now), (now, before))]
    assert reasons == [
        "its input was inserts only, and is a changelog",
        "its input was a changelog, and is inserts only",
    ]
    assert not isinstance(operator.adapted(now, now, held), str)
