"""Databases that are missing, locked or no databases; tables and columns that are not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bad_case import Case


def small_duckdb(path: Path) -> None:
    """A DuckDB database with one empty table."""
    import duckdb

    duckdb.connect(str(path)).execute("CREATE TABLE orders (id INT)").close()


def reading(options: str, type_: str = "sqlite") -> str:
    """A workflow that reads a database; the options stand in line 4."""
    return f"""\
name: w
sources:
  a:
    config: {{{options}}}
    type: {type_}
destinations:
  z: {{type: blackhole, inputs: [a]}}
"""


def writing(options: str, type_: str = "sqlite") -> str:
    """A workflow that writes rows into a database; the options stand in line 6."""
    return f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [{{id: 1, land: DE}}, {{id: 1, land: null}}]}}}}
destinations:
  z:
    config: {{{options}}}
    type: {type_}
    inputs: [a]
"""


def shop(path: Path, *more: str) -> None:
    """An SQLite database with one table of two rows."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, land TEXT NOT NULL, at TEXT);"
        "INSERT INTO orders VALUES (1, 'DE', '2024-01-01'), (2, 'FR', '2024-01-02');"
        + "".join(more)
    )
    connection.close()


def damaged(path: Path) -> None:
    shop(
        path,
        "CREATE TABLE more (x TEXT); INSERT INTO more SELECT hex(randomblob(900)) FROM orders;",
    )
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process holds the lock of `shop.db`."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect('shop.db', isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"locked\n"
        yield
        other.stdin.close()


SHOP = {"shop.db": shop}
CASES = [
    Case(
        "a missing database",
        reading("path: shpo.db, table: orders"),
        status=1,
        files=SHOP,
        says="""\
error[E0601]: no such file: shpo.db (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: shpo.db, table: orders}
  |                    ^^^^^^^
   = help: did you mean 'shop.db'?
""",
    ),
    Case(
        "a missing table",
        reading("path: shop.db, table: order"),
        status=1,
        files=SHOP,
        says="""\
error[E0604]: no table 'order' in shop.db (step 'a')
 --> w.yaml:4:36
  |
4 |     config: {path: shop.db, table: order}
  |                                    ^^^^^
   = it has: orders
   = help: did you mean 'orders'?
""",
    ),
    Case(
        "a file that is not a database",
        reading("path: shop.db, table: orders"),
        status=1,
        files={"shop.db": "id,land\n1,DE\n" * 500},
        says="""\
error[E0505]: shop.db is not an SQLite database (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: shop.db, table: orders}
  |                    ^^^^^^^
   = help: choose another path: the file has another format
""",
    ),
    Case(
        "a damaged database",
        reading("path: shop.db, table: orders"),
        status=1,
        files={"shop.db": damaged},
        says="""\
error[E0505]: the database shop.db is damaged: Failed to step query: database disk image is malformed (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: shop.db, table: orders}
  |                    ^^^^^^^
   = help: run: pragma integrity_check
""",
    ),
    Case(
        "a locked database",
        reading("path: shop.db, table: orders, busy_timeout: 50ms"),
        status=1,
        files=SHOP,
        during=locked,
        says="""\
error[E0605]: the database shop.db is locked: another program is writing to it (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: shop.db, table: orders, busy_timeout: 50ms}
  |                    ^^^^^^^
   = help: wait for it, or raise 'busy_timeout'
""",
    ),
    Case(
        "a locked database to write to",
        writing("path: shop.db, table: fresh, busy_timeout: 50ms"),
        status=1,
        files=SHOP,
        during=locked,
        says="""\
error[E0605]: the database shop.db is locked: another program is writing to it (step 'z')
 --> w.yaml:6:20
  |
6 |     config: {path: shop.db, table: fresh, busy_timeout: 50ms}
  |                    ^^^^^^^
   = help: wait for it, or raise 'busy_timeout'
""",
    ),
    Case(
        "a table and a query",
        reading("path: shop.db, table: orders, query: SELECT 1"),
        files=SHOP,
        says="""\
error[E0405]: step 'a': set one of 'table', 'tables' and 'query'
 --> w.yaml:4:29
  |
4 |     config: {path: shop.db, table: orders, query: SELECT 1}
  |                             ^^^^^
""",
    ),
    Case(
        "neither table nor query",
        reading("path: shop.db"),
        files=SHOP,
        says="""\
error[E0405]: step 'a': set one of 'table', 'tables' and 'query'
 --> w.yaml:4:5
  |
4 |     config: {path: shop.db}
  |     ^^^^^^
""",
    ),
    Case(
        "a query with a mistake",
        reading("path: shop.db, query: SELEC * FROM orders"),
        files=SHOP,
        says="""\
error[E0412]: a query starts with SELECT, not SELEC
 --> w.yaml:4:36
  |
4 |     config: {path: shop.db, query: SELEC * FROM orders}
  |                                    ^
   = help: write one SELECT
""",
    ),
    Case(
        "a query of an unknown column",
        reading("path: shop.db, query: SELECT idd FROM orders"),
        files=SHOP,
        says="""\
error[E0412]: the query is refused: the query failed in shop.db: Failed to step query: no such column: idd (step 'a')
 --> w.yaml:4:36
  |
4 |     config: {path: shop.db, query: SELECT idd FROM orders}
  |                                    ^^^^^^^^^^^^^^^^^^^^^^
   = help: fix the query: the database refuses it
""",
    ),
    Case(
        "a query that writes",
        reading("path: shop.db, query: DELETE FROM orders"),
        files=SHOP,
        says="""\
