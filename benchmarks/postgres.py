"""PostgreSQL beside what one writes by hand: `python -m benchmarks.postgres --rows 1000000`.

Starts a server of its own. Each case has one reference, of the same rows: psql's COPY for append, COPY
into a temporary table and one INSERT ... ON CONFLICT for upsert, the ADBC driver for reading. Both ends
run on this machine and take CPU from each other, so ratios count, and only those.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Candidate, Measured, take_turns

ROOT = Path(__file__).parents[1]
DATAFLARE = str(Path(sys.executable).parent / "dataflare")
COLUMNS = "id, name, amount, price, at, seen, ok"
TABLE = (
    "create table {} (id bigint primary key, name text, amount numeric(10, 2), price float8, "
    "at timestamp, seen timestamptz, ok boolean)"
)
ROWS = (
    "insert into given select i, 'customer ' || i % 1000, i % 100000 / 100.0, i * 0.5, "
    "timestamp '2026-01-01' + i * interval '1 s', timestamptz '2026-01-01 00:00+00' + i * interval '1 s', "
    "i % 2 = 0 from generate_series(1, {}) i"
)
READ = (
    "import sys; from adbc_driver_postgresql import dbapi; import polars as pl\n"
    "cursor = dbapi.connect(sys.argv[1]).cursor(); cursor.execute('select * from given')\n"
    "print(pl.DataFrame(cursor.fetch_arrow()).height)"
)
READ_PARQUET = (
    "import sys; from adbc_driver_postgresql import dbapi; import polars as pl\n"
    "cursor = dbapi.connect(sys.argv[1]).cursor(); cursor.execute('select * from given')\n"
    "frame = pl.DataFrame(cursor.fetch_arrow())\n"
    "amount = frame['amount'].ext.storage().cast(pl.Decimal(10, 2))\n"
    "frame.with_columns(amount).write_parquet(sys.argv[2])"
)
WORKFLOW = """\
name: {name}
sources: {{a: {source}}}
destinations: {{b: {{inputs: [a], {destination}}}}}
"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    cases = ("append", "upsert", "read", "to_parquet")
    parser.add_argument("--case", action="append", choices=cases, help="only this one")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "tests"))
    from servers.postgres import server

    with server("shared_buffers = 512MB") as made, tempfile.TemporaryDirectory() as folder:
        bench = Bench(made.dsn(), Path(folder), given.rows, given.repeat)
        bench.fill()
        for case in given.case or cases:
            bench.show(case, getattr(bench, case)())


class Bench:
    def __init__(self, dsn: str, folder: Path, rows: int, repeat: int) -> None:
        self.dsn, self.folder, self.rows, self.repeat = dsn, folder, rows, repeat
        self.csv, self.parquet = folder / "given.csv", folder / "given.parquet"

    def fill(self) -> None:
        """The rows as a table, as CSV for psql and as Parquet for us."""
        import polars as pl
        import psycopg

        with psycopg.connect(self.dsn, autocommit=True) as db:
            db.execute(TABLE.format("given"))
            db.execute(ROWS.format(self.rows))
            for name in ("by_hand", "ours"):
                db.execute(TABLE.format(name).replace(" primary key", ""))
                db.execute(TABLE.format(f"{name}_keyed"))
                db.execute(f"insert into {name}_keyed select * from given")
            db.execute("vacuum analyze")
            with (
                self.csv.open("wb") as file,
                db.cursor() as cursor,
                cursor.copy("copy given to stdout (format csv)") as copy,
            ):
                file.writelines(copy)
        names = COLUMNS.split(", ")
        frame = pl.read_csv(self.csv, has_header=False, new_columns=names, try_parse_dates=True)
        frame.with_columns(
            pl.col("amount").cast(pl.Decimal(10, 2)), pl.col("ok") == "t"
        ).write_parquet(self.parquet)

    def append(self) -> list[Measured]:
        return self._turns(
            self._psql("append", f"truncate by_hand;\n\\copy by_hand from '{self.csv}' csv\n"),
            self._ours("append", self._file, self._table("ours", "mode: append"), "truncate ours"),
        )

    def upsert(self) -> list[Measured]:
        moved = ", ".join(f"{n} = excluded.{n}" for n in COLUMNS.split(", ")[1:])
        sql = (
            "begin;\ncreate temporary table stage (like by_hand_keyed) on commit drop;\n"
            f"\\copy stage from '{self.csv}' csv\n"
            f"insert into by_hand_keyed select * from stage on conflict (id) do update set {moved};\n"
            "commit;\n"
        )
        table = self._table("ours_keyed", "mode: upsert, key: id")
        return self._turns(
            self._psql("upsert", sql), self._ours("upsert", self._file, table, "select 1")
        )

    def read(self) -> list[Measured]:
        source = f'{{type: postgres, config: {{connection_string: "{self.dsn}", table: given}}}}'
        return self._turns(
            Candidate("adbc", [sys.executable, "-c", READ, self.dsn]),
            self._ours("read", source, "type: blackhole", "select 1"),
        )

    def to_parquet(self) -> list[Measured]:
        source = f'{{type: postgres, config: {{connection_string: "{self.dsn}", table: given}}}}'
        theirs, ours = self.folder / "by_hand.parquet", self.folder / "out"
        destination = f"type: file, config: {{path: {ours}/, format: parquet}}"
        return self._turns(
            Candidate("adbc", [sys.executable, "-c", READ_PARQUET, self.dsn, str(theirs)]),
            self._ours("to_parquet", source, destination, "select 1"),
        )

    def show(self, case: str, measured: list[Measured]) -> None:
        print(f"{case}, {self.rows:,} rows")
        for each in measured:
            rate = self.rows / each.wall.median / 1e6
            print(
                f"  {each.name:10} {each.wall.median:6.2f} s ({each.wall.min:.2f} to "
                f"{each.wall.max:.2f}), {rate:.2f} M rows/s, client CPU {each.cpu.median:.2f} s, "
                f"peak {each.rss.median:.0f} MB"
            )
        ratio = next(iter(measured[-1].against.values()))
        print(f"  ratio      {ratio.median:6.2f} ({ratio.min:.2f} to {ratio.max:.2f})", flush=True)

    def _turns(self, *candidates: Candidate) -> list[Measured]:
        return take_turns(candidates, self.repeat, self.folder)

    def _psql(self, name: str, sql: str) -> Candidate:
        script = self.folder / f"{name}.sql"
        script.write_text(sql)
        return Candidate(
            "psql", ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), self.dsn]
        )

    def _ours(self, name: str, source: str, destination: str, before: str) -> Candidate:
        file = self.folder / f"{name}.yaml"
        file.write_text(WORKFLOW.format(name=name, source=source, destination=destination))
        command = f"psql -q '{self.dsn}' -c '{before}' && {DATAFLARE} run {file} --quiet --fresh"
        return Candidate("dataflare", ["sh", "-c", command])

    @property
    def _file(self) -> str:
        return f"{{type: file, config: {{path: {self.parquet}}}}}"

    def _table(self, name: str, more: str) -> str:
        config = f'{{connection_string: "{self.dsn}", table: {name}, {more}}}'
        return f"type: postgres, config: {config}"


if __name__ == "__main__":
    main(sys.argv[1:])
