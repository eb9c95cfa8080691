"""Changes of a table of MariaDB in files, as Debezium writes them."""

from __future__ import annotations

import json
from pathlib import Path

from mysql_kit import Database

from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: shop
settings: {mode: batch, checkpoint: {interval: 20ms}}
sources: {orders: {type: mysql, config: {connection_string: "DSN", table: orders, cdc: true}}}
destinations: {out: {type: file, inputs: [orders], config: {path: out/, format: ndjson, changelog: debezium}}}
"""


def test_an_update_that_changes_the_key_is_a_delete_and_a_new_row(
    plain: Database, tmp_path: Path
) -> None:
    plain.execute(
        "create table orders (id int primary key, name varchar(9))",
        "insert into orders values (1, 'a'), (2, 'b')",
    )

    def catch_up() -> set[Path]:
        result = run(
            load_text(WORKFLOW.replace("DSN", plain.dsn), base=tmp_path),
            RunOptions(tmp_path / "home"),
        )
        assert result.status == "finished", result.error
        return set((tmp_path / "out").iterdir())

    before = catch_up()
    plain.execute(
        "update orders set id = 9 where id = 1", "update orders set name = 'c' where id = 2"
    )
    [new] = catch_up() - before
    changes = [json.loads(line) for line in new.read_text().splitlines()]
    assert [(each["op"], each["before"], each["after"]) for each in changes] == [
        ("d", {"id": 1, "name": "a"}, None),
        ("c", None, {"id": 9, "name": "a"}),
        ("u", {"id": 2, "name": "b"}, {"id": 2, "name": "c"}),
    ]
