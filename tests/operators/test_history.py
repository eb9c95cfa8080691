"""`history`: the versions of each row are those that a plain loop finds, whatever the batches are."""

from __future__ import annotations

import datetime
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from changelogs import applied
from flows import ended, flow, inline, refused

from dataflare import RunOptions, run
from dataflare.connectors import memory
from dataflare.errors import DataFlareError
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.operators import history
from dataflare.operators.history import History
from dataflare.state.tables import Tables
from dataflare.workflow.load import load_text

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
SCHEMA = {"id": pl.Int64, "v": pl.String, "at": pl.Datetime("us", "UTC")}
Change = tuple[str, int, str | None, int]
"""Kind, key, value, and the second from which it is so."""
Version = tuple[int, str | None, int, int | None]


def plain(changes: list[Change], clock: list[int], *, timed: bool) -> tuple[list[Version], int]:
    """The versions (key, value, from, to), and how many changes came too late. clock: for each change, when it was read."""
    versions: dict[int, list[list[Any]]] = {}
    own_time: dict[int, int] = {}
    before: dict[int, int] = {}
    ended: dict[int, int] = {}
    early = 0
    for (kind, key, value, second), now in zip(changes, clock, strict=True):
        mine = versions.setdefault(key, [])
        current = mine[-1] if mine and mine[-1][2] is None else None
        newest = max([ended.get(key, -1), *([current[1]] if current else [])])
        if kind == "delete":
            at = second if timed and second > before.get(key, -1) else now
            before[key], ended[key] = second, max(at, newest)
            if current:
                current[2] = ended[key]
            continue
        since = second if timed else now
        start = max(since, newest)
        if current and since < own_time[key]:
            early += 1
            continue
        before[key] = second
        if current and current[0] == value and (not timed or own_time[key] == since):
            continue
        own_time[key] = since
        if current and start == current[1]:
            current[0] = value
            continue
        if current:
            current[2] = start
        mine.append([value, start, None])
    found = [(k, v, a, b) for k, mine in versions.items() for v, a, b in mine]
    return sorted(found, key=repr), early


def drawn(rng: random.Random, count: int) -> list[Change]:
    second, changes = 1_000, []
    for _ in range(count):
        second += rng.choice((0, 1, 1, 5, -3))
        kind = "delete" if rng.random() < 0.2 else "insert"
        value = rng.choice((None, "a", "b"))
        changes.append((kind, rng.randrange(5), value, second))
    return changes


def frame_of(changes: list[Change]) -> pl.DataFrame:
    rows = [(k, v, EPOCH + datetime.timedelta(seconds=s)) for _, k, v, s in changes]
    kinds = [RowKind[kind.upper()].value for kind, *_ in changes]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))


