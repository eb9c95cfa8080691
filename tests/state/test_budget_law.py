"""Whatever the budget of memory and the backend of state: the same rows, over windows, joins, aggregates and `deduplicate`.

pytestmark = pytest.mark.rotates(3)

Each plan runs once with a large budget, undisturbed. Then it runs with a small one: other batches, checkpoints, a crash,
another parallelism after it. After each step of an operator its tables are within their share, and state that had
left memory was read again.
"""

from __future__ import annotations

import datetime
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec import Struct
from optional_packages import package

from dataflare.engine.operating import ChunkFolder
from dataflare.state.pieces import Piece
from dataflare.state.tables import Tables
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource
from dataflare.workflow import Workflow, load_text

SEEDS = int(os.environ.get("DATAFLARE_LAW_SEEDS", "1"))
"""How many runs of each plan with each backend; more of them for a soak."""

Row = dict[str, Any]
START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
TEXT = "x" * 90
"""What makes rows long, so that few of them are more than the budget."""
TIMED = {"id": "int64", "k": "int64", "v": "int64", "text": "string", "at": "timestamp[us, UTC]"}
CHANGING = {"id": "int64", "k": "int64", "text": "string"}


class Plan(Struct):
    """steps: transformations by name. keyed: the steps whose results are changes, with the key of their table.
    sources: by name, of what kind its rows are (`made`), and how many. memory: the small budget."""

    steps: dict[str, str]
    sources: dict[str, tuple[str, int]]
    keyed: dict[str, str]
    memory: str = "1MiB"


MEASURES = "measures: {n: count(*), total: sum(v), first: min(id), most: max(text)}"
JOIN = "type: join, inputs: [left_rows, right_rows]"
PLANS = {
    "windows": Plan(
        {
            "tumbling": f"{{type: window, inputs: [rows], config: {{kind: tumbling, size: 20s, group_by: [k], {MEASURES}}}}}",
            "sliding": f"{{type: window, inputs: [rows], config: {{kind: sliding, size: 20s, slide: 5s, group_by: [k], {MEASURES}}}}}",
            "session": f"{{type: window, inputs: [rows], config: {{kind: session, gap: 3s, group_by: [k], {MEASURES}}}}}",
        },
        {"rows": ("timed", 4000)},
        {},
    ),
    "joins by time": Plan(
        {
            "near": f"{{{JOIN}, config: {{kind: left, on: [k], within: 15s, suffix: _r}}}}",
            "version": f"{{{JOIN}, config: {{kind: left, on: [k], temporal: {{}}, suffix: _r}}}}",
        },
        {"left_rows": ("timed", 2500), "right_rows": ("timed", 2500)},
        {},
        memory="512KiB",
    ),
    "joins of changelogs": Plan(
        {"named": f"{{{JOIN}, config: {{kind: inner, on: [k], suffix: _r}}}}"},
        {"left_rows": ("changing", 1500), "right_rows": ("changing", 1500)},
        {"named": "id, id_r"},
        memory="256KiB",
    ),
    "groups and doubles": Plan(
        {
            "final": f"{{type: aggregate, inputs: [rows], config: {{group_by: [k], {MEASURES}}}}}",
            "updated": f"{{type: aggregate, inputs: [rows], config: {{emit: updates, group_by: [k], {MEASURES}}}}}",
            "firsts": "{type: deduplicate, inputs: [rows], config: {key: [k]}}",
            "seldom": "{type: deduplicate, inputs: [rows], config: {key: [k], within: 2s}}",
        },
        {"rows": ("keyed", 5000)},
        {"updated": "k"},
    ),
}


