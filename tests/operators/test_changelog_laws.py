"""Random changelogs through random plans into a database: it has what DuckDB makes of the rows that are left.

Whatever the batches, the parallelism, the crashes, and the parallelism after them.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from changelogs import Change, asked, history, left_of, listed

from dataflare.planner import plan
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource
from dataflare.workflow import load_text

pytestmark = pytest.mark.rotates(2)

SEEDS = int(os.environ.get("DATAFLARE_LAW_SEEDS", "3"))
"""How many runs of each plan; more of them for a soak."""

ORDERS = {"id": "int64", "customer": "int64", "amount": "int64", "seq": "int64"}
CUSTOMERS = {"customer": "int64", "name": "string", "region": "string"}


def an_order(rng: random.Random) -> tuple[Any, ...]:
    return (rng.randrange(200), rng.randrange(6), rng.randrange(1, 60), rng.randrange(10**6))


def a_customer(rng: random.Random) -> tuple[Any, ...]:
    return (rng.randrange(6), rng.choice(("ann", "bob")), rng.choice(("n", "s", None)))


PLANS: dict[str, tuple[str, str, str, str]] = {
    "joined": (
        "out_rows: {type: join, inputs: [orders, customers], config: {kind: KIND, on: [customer]}}",
        "id",
        "SELECT o.id, o.customer, o.amount, o.seq, c.name, c.region FROM o KIND JOIN c USING (customer)",
        "left inner",
    ),
    "joined by both": (
        "out_rows: {type: join, inputs: [orders, customers], config: {kind: KIND, on: [customer]}}",
        "id, customer",
        "SELECT o.id, o.customer, o.amount, o.seq, c.name, c.region FROM o KIND JOIN c USING (customer)",
        "left inner",
    ),
    "kept": (
        "out_rows: {type: join, inputs: [orders, customers], config: {kind: KIND, on: [customer]}}",
        "id",
        "SELECT o.* FROM o KIND JOIN c USING (customer)",
        "semi anti",
    ),
    "totals": (
        "big: {type: filter, inputs: [orders], config: {condition: amount > 10}}\n"
        "  named: {type: join, inputs: [big, customers], config: {kind: KIND, on: [customer]}}\n"
        "  out_rows: {type: aggregate, inputs: [named], config: {emit: updates, group_by: {region: \"coalesce(region, '-')\"}, "
        "measures: {n: count(*), total: sum(amount), most: max(amount)}}}",
        "region",
        "SELECT coalesce(region, '-') AS region, count(*), sum(amount)::BIGINT, max(amount) "
        "FROM o KIND JOIN c USING (customer) WHERE amount > 10 GROUP BY 1",
        "left inner",
    ),
    "average of the highest": (
        "named: {type: join, inputs: [orders, customers], config: {kind: KIND, on: [customer]}}\n"
        "  best: {type: aggregate, inputs: [named], config: {emit: updates, group_by: {customer: customer, region: \"coalesce(region, '-')\"}, "
        "measures: {high: max(amount)}}}\n"
        "  out_rows: {type: aggregate, inputs: [best], config: {emit: updates, group_by: [region], measures: {mean: sum(high)}}}",
        "region",
        "SELECT region, sum(high)::BIGINT FROM (SELECT customer, coalesce(region, '-') AS region, max(amount) AS high "
        "FROM o KIND JOIN c USING (customer) GROUP BY 1, 2) GROUP BY 1",
        "left",
    ),
    "newest": (
        "newest: {type: deduplicate, inputs: [orders], config: {key: customer, keep: last, order_by: [seq, id]}}\n"
        "  out_rows: {type: join, inputs: [newest, customers], config: {kind: KIND, on: [customer]}}",
        "customer",
        "SELECT o.*, c.name, c.region FROM (SELECT * FROM o QUALIFY row_number() OVER (PARTITION BY customer "
        "ORDER BY seq DESC, id DESC) = 1) o KIND JOIN c USING (customer)",
        "left inner",
    ),
    "branches": (
        "router: {type: route, inputs: [orders], config: {routes: {a: amount > 30}, default: b}}\n"
        "  doubled: {type: map, inputs: [router.a], config: {derive: {amount: amount * 2}}}\n"
        "  out_rows: {type: union, inputs: [doubled, router.b]}",
        "id",
        "SELECT id, customer, CASE WHEN amount > 30 THEN amount * 2 ELSE amount END, seq FROM o",
        "-",
    ),
}  # fmt: skip


def items(changes: list[Change], schema: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"_op": kind.name.lower(), **dict(zip(schema, row, strict=True))} for kind, row in changes
    ]


def script(
    rng: random.Random, changes: list[Change], schema: dict[str, str], crash: bool
) -> ScriptedSource:
    rows: list[Any] = items(changes, schema)
    places = [n for n in range(len(rows)) if rows[n - 1]["_op"] != "update_before"]
    if crash and places:
        place = rng.choice(places)
        earlier = [n for n in places if n < place]
        rows.insert(place, Crash())
        if earlier:
            rows.insert(rng.choice(earlier), Checkpoint())
    key = list(schema)[: rng.randrange(2)]
    return ScriptedSource(rows, schema=schema, changelog=True, key=key)


@pytest.mark.parametrize("which", PLANS)
@pytest.mark.parametrize("part", range(SEEDS))
def test_a_mirror_has_what_is_left(which: str, part: int, tmp_path: Path) -> None:
    steps, key, query, kinds = PLANS[which]
    rng = random.Random(f"{which} {part}")
    tmp_path.mkdir(exist_ok=True)
    kind = rng.choice(kinds.split())
    orders = history(rng, rng.randrange(5, 120), an_order, key=0)
    customers = history(rng, rng.randrange(5, 40), a_customer, key=0)
    o = script(rng, orders, ORDERS, crash=True)
    c = script(rng, customers, CUSTOMERS, crash=False)
    size = rng.choice((1, 3, 20))
    sources = [f"  orders: {{type: scripted, config: {{script: {o.name}}}}}"]
    if "customers" in steps:
        sources.append(f"  customers: {{type: scripted, config: {{script: {c.name}}}}}")
    workflow = load_text(
        "name: law\n"
        f"settings: {{batch: {{initial: {size}, min: {size}, max: {size}}}}}\n"
        "sources:\n" + "\n".join(sources) + "\n"
        f"transformations:\n  {steps.replace('KIND', kind)}\n"
        "destinations:\n  out: {type: sqlite, inputs: [out_rows], config: {path: out.db, table: t, "
        f"mode: mirror, key: [{key}]}}}}\n",
        base=tmp_path,
    )
    lab = Lab(tmp_path / "home")
    if any(isinstance(item, Crash) for item in o.items[0]):
        lab.run_until_crash(workflow, parallelism=rng.randrange(1, 5))
    result = lab.run(workflow, parallelism=rng.randrange(1, 5))
    assert result.error is None, result.error
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        columns = (
            "*" if not which.startswith("joined") else "id, customer, amount, seq, name, region"
        )
        made = listed(database.execute(f"SELECT {columns} FROM t").fetchall())
    tables = {"o": (ORDERS, orders), "c": (CUSTOMERS, customers)}
    frames = {
        name: pl.DataFrame(left_of(changes), schema={n: pl.String if t == "string" else pl.Int64 for n, t in schema.items()}, orient="row")
        for name, (schema, changes) in tables.items()
    }  # fmt: skip
    assert made == asked(query.replace("KIND", kind), **frames)


def test_a_plan_says_where_rows_are_kept_to_be_in_order(tmp_path: Path) -> None:
    second = (
        "  u: {type: inline, config: {changelog: columns, rows: [{_op: insert, k: 1, v: 2}]}}\n"
    )

    def notes(steps: str, key: str) -> list[str]:
        text = (
            "name: w\nsources:\n"
            "  s: {type: inline, config: {changelog: columns, rows: [{_op: insert, id: 1, k: 2}]}}\n"
            + second
            * (" u]" in steps or ", u" in steps)
            + f"transformations:\n  {steps}\n"
            "destinations:\n"
            f"  out: {{type: sqlite, inputs: [x], config: {{path: o.db, table: t, mode: mirror, key: [{key}]}}}}\n"
        )
        made = plan(load_text(text, base=tmp_path)).view()
        return [note for node in made["nodes"] if node["id"] == "out" for note in node["notes"]]

    join = "x: {type: join, inputs: [s, u], config: {on: [k]}}"
    assert any("out of order" in note for note in notes(join, "id"))
    assert not any("out of order" in note for note in notes(join, "k"))
    assert not any("out of order" in note for note in notes(join, "k, id"))
    counted = "x: {type: aggregate, inputs: [s], config: {emit: updates, group_by: [k], measures: {n: count(*)}}}"
    assert not any("out of order" in note for note in notes(counted, "k"))
    branches = (
        "r: {type: route, inputs: [s], config: {routes: {a: k > 1}, default: b}}\n"
        "  x: {type: union, inputs: [r.a, r.b]}"
    )
    assert any("out of order" in note for note in notes(branches, "id"))