def second_of(moment: datetime.datetime | None) -> int | None:
    return None if moment is None else round((moment - EPOCH).total_seconds())


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_versions_are_those_of_a_plain_loop(
    seed: int, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    changes = drawn(rng, rng.randrange(1, 80))
    live = History("h", ("id",), "at" if timed else None).open(Tables())
    live.sift = True
    made, clock, at, refused_rows = [], [], 0, 0
    while at < len(changes):
        now = 1_000 + 2 * at
        monkeypatch.setattr(history.time, "time_ns", lambda now=now: now * 1_000_000_000)
        part = changes[at : at + rng.choice((1, 2, 7, 30))]
        clock += [now] * len(part)
        at += len(part)
        frame = frame_of(part)
        made += live.process(0, frame if timed else frame.drop("at"))
        refused_rows += sum(each.rows.height for each in live.refused())
    if not timed:  # time does not pass within a batch: the last change of a key is what counts
        changes, clock = newest_of_each_read(changes, clock)
    wanted, early = plain(changes, clock, timed=timed)
    found = [
        (id_, v, second_of(start), second_of(end))
        for id_, v, *_, start, end, current in applied(made)
        if current == (end is None)
    ]
    if timed:
        assert refused_rows == early
    # Whether a version that ends when it begins is there depends on the batches.
    assert lasting(found) == lasting(wanted)


def test_the_clock_of_the_machine_may_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    live = History("h", ("id",), None).open(Tables())
    live.sift = True
    made = []
    for now, value in ((2_000, "a"), (1_000, "b"), (3_000, "c")):
        monkeypatch.setattr(history.time, "time_ns", lambda now=now: now * 1_000_000_000)
        made += live.process(0, frame_of([("insert", 1, value, 0)]).drop("at"))
    found = [
        (value, second_of(start), second_of(end)) for _, value, *_, start, end, _ in applied(made)
    ]
    assert lasting([(1, *each) for each in found]) == [
        (1, "b", 2_000, 3_000),
        (1, "c", 3_000, None),
    ]


def lasting(versions: list[Version]) -> list[Version]:
    return sorted((each for each in versions if each[2] != each[3]), key=repr)


def newest_of_each_read(changes: list[Change], clock: list[int]) -> tuple[list[Change], list[int]]:
    last = {
        (now, change[1]): place
        for place, (change, now) in enumerate(zip(changes, clock, strict=True))
    }
    places = sorted(last.values())
    return [changes[place] for place in places], [clock[place] for place in places]


WORKFLOW = """\
name: customers
settings: {parallelism: 2}
sources:
  crm: {type: sqlite, config: {path: in.db, table: customers, incremental: {column: updated_at}}, schema: {updated_at: "timestamp[us, UTC]"}}
transformations:
  versions: {type: history, inputs: [crm], config: {key: id, time: updated_at}}
destinations:
  dim: {type: sqlite, inputs: [versions], config: {path: out.db, table: dim, mode: MODE, key: [id, valid_from]}}
"""


@pytest.mark.parametrize("mode", ["upsert", "mirror"])
def test_several_runs_keep_one_history(tmp_path: Path, mode: str) -> None:
    rng = random.Random(mode)
    written: list[Change] = []
    with closing(sqlite3.connect(tmp_path / "in.db")) as db:
        db.execute("create table customers (id integer primary key, v text, updated_at text)")
    second = 0
    for _ in range(4):
        with closing(sqlite3.connect(tmp_path / "in.db")) as db, db:
            for key in rng.sample(range(8), 5):
                second += 1
                value = rng.choice("ab")
                at = (EPOCH + datetime.timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
                db.execute("insert or replace into customers values (?, ?, ?)", (key, value, at))
                written.append(("insert", key, value, second))
        result = run(
            load_text(WORKFLOW.replace("MODE", mode), base=tmp_path),
            RunOptions(home=tmp_path / "home"),
        )
        assert result.error is None, result.error
        assert not result.warnings
    wanted, _ = plain(written, [0] * len(written), timed=True)
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        rows = db.execute("select id, v, valid_from, valid_to, is_current from dim").fetchall()
    moment = datetime.datetime.fromisoformat
    found = [
        (id_, v, second_of(moment(start)), second_of(moment(end)) if end else None)
        for id_, v, start, end, _ in rows
    ]
    assert sorted(found, key=repr) == wanted
    assert all(bool(current) == (end is None) for *_, end, current in rows)


STEP = "step: {type: history, inputs: [rows], config: {key: id, time: at}}"


def test_rows_without_a_key_or_a_time_are_refused_as_their_step_says() -> None:
    rows = inline(
        [
            {"id": 1, "at": "2026-01-01T00:00:00Z", "v": "a"},
            {"id": None, "at": "2026-01-01T00:00:00Z", "v": "b"},
            {"id": 2, "at": None, "v": "c"},
            {"id": 1, "at": "2025-01-01T00:00:00Z", "v": "d"},
        ],
        schema='{id: int64, at: "timestamp[us, UTC]", v: string}',
    )
    skipping = STEP[:-1] + ", error_handling: {on_error: skip}}"
    result = ended(flow(skipping, rows=rows))
    assert memory.take("out")["v"].to_list() == ["a"]
    assert result.steps["step"]["errors"] == 3


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (STEP.replace("time: at", "time: v"), "takes the time from 'v', which is string"),
        (STEP.replace("key: id", "key: nr"), "unknown column 'nr'"),
        (STEP, "gives the column 'valid_to' twice"),
    ],
)
def test_what_is_no_history_is_refused(step: str, says: str) -> None:
    more = {"valid_to": 1} if "twice" in says else {}
    row = {"id": 1, "at": "2026-01-01T00:00:00Z", "v": "a", **more}
    rows = inline([row], schema='{at: "timestamp[us, UTC]"}')
    assert says in refused(step, rows=rows)


def test_a_destination_that_appends_is_refused(tmp_path: Path) -> None:
    row = {"id": 1, "at": "2026-01-01T00:00:00Z"}
    text = f"""
name: h
sources: {{rows: {inline([row])}}}
transformations: {{step: {{type: history, inputs: [rows], config: {{key: id}}}}}}
destinations: {{out: {{type: sqlite, inputs: [step], config: {{path: o.db, table: t}}}}}}
"""
    with pytest.raises(DataFlareError, match="mode append does not take") as raised:
        run(load_text(text, base=tmp_path), RunOptions(home=tmp_path))
    assert raised.value.code == "E0315"
