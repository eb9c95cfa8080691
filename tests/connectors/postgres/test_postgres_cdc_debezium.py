"""Changes of a table in files, as Debezium writes them: an update that changes the key is a delete and a new row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cdc_kit import Copy
from postgres_kit import Database


@pytest.mark.parametrize("identity", ["default", "full"])
def test_an_update_that_changes_the_key_is_a_delete_and_a_new_row(
    logical: Database, tmp_path: Path, identity: str
) -> None:
    logical.execute(
        "create table orders (id int primary key, name text)", f"alter table orders replica identity {identity}",
        "insert into orders values (1, 'a'), (2, 'b')",
    )  # fmt: skip
    copy = Copy(
        logical, tmp_path, kind="file", into="path: out/, format: ndjson, changelog: debezium"
    )
    copy.catch_up()
    before = {file.name for file in (tmp_path / "out").iterdir()}
    logical.execute(
        "begin; update orders set id = 9 where id = 1; update orders set name = 'c' where id = 2; commit"
    )
    copy.catch_up()
    [new] = [file for file in sorted((tmp_path / "out").iterdir()) if file.name not in before]
    changes = [json.loads(line) for line in new.read_text().splitlines()]
    is_full = identity == "full"
    assert [(each["op"], each["before"], each["after"]) for each in changes] == [
        ("d", {"id": 1, "name": "a" if is_full else None}, None),
        ("c", None, {"id": 9, "name": "a"}),
        ("u", {"id": 2, "name": "b"} if is_full else None, {"id": 2, "name": "c"}),
    ]
