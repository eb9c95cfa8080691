"""A destination whose key is not that of the changes has what is left of the rows of each key.

Whatever rows give their values to each other, in one batch or over several, the parallelism and the crashes.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from changelogs import Change, changelog_of, history, left_of, listed

from dataflare import RunResult
from dataflare.connectors.inline.source import is_known_by
from dataflare.model.batch import RowKind
from dataflare.planner import plan
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource
from dataflare.workflow import load_text

pytestmark = pytest.mark.rotates(2)

SEEDS = int(os.environ.get("DATAFLARE_LAW_SEEDS", "3"))
SCHEMA = {"id": "int64", "mail": "string", "v": "int64"}
Row = tuple[Any, ...]
LEAVES = (RowKind.UPDATE_BEFORE, RowKind.DELETE)


def of_other_key(rng: random.Random) -> list[Change]:
    """Rows by `id`; several may have one `mail`."""
    return history(
        rng,
        rng.randrange(5, 120),
        lambda r: (r.randrange(12), r.choice("abcdef"), r.randrange(9)),
        key=0,
    )


def that_move_on(rng: random.Random) -> list[Change]:
    """Rows that give their `mail` to each other, in cycles and in chains to a free one: in the end each is once there."""
    mails = [f"m{n}" for n in range(rng.randrange(2, 8))]
    there = {n: (n, mail, 0) for n, mail in enumerate(mails)}
    changes: list[Change] = [(RowKind.INSERT, row) for row in there.values()]
    for round_ in range(1, rng.randrange(2, 8)):
        ids = rng.sample(sorted(there), rng.randrange(1, len(there) + 1))
        given = [there[id_][1] for id_ in ids]
        moved = [*given[1:], given[0] if rng.random() < 0.5 else f"n{round_}"]
        for id_, mail in zip(ids, moved, strict=True):
            after = (id_, mail, round_)
            changes += [(RowKind.UPDATE_BEFORE, there[id_]), (RowKind.UPDATE_AFTER, after)]
            there[id_] = after
        if rng.random() < 0.2 and len(there) > 2:
            changes.append((RowKind.DELETE, there.pop(rng.choice(sorted(there)))))
    return changes


def last_of_each(changes: Iterable[Change], key: Callable[[Row], Any]) -> list[Row]:
    """Of the rows that are there, the last to come of each key."""
    there: list[Row] = []
    for kind, row in changes:
        if kind in LEAVES:
            there.remove(row)
        else:
            there.append(row)
    return listed({key(row): row for row in there}.values())


def by_key_alone(changes: Iterable[Change], key: Callable[[Row], Any]) -> list[Row]:
    """What a table has to which changes are applied by key."""
    table: dict[Any, Row] = {}
    for kind, row in changes:
        if kind in LEAVES:
            table.pop(key(row), None)
        else:
            table[key(row)] = row
    return listed(table.values())


def in_sqlite(folder: Path) -> list[Row]:
    with closing(sqlite3.connect(folder / "out.db")) as database:
        return listed(database.execute("SELECT id, mail, v FROM t").fetchall())


def in_duckdb(folder: Path) -> list[Row]:
    with duckdb.connect(folder / "out.db") as database:
        return listed(database.execute("SELECT id, mail, v FROM t").fetchall())


TABLES = {"sqlite": in_sqlite, "duckdb": in_duckdb}
STEPS = {
    "mapped": "{type: map, inputs: [s], config: {derive: {v: v + 1}}}",
    "filtered": "{type: filter, inputs: [s], config: {condition: v >= 0}}",
}


def ran(folder: Path, script: str, size: int, type_: str, step: str, crash: bool, rng: random.Random) -> RunResult:  # fmt: skip
    workflow = load_text(
        "name: law\n"
        f"settings: {{batch: {{initial: {size}, min: {size}, max: {size}}}}}\n"
        f"sources:\n  s: {{type: scripted, config: {{script: {script}}}}}\n"
        f"transformations:\n  x: {STEPS[step]}\n"
        f"destinations:\n  out: {{type: {type_}, inputs: [x], config: {{path: out.db, table: t, mode: mirror, key: [mail]}}}}\n",
        base=folder,
    )
    lab = Lab(folder / "home")
    if crash:
        lab.run_until_crash(workflow, parallelism=rng.randrange(1, 4))
    result = lab.run(workflow, parallelism=rng.randrange(1, 4))
    assert result.error is None, result.error
    return result


@pytest.mark.parametrize("made", [of_other_key, that_move_on])
@pytest.mark.parametrize("part", range(SEEDS))
def test_a_mirror_by_another_key_has_the_last_of_the_rows_that_are_there(
    made: Callable[[random.Random], list[Change]], part: int, tmp_path: Path
) -> None:
    rng = random.Random(f"{made.__name__} {part}")
    changes = made(rng)
    rows: list[Any] = [
        {"_op": kind.name.lower(), **dict(zip(SCHEMA, row, strict=True))} for kind, row in changes
    ]
    places = [n for n in range(1, len(rows)) if rows[n - 1]["_op"] != "update_before"]
    crash = bool(places)
    if crash:
        place = rng.choice(places)
        rows.insert(place, Crash())
        rows.insert(rng.choice([n for n in places if n <= place]), Checkpoint())
    source = ScriptedSource(rows, schema=SCHEMA, changelog=True, key=["id"][: rng.randrange(2)])
    type_, step = rng.choice(sorted(TABLES)), rng.choice(sorted(STEPS))
    result = ran(tmp_path, source.name, rng.choice((1, 2, 5, 1000)), type_, step, crash, rng)

    expected = last_of_each(changes, lambda row: row[1])
    added = 1 if step == "mapped" else 0
    assert TABLES[type_](tmp_path) == listed((id_, mail, v + added) for id_, mail, v in expected)
    covered = len(left_of(changes)) - len(expected)
    warned = [text for text in result.warnings if "another row with the same key" in text]
    assert len(warned) == bool(covered), result.warnings
    if covered:
        assert f" {covered} row" in warned[0]
    assert made is not that_move_on or not covered


def swapped(mirror: str, *, tail: str = "") -> str:
    changes = [
        ("insert", 1, "a"), ("insert", 2, "b"),
        ("update_before", 1, "a"), ("update_after", 1, "b"),
        ("update_before", 2, "b"), ("update_after", 2, "a"),
    ]  # fmt: skip
    rows = ", ".join(f"{{_op: {op}, id: {id_}, mail: {mail}}}" for op, id_, mail in changes)
    return (
        "name: swapped\nsources:\n"
        f"  s: {{type: inline, config: {{changelog: columns, rows: [{rows}{tail}]}}}}\n"
        f"destinations:\n  out: {{{mirror}}}\n"
    )


def test_a_live_table_has_both_rows_that_swapped_their_keys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = swapped("type: stdout, inputs: [s], config: {mode: mirror, key: [mail]}")
    assert Lab(tmp_path / "home").run(load_text(text, base=tmp_path)).error is None
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["1", "b"] in lines
    assert ["2", "a"] in lines


def test_a_delete_of_a_row_from_before_the_run_reaches_the_table(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "o.db")) as database:
        database.execute("CREATE TABLE t (id INTEGER, mail TEXT PRIMARY KEY)")
        database.execute("INSERT INTO t VALUES (9, 'z'), (8, 'y')")
        database.commit()
    text = swapped(
        "type: sqlite, inputs: [s], config: {path: o.db, table: t, mode: mirror, key: [mail]}",
        tail=", {_op: delete, id: 9, mail: z}, {_op: delete, id: 7, mail: a}",
    )
    result = Lab(tmp_path / "home").run(load_text(text, base=tmp_path))
    assert result.error is None, result.error
    with closing(sqlite3.connect(tmp_path / "o.db")) as database:
        rows = database.execute("SELECT id, mail FROM t ORDER BY mail").fetchall()
    assert rows == [(2, "a"), (1, "b"), (8, "y")]
    assert any("a delete had values that no row has" in text for text in result.warnings)


@pytest.mark.parametrize("part", range(SEEDS))
def test_changes_that_are_said_to_be_known_by_a_key_may_be_applied_by_it(part: int) -> None:
    rng = random.Random(part)
    answers = set()
    for _ in range(150):
        length, mails = rng.randrange(1, 10), rng.choice(("ab", "abcdefgh"))
        changes = history(
            rng, length, lambda r, m=mails: (r.randrange(9), r.choice(m), r.randrange(2)), key=0
        )
        known = is_known_by(changelog_of(SCHEMA, changes), {"mail"})
        answers.add(known)
        assert is_known_by(changelog_of(SCHEMA, changes), {"id"})
        assert is_known_by(changelog_of(SCHEMA, changes), {"id", "mail"})
        if known:
            left = listed(left_of(changes))
            assert by_key_alone(changes, lambda row: row[1]) == left
    assert answers == {True, False}


def test_deletes_with_the_key_alone_mean_the_row_that_has_it() -> None:
    insert, delete = RowKind.INSERT, RowKind.DELETE
    changes = [(insert, (1, "a", 5)), (delete, (1, None, None)), (insert, (1, "b", 6))]
    assert is_known_by(changelog_of(SCHEMA, changes), {"id"})
    others = [(insert, (1, "a", 5)), (delete, (1, "c", 5))]
    assert not is_known_by(changelog_of(SCHEMA, others), {"id"})


def test_a_plan_says_where_a_key_is_not_that_of_the_changes(tmp_path: Path) -> None:
    both = ScriptedSource(
        [{"_op": "insert", "id": 1, "k": 2, "l": [1]}], schema={"id": "int64", "k": "int64", "l": "list<int64>"},
        changelog=True, key=["id"],
    )  # fmt: skip
    other = ScriptedSource(
        [{"_op": "insert", "k": 1, "v": 2}], schema={"k": "int64", "v": "int64"}, changelog=True, key=["k"]
    )  # fmt: skip

    def is_kept(step: str, key: str, mode: str = "mirror", more: str = "") -> bool:
        second = f"  u: {{type: scripted, config: {{script: {other.name}}}}}\n" * (", u]" in step)
        text = (
            f"name: w\nsources:\n  s: {{type: scripted, config: {{script: {both.name}}}}}\n"
            f"{second}transformations:\n  x: {step}\n"
            "destinations:\n"
            f"  out: {{type: sqlite, inputs: [x], config: {{path: o.db, table: t, mode: {mode}, key: [{key}]{more}}}}}\n"
        )
        made = plan(load_text(text, base=tmp_path)).view()
        notes = [note for node in made["nodes"] if node["id"] == "out" for note in node["notes"]]
        return any("not known to be the key of the changes" in note for note in notes)

    mapped = "{type: map, inputs: [s], config: {rename: {id: number}}}"
    assert not is_kept(mapped, "number")
    assert not is_kept(mapped, "number, k")
    assert is_kept(mapped, "k")
    assert not is_kept(mapped, "k", mode="upsert")
    assert not is_kept(mapped, "k", more=", sequence: number")
    assert is_kept("{type: map, inputs: [s], config: {derive: {id: id % 10}}}", "id")
    exploded = "{type: explode, inputs: [s], config: {column: l, index: n}}"
    assert not is_kept(exploded, "id, n")
    assert is_kept(exploded, "id")
    join = "{type: join, inputs: [s, u], config: {on: [k]}}"
    assert not is_kept(join, "id, k")
    assert is_kept(join, "k")
    counted = "{type: aggregate, inputs: [s], config: {emit: updates, group_by: [k], measures: {n: count(*)}}}"
    assert not is_kept(counted, "k")
    assert is_kept(counted, "n, k") is False
    newest = "{type: deduplicate, inputs: [s], config: {key: k, keep: last, order_by: [id]}}"
    assert not is_kept(newest, "k")
    assert is_kept("{type: union, inputs: [s, u]}", "k")
