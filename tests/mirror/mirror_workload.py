"""Random writers of a table, from a seed: the same seed gives the same statements, as long as no server is killed.

Several connections have each a transaction that may stay open over many steps. Large and many rows, keys that change,
savepoints, rollbacks, other tables in the log.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from mirror_servers import Side, is_refused

_KEYS = 60
_FAR = 1_000
_START = dt.datetime(2024, 2, 29, 12)
_LETTERS = "abcdefghijklmnop0123456789"


class Workload:
    """Writers of some tables of a side. A transaction may write several of them."""

    def __init__(self, side: Side, rng: random.Random, tables: Sequence[str]) -> None:
        self.side, self._rng = side, rng
        self._writers: list[Any] = [None] * rng.randint(2, 4)
        self._depths = [0] * len(self._writers)
        self.added: dict[str, list[str]] = {table: [] for table in tables}
        """By table, the columns that it got meanwhile."""
        self.truncates = False

    def fill(self, rows: int) -> None:
        """So many rows that are there before the first run, whose keys no writer changes one by one."""
        values = [(_FAR * 10 + number, *self._row()[1:]) for number in range(rows)]
        db = self.side.connect()
        with db.cursor() as cursor:
            for table in self.added:
                cursor.executemany(self.side.add.format(t=table), values)
        db.commit()
        db.close()

    def step(self, *, may_stay_open: bool = True) -> None:
        """A few statements of one writer, and perhaps the end of its transaction."""
        number = self._rng.randrange(len(self._writers))
        try:
            writer = self._writer(number)
            with writer.cursor() as cursor:
                for _ in range(self._rng.randint(1, 4)):
                    self._statement(cursor, number)
            if not may_stay_open or self._rng.random() < 0.6:
                self._end(number, commits=self._rng.random() < 0.85)
        except Exception as error:
            if not is_refused(self.side, error):
                raise
            self._end(number, commits=False)

    def settle(self) -> None:
        """End all transactions, and commit a last row of each table, with a value in each column."""
        for number in range(len(self._writers)):
            if self._writers[number] is not None:
                self._end(number, commits=self._rng.random() < 0.7)
        for table, added in self.added.items():
            columns = ", ".join(["id", "part", *added])
            values = ", ".join(["-1", "'z'", *("7" for _ in added)])
            self.side.execute(f"insert into {table} ({columns}) values ({values})")

    def create(self, table: str) -> None:
        """One more table."""
        self.side.create(table)
        self.added[table] = []

    def forget(self) -> None:
        """The server is to be killed: all open transactions are gone with it."""
        self.close()
        self._writers = [None] * len(self._writers)
        self._depths = [0] * len(self._writers)

    def close(self) -> None:
        """Without an end of the transactions."""
        for writer in self._writers:
            if writer is not None:
                writer.close()

    def _writer(self, number: int) -> Any:
        if self._writers[number] is None:
            self._writers[number] = self.side.connect()
        return self._writers[number]

    def _end(self, number: int, *, commits: bool) -> None:
        self._depths[number] = 0
        if commits:
            self._writers[number].commit()
        else:
            self._writers[number].rollback()

    @property
    def _moved(self) -> str:
        """What an update of the key sets besides: large values that stay are not in the log with the new key."""
        return "" if getattr(self.side, "is_whole", True) else ", body = concat(body, '')"

    def _key(self) -> tuple[int, str]:
        return self._rng.randrange(_KEYS), self._rng.choice(["a", "B", "é"])

    def _row(self) -> tuple[Any, ...]:
        rng = self._rng
        at = _START + dt.timedelta(microseconds=rng.randrange(10**13))
        amount = Decimal(rng.randrange(-(10**8), 10**8)).scaleb(-2)
        return (*self._key(), self._name(), self._body(), amount, rng.choice([at, None]))

    def _name(self) -> str:
        return f"n{self._rng.randrange(1_000)}"

    def _body(self) -> str | None:
        """Large enough for a place outside the row now and then, and not to be compressed."""
        size = self._rng.choice([0, 5, 5, 5, 3_000])
        return "".join(self._rng.choices(_LETTERS, k=size)) if size else None

    def _statement(self, cursor: Any, number: int) -> None:
        rng, key, t = self._rng, self._key(), self._rng.choice(list(self.added))
        where = "where id = %s and part = %s"
        if self.truncates and rng.random() < 0.004:
            cursor.execute(f"truncate {t}")
            self._end(number, commits=rng.random() < 0.8)
            return
        match rng.randrange(20):
            case 0 | 1 | 2 | 3:
                cursor.execute(self.side.add.format(t=t), self._row())
            case 4:
                cursor.execute(self.side.put.format(t=t), self._row())
            case 5 | 6:
                cursor.execute(f"update {t} set name = %s {where}", (self._name(), *key))
            case 7:
                cursor.execute(
                    f"update {t} set body = %s, name = null {where}", (self._body(), *key)
                )
            case 8:
                amounts = f"update {t} set amount = amount + 0.01 where id between %s and %s"
                cursor.execute(amounts, (key[0], key[0] + 8))
            case 9 | 10:
                cursor.execute(f"delete from {t} {where}", key)
            case 11 | 12:
                moved = f"update {t} set id = %s, part = %s{self._moved} {where}"
                cursor.execute(moved, (*self._key(), *key))
            case 13:
                self._shift(cursor, t)
            case 14:
                cursor.execute(f"update {t} set name = name {where}", key)
            case 15:
                self._many(cursor, t)
            case 16:
                cursor.execute("insert into beside values (%s)", (key[0],))
            case 17:
                self._depths[number] += 1
                cursor.execute(f"savepoint s{self._depths[number]}")
            case 18 if self._depths[number]:
                depth = rng.randint(1, self._depths[number])
                cursor.execute(self.side.back.format(f"s{depth}"))
                self._depths[number] = depth
            case 19 if self.added[t]:
                column = rng.choice(self.added[t])
                cursor.execute(f"update {t} set {column} = %s {where}", (rng.randrange(9), *key))

    def _shift(self, cursor: Any, t: str) -> None:
        """The keys of many rows change: there, or back."""
        low = self._rng.randrange(_KEYS)
        if self._rng.random() < 0.5:
            cursor.execute(
                f"update {t} set id = id + {_FAR}{self._moved} where id between %s and %s",
                (low, low + 9),
            )
        else:
            low += _FAR
            cursor.execute(
                f"update {t} set id = id - {_FAR}{self._moved} where id between %s and %s",
                (low, low + 9),
            )

    def _many(self, cursor: Any, t: str) -> None:
        """A transaction that is longer than a batch, or the end of its rows."""
        start = 2_000 + 100 * self._rng.randrange(20)
        if self._rng.random() < 0.5:
            cursor.execute(f"delete from {t} where id between %s and %s", (start, start + 99))
        else:
            rows = [(start + n, *self._row()[1:]) for n in range(self._rng.choice([20, 100]))]
            cursor.executemany(self.side.add.format(t=t), rows)

    def change_table(self) -> None:
        """A statement that changes what the table is, of those that a run follows."""
        rng, table = self._rng, self._rng.choice(list(self.added))
        added = self.added[table]
        for writer in range(len(self._writers)):
            if self._writers[writer] is not None:
                self._end(writer, commits=True)
        column = ""
        if len(added) < 3 and rng.random() < 0.7:
            column = f"added{len(added)}"
            statement = f"alter table {table} add column {column} int"
        else:
            statement = f"create index by_name{rng.randrange(10**6)} on {table} (name)"
        db = self.side.connect()
        try:
            with db.cursor() as cursor:
                cursor.execute(statement)
            db.commit()
            if column:
                added.append(column)
        except Exception as error:
            if not is_refused(self.side, error):
                raise
        finally:
            db.close()