def timed_rows(rng: random.Random, length: int, nulls: float = 0.02) -> list[Row]:
    """Out of order by two seconds at most, which the watermark allows. nulls: the share of rows without a key."""
    rows = []
    for number in range(length):
        at = number * 60 / length - rng.uniform(0, 2)
        key = rng.randrange(length // 3)
        rows.append(
            {
                "id": number,
                "k": key if rng.random() >= nulls else None,
                "v": rng.randrange(100),
                "text": f"{rng.randrange(1000)} {TEXT}",
                "at": START + datetime.timedelta(microseconds=round(at * 1e6)),
            }
        )
    return rows


def changing_rows(rng: random.Random, length: int) -> list[Row]:
    """A valid changelog, with rows that are deleted and others in their place."""
    there: list[Row] = []
    changes: list[Row] = []
    for number in range(length):
        if there and rng.random() < 0.3:
            changes.append({**there.pop(rng.randrange(len(there))), "_op": "delete"})
            continue
        row = {"id": number, "k": rng.randrange(length // 2), "text": f"{number} {TEXT}"}
        there.append(row)
        changes.append({**row, "_op": "insert"})
    return changes


def keyed_rows(rng: random.Random, length: int) -> list[Row]:
    return timed_rows(rng, length, nulls=0)


def rows_of(plan: Plan, seed: str) -> dict[str, list[Row]]:
    rng = random.Random(seed)
    made = {"timed": timed_rows, "keyed": keyed_rows, "changing": changing_rows}
    return {name: made[kind](rng, length) for name, (kind, length) in plan.sources.items()}


def workflow(plan: Plan, scripts: dict[str, ScriptedSource], settings: str, base: Path) -> Workflow:
    lines = ["name: law", f"settings: {settings}", "sources:"]
    for name, script in scripts.items():
        timed = plan.sources[name][0] != "changing"
        event_time = ", event_time: {column: at, out_of_orderness: 2s}" if timed else ""
        lines.append(f"  {name}: {{type: scripted, config: {{script: {script.name}}}{event_time}}}")
    lines += ["transformations:", *(f"  {name}: {step}" for name, step in plan.steps.items())]
    lines.append("destinations:")
    for name in plan.steps:
        mode = f"mode: mirror, key: [{plan.keyed[name]}]" if name in plan.keyed else "mode: append"
        config = f"{{path: out.db, table: {name}, {mode}}}"
        lines.append(f"  to_{name}: {{type: sqlite, inputs: [{name}], config: {config}}}")
    return load_text("\n".join(lines) + "\n", base=base)


def scripts_of(
    plan: Plan, rows: dict[str, list[Row]], marks: random.Random | None
) -> dict[str, ScriptedSource]:
    """marks: with checkpoints and one crash among the rows."""
    scripts = {}
    crashing = marks.choice([*rows]) if marks is not None else None
    for name, given in rows.items():
        items: list[Any] = [*given]
        if marks is not None:
            crash = marks.randrange(len(items) // 3, len(items))
            places = [marks.randrange(1, len(items)) for _ in range(3)]
            for place in sorted([*places, crash // 2], reverse=True):
                items.insert(place, Checkpoint())
            if name == crashing:
                items.insert(crash, Crash())
        kind = plan.sources[name][0]
        schema = CHANGING if kind == "changing" else TIMED
        scripts[name] = ScriptedSource(items, schema=schema, changelog=kind == "changing")
    return scripts


def contents(plan: Plan, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(folder / "out.db")) as db:
        return {
            name: sorted(db.execute(f"select * from {name}").fetchall(), key=repr)
            for name in plan.steps
        }


@contextmanager
def watched(plan: Plan) -> Iterator[Counter[str]]:
    """Counts rows that left memory and rows that were read again, and the steps of operators after which tables were
    over their share."""
    seen: Counter[str] = Counter()
    leave, keep, read = Piece.leave_memory, Tables.keep_within, ChunkFolder.read

    def leave_memory(self: Piece) -> None:
        seen["left"] += self.rows if self.in_memory else 0
        leave(self)
        assert not self.in_memory

    def keep_within(self: Tables, bytes_max: int) -> None:
        keep(self, bytes_max)
        seen["steps"] += 1
        seen["over"] += self.num_bytes() > bytes_max

    def read_again(self: ChunkFolder, chunk: Any) -> Any:
        frame = read(self, chunk)
        seen["read"] += frame.height
        return frame

    with (
        mock.patch.object(Piece, "leave_memory", leave_memory),
        mock.patch.object(Tables, "keep_within", keep_within),
        mock.patch.object(ChunkFolder, "read", read_again),
    ):
        yield seen


_expected: dict[tuple[str, int], dict[str, list[tuple[Any, ...]]]] = {}


def expected(which: str, part: int, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What comes out with room for everything."""
    if (which, part) not in _expected:
        plan, base = PLANS[which], folder / "large"
        base.mkdir()
        scripts = scripts_of(plan, rows_of(plan, f"{which} {part}"), None)
        settings = "{mode: streaming, parallelism: 1, resources: {memory: 1GiB}}"
        with watched(plan) as seen:
            result = Lab(base / "home", checkpoint_s=60).run(
                workflow(plan, scripts, settings, base)
            )
        assert result.error is None, result.error
        assert not seen["left"], "it should have had room"
        _expected[which, part] = contents(plan, base)
    return _expected[which, part]


@pytest.mark.parametrize("backend", ["memory", "sqlite", "rocksdb"])
@pytest.mark.parametrize("which", PLANS)
@pytest.mark.parametrize("part", range(SEEDS))
def test_a_small_budget_gives_the_same_rows(
    which: str, backend: str, part: int, tmp_path: Path
) -> None:
    if backend == "rocksdb":
        package("rocksdict")
    plan = PLANS[which]
    rng = random.Random(f"{which} {part} {backend}")
    large = expected(which, part, tmp_path)
    assert all(large.values()), "no rows, so nothing is shown"
    size = rng.choice((150, 400, 1000))
    settings = (
        f"{{mode: streaming, batch: {{initial: {size}, min: 100, max: {size}}}, resources: {{memory: {plan.memory}}}, "
        f"state: {{backend: {backend}}}}}"
    )
    scripts = scripts_of(plan, rows_of(plan, f"{which} {part}"), rng)
    small, lab = workflow(plan, scripts, settings, tmp_path), Lab(tmp_path / "home", checkpoint_s=1)
    with watched(plan) as seen:
        crashed = lab.run_until_crash(small, parallelism=rng.randrange(1, 3))
        result = lab.run(small, parallelism=rng.randrange(1, 3))
    assert crashed.error is not None
    assert crashed.error.code == "E0607", crashed.error
    assert result.error is None, result.error
    assert contents(plan, tmp_path) == large
    assert not seen["over"], seen
    assert min(seen["left"], seen["read"]) > 0, seen
