"""The PostgreSQL side of the peers' cases: a server, a table to read, the same rows as files, and checks.

By `psql`, so that the process that measures stays small.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Failed
from benchmarks.postgres import ROWS, TABLE

ROOT = Path(__file__).parents[2]
TEXT = (
    "select id, name, amount, price, to_char(at, 'YYYY-MM-DD\"T\"HH24:MI:SS') as at, "
    "to_char(seen at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as seen, ok::text as ok "
    "from {} order by id"
)
FACTS = (
    "select count(*) as rows, count(distinct id) as keys, sum(id) as id, sum(hashtext(name)) as name, "
    "round(sum(amount)::numeric, 2) as amount, round(sum(price)::numeric, 1) as price, "
    "sum(extract(epoch from at)::bigint) as at, sum(extract(epoch from seen)::bigint) as seen, "
    "sum((ok::text in ('true', 't'))::int) as ok from {}"
)
TYPES = {
    "id": "int64",
    "name": "string",
    "amount": "decimal(10, 2)",
    "price": "float64",
    "at": "timestamp",
    "seen": "timestamp[us, UTC]",
    "ok": "bool",
}
TO_PARQUET = (
    "import sys; import polars as pl\n"
    "types = {'amount': pl.Decimal(10, 2)}\n"
    "rows = pl.read_csv(sys.argv[1], schema_overrides=types, try_parse_dates=True)\n"
    "rows.write_parquet(sys.argv[2], row_group_size=250_000)"
)


class Database:
    """A server, reached by `dsn`, without TLS and in UTC."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn, self._folder = dsn, folder

    def given(self, rows: int) -> None:
        """`rows` rows as the table `given`, anew."""
        self.execute("drop table if exists given", TABLE.format("given"), ROWS.format(rows))
        self.execute("vacuum analyze given")

    def csv(self, rows: int) -> Path:
        """The rows of `given` as a file with a header."""
        path = self._folder / f"given-{rows}.csv"
        self.execute(f"\\copy ({TEXT.format('given')}) to '{path}' (format csv, header)")
        return path

    def parquet(self, rows: int) -> Path:
        path = self._folder / f"given-{rows}.parquet"
        command = [sys.executable, "-c", TO_PARQUET, str(self.csv(rows)), str(path)]
        subprocess.run(command, check=True)
        return path

    def without(self, schema: str) -> list[str]:
        """The command that removes and makes a schema and lets the server write what it holds back."""
        return self._psql(
            f"drop schema if exists {schema} cascade", f"create schema {schema}", "checkpoint"
        )

    def differences(self, table: str, other: str) -> list[str]:
        """What is not the same in two tables, in words."""
        ours, theirs = (self._facts(name) for name in (table, other))
        return [f"{key}: {ours[key]} here, {theirs[key]} there" for key in ours if ours[key] != theirs[key]]  # fmt: skip

    def execute(self, *statements: str) -> None:
        subprocess.run(self._psql(*statements), check=True, stdout=subprocess.DEVNULL)

    def _facts(self, table: str) -> dict[str, str]:
        command = [*self._psql(FACTS.format(table)), "--csv"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{table} cannot be checked: {done.stderr}")
        lines = done.stdout.split()
        return dict(zip(lines[0].split(","), lines[1].split(","), strict=True))

    def _psql(self, *statements: str) -> list[str]:
        options = [each for statement in statements for each in ("-c", statement)]
        return ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, self.dsn]


@contextmanager
def database(folder: Path) -> Iterator[Database]:
    """A server of its own, stopped and removed afterwards."""
    sys.path.insert(0, str(ROOT / "tests"))
    from servers.postgres import server

    settings = ("shared_buffers = 512MB", "timezone = 'UTC'", "client_min_messages = warning")
    with server("\n".join(settings)) as made:
        yield Database(made.dsn(sslmode="disable"), folder)
