"""Changes that become row errors, the same for each database: what is left in the copy, and which dead letters there are."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.letters import LetterBox
from dataflare.workflow.load import load_text

STEPS = {
    "source": "",
    "step": "  n: {type: map, inputs: [orders], config: {derive: {n: CAST(name AS BIGINT)}}}\n",
    "keeping step": "  some: {type: filter, inputs: [orders], config: {condition: 'id < 100'}}\n"
    "  n: {type: map, inputs: [some], config: {derive: {n: CAST(name AS BIGINT)}}}\n",
}
WORKFLOW = """\
name: shop
settings: {mode: batch, parallelism: 1, checkpoint: {interval: 20ms}, error_handling: {on_error: POLICY}}
sources:
  orders: {type: TYPE, config: {connection_string: "DSN", table: orders, cdc: true}}
transformations:
STEPdestinations:
  copy: {type: sqlite, inputs: [LAST], config: {path: copy.db, table: orders, mode: mirror, key: [id]}}
"""


class FailingShop:
    """fault: which step finds that a row does not fit."""

    def __init__(
        self, database: Any, folder: Path, type_: str, fault: str, policy: str = "dead_letter"
    ) -> None:
        self.database, self.folder = database, folder
        text = WORKFLOW.replace("DSN", database.dsn).replace("TYPE", type_)
        text = text.replace("POLICY", policy).replace("STEP", STEPS[fault])
        if fault == "source":
            text = text.replace("transformations:\n", "")
        self.text = text.replace("LAST", "orders" if fault == "source" else "n")

    def catch_up(self) -> RunResult:
        result = run(load_text(self.text, base=self.folder), RunOptions(self.folder / "home"))
        assert result.status == "finished", result.error
        return result

    def rows(self) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "copy.db") as db:
            return db.execute("select id, name from orders order by id").fetchall()

    def letters(self) -> list[dict[str, Any]]:
        """Their rows, in the order in which they failed."""
        box = LetterBox(self.folder / "home" / "shop", [])
        rows = [letter.row for letter in box.letters()]
        return [json.loads(row["raw"]) if "raw" in row else row for row in rows]


def check_that_a_change_that_fails_takes_its_row_with_it(
    shop: FailingShop, good: str, bad: str
) -> None:
    """good, bad: SQL for a value of column v that fits, and of one that does not."""
    insert = "insert into orders values ({id}, '{name}', {v})"
    shop.database.execute(*(insert.format(id=n, name=n * 10, v=good) for n in (1, 2, 3, 4)))
    shop.catch_up()
    assert shop.rows() == [(n, str(n * 10)) for n in (1, 2, 3, 4)]
    shop.database.execute(
        f"update orders set name = 'x', v = {bad} where id = 2", "update orders set name = '11' where id = 1",
        f"update orders set name = 'y', v = {bad} where id = 3", insert.format(id=5, name="z", v=bad),
    )  # fmt: skip
    result = shop.catch_up()
    assert shop.rows() == [(1, "11"), (4, "40")]
    assert sum(step.get("errors", 0) for step in result.steps.values()) == 3
    assert sorted(row["name"] for row in shop.letters()) == ["x", "y", "z"]
    # What replaces it comes as a whole, and what goes takes nothing else along.
    shop.database.execute(
        f"update orders set name = '21', v = {good} where id = 2", "delete from orders where id = 3",
        f"update orders set name = '51', v = {good} where id = 5", "update orders set id = 44 where id = 4",
    )  # fmt: skip
    result = shop.catch_up()
    assert shop.rows() == [(1, "11"), (2, "21"), (5, "51"), (44, "40")]
    assert sum(step.get("errors", 0) for step in result.steps.values()) == 0
    assert len(shop.letters()) == 3
