"""Many tables of MySQL and MariaDB, each by its own key."""

from __future__ import annotations

from pathlib import Path

from mysql_kit import Database

from dataflare.jobs import RunOptions, run
from dataflare.workflow import load_text


def test_all_tables_of_a_database_are_mirrored_by_their_keys(database: Database, tmp_path: Path):
    database.execute("create table orders(id int primary key, email varchar(20))")
    database.execute("insert into orders values (1, 'a@b.c'), (2, null)")
    database.execute("create table items(o int, line int, primary key (o, line))")
    database.execute("insert into items values (1, 1), (1, 2)")
    database.execute("create table audit_log(what text)")
    text = f"""\
name: families
sources:
  shop: {{type: mysql, config: {{connection_string: "{database.dsn}", tables: ["*", "!audit_*"]}}}}
transformations: {{m: {{type: mask, inputs: [shop], config: {{columns: {{"*email*": redact}}}}}}}}
destinations:
  copy: {{type: mysql, inputs: [m], config: {{connection_string: "{database.dsn}", table: "copy_{{table}}", mode: mirror}}}}
"""
    model = load_text(text, base=tmp_path)
    result = run(model, RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    assert sorted(name for name in result.steps if name.startswith("copy.")) == [
        "copy.items",
        "copy.orders",
    ]
    assert database.rows("select id, email from copy_orders order by id") == [(1, "***"), (2, None)]
    assert database.rows("select count(*) from copy_items") == [(2,)]