error[E0412]: a query starts with SELECT, not DELETE
 --> w.yaml:4:36
  |
4 |     config: {path: shop.db, query: DELETE FROM orders}
  |                                    ^
   = help: write one SELECT
""",
    ),
    Case(
        "an incremental column that is not there",
        reading("path: shop.db, table: orders, incremental: {column: updated}"),
        status=1,
        files=SHOP,
        says="""\
error[E0606]: no column 'updated' in table 'orders' (step 'a')
 --> w.yaml:4:66
  |
4 |     config: {path: shop.db, table: orders, incremental: {column: updated}}
  |                                                                  ^^^^^^^
   = it has: id, land, at
""",
    ),
    Case(
        "a lag of text",
        reading("path: shop.db, table: orders, incremental: {column: land, lag: 1h}"),
        files=SHOP,
        says="""\
error[E0413]: 'lag' needs a column of numbers or times, and 'land' is string
 --> w.yaml:4:66
  |
4 |     config: {path: shop.db, table: orders, incremental: {column: land, lag: 1h}}
  |                                                                  ^^^^
   = help: leave 'lag' out, or choose a column of numbers or times
""",
    ),
    Case(
        "a schema the table does not have",
        reading("path: shop.db, table: orders").replace(
            "type: sqlite", "type: sqlite\n    schema: {idd: int64}"
        ),
        status=1,
        files=SHOP,
        says="""\
error[E0606]: no column 'idd' in table 'orders' (step 'a')
 --> w.yaml:4:36
  |
4 |     config: {path: shop.db, table: orders}
  |                                    ^^^^^^
   = it has: id, land, at
   = help: did you mean 'id'?
""",
    ),
    Case(
        "a table that may not be made",
        writing("path: shop.db, table: fresh, create_table: false"),
        status=1,
        files=SHOP,
        says="""\
error[E0604]: no table 'fresh' in shop.db (step 'z')
 --> w.yaml:6:36
  |
6 |     config: {path: shop.db, table: fresh, create_table: false}
  |                                    ^^^^^
   = it has: orders
""",
    ),
    Case(
        "a row that the database refuses",
        writing("path: shop.db, table: orders"),
        status=1,
        files=SHOP,
        says="""\
error[E0510]: table 'orders' refuses a row: UNIQUE constraint failed: orders.id (step 'z')
 --> w.yaml:6:36
  |
6 |     config: {path: shop.db, table: orders}
  |                                    ^^^^^^
   = the row: id = 1, land = 'DE'
   = help: fix the row, or set error_handling: {on_error: dead_letter}, or skip, to continue without it: under mode mirror in the destination's own step
""",
    ),
    Case(
        "an upsert without a unique key",
        writing("path: shop.db, table: other, mode: upsert, key: [id]"),
        status=1,
        files={
            "shop.db": lambda path: shop(
                path,
                "CREATE TABLE other (id INTEGER, land TEXT);INSERT INTO other VALUES (1, 'x'), (1, 'y');",
            )
        },
        says="""\
error[E0510]: table 'other' has several rows for one key (id), so mode 'upsert' cannot distinguish them (step 'z')
 --> w.yaml:6:36
  |
6 |     config: {path: shop.db, table: other, mode: upsert, key: [id]}
  |                                    ^^^^^
   = help: remove the duplicates, or choose other key columns
""",
    ),
    Case(
        "a folder instead of a database",
        writing("path: shop.db, table: orders"),
        status=1,
        files={"shop.db/x.txt": "x"},
        says="""\
error[E0602]: shop.db is a folder, not a database (step 'z')
 --> w.yaml:6:20
  |
6 |     config: {path: shop.db, table: orders}
  |                    ^^^^^^^
   = help: name a file in it
""",
    ),
    Case(
        "an invalid DuckDB file",
        reading("path: shop.duckdb, table: orders", "duckdb"),
        status=1,
        files={"shop.duckdb": "id,land\n1,DE\n" * 500},
        says="""\
error[E0505]: shop.duckdb is not a DuckDB database
 --> w.yaml:4:20
  |
4 |     config: {path: shop.duckdb, table: orders}
  |                    ^^^^^^^^^^^
   = help: choose another path: the file has another format
""",
    ),
    Case(
        "a DuckDB database that is not there",
        reading("path: shop.duckdb, table: orders", "duckdb"),
        status=1,
        says="""\
error[E0601]: no such file: shop.duckdb (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: shop.duckdb, table: orders}
  |                    ^^^^^^^^^^^
""",
    ),
    Case(
        "a DuckDB query with a mistake",
        reading("path: shop.duckdb, query: SELECT FROM WHERE", "duckdb"),
        files={"shop.duckdb": small_duckdb},
        says="""\
error[E0412]: the query is refused: Parser Error: syntax error at or near "WHERE" (step 'a')
 --> w.yaml:4:40
  |
4 |     config: {path: shop.duckdb, query: SELECT FROM WHERE}
  |                                        ^^^^^^^^^^^^^^^^^
""",
    ),
    Case(
        "a DuckDB table that is not there",
        reading("path: shop.duckdb, table: order", "duckdb"),
        status=1,
        files={"shop.duckdb": small_duckdb},
        says="""\
error[E0604]: no table 'order' in shop.duckdb (step 'a')
 --> w.yaml:4:40
  |
4 |     config: {path: shop.duckdb, table: order}
  |                                        ^^^^^
   = it has: orders
   = help: did you mean 'orders'?
""",
    ),
]
