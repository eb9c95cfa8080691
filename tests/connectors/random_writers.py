"""Random writers of a table, from a seed. What differs between databases is passed in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

KEYS = 60


class Statements(NamedTuple):
    """connect: makes a connection without autocommit, which does not wait for locks. is_in_the_way: whether an error
    says that another row has the key, another writer holds the row, or both hold what the other wants. insert, more:
    statements with the values of a whole row (id, part, name, body). rare: statements without values, such as TRUNCATE. moved: what
    an update of the key sets besides."""

    connect: Callable[[], Any]
    is_in_the_way: Callable[[Exception], bool]
    insert: str
    more: Sequence[str] = ()
    rare: Sequence[str] = ()
    moved: str = ""


class Writers:
    """Several connections, each with a transaction that may stay open over many steps. tables: in place of `t`."""

    def __init__(
        self,
        statements: Statements,
        rng: random.Random,
        number: int = 3,
        tables: Sequence[str] = ("t",),
    ) -> None:
        self._rng, self._statements, self.tables = rng, statements, list(tables)
        self._writers = [statements.connect() for _ in range(number)]
        self._depths = [0] * number
        self._locks = False

    def step(self, *, may_stay_open: bool = True) -> None:
        """A few statements of one writer, and perhaps the end of its transaction."""
        number = self._rng.randrange(len(self._writers))
        try:
            with self._writers[number].cursor() as cursor:
                for _ in range(self._rng.randint(1, 4)):
                    self._statement(cursor, number)
        except Exception as error:
            if not self._statements.is_in_the_way(error):
                raise
            self._end(number, commits=False)
        else:
            # The lock of a TRUNCATE would make a reader wait that the test waits for.
            if not may_stay_open or self._locks or self._rng.random() < 0.6:
                self._end(number, commits=self._rng.random() < 0.85)

    def end(self) -> None:
        """All transactions."""
        for number in range(len(self._writers)):
            self._end(number, commits=self._rng.random() < 0.7)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def _end(self, number: int, *, commits: bool) -> None:
        self._depths[number] = 0
        self._locks = False
        if commits:
            self._writers[number].commit()
        else:
            self._writers[number].rollback()

    def _key(self) -> tuple[int, str]:
        return self._rng.randrange(KEYS), self._rng.choice(["a", "B", "é"])

    def _statement(self, cursor: Any, number: int) -> None:
        rng, key = self._rng, self._key()
        name, body = f"n{rng.randrange(1_000)}", self._body()
        where = "where id = %s and part = %s"
        more = self._statements.more
        table = rng.choice(self.tables) if len(self.tables) > 1 else self.tables[0]

        def execute(statement: str, values: Sequence[Any] = ()) -> None:
            cursor.execute(f"{statement} ".replace(" t ", f" {table} "), values)

        rare = self._statements.rare
        if rare and rng.random() < 0.01:
            execute(rng.choice(rare))
            self._locks = True
            return
        match rng.randrange(12 + len(more)):
            case 0 | 1 | 2:
                execute(self._statements.insert, (*key, name, body))
            case 3 | 4:
                execute(f"update t set name = %s {where}", (name, *key))
            case 5:
                execute(f"update t set body = %s, name = null {where}", (body, *key))
            case 6 | 7:
                execute(f"delete from t {where}", key)
            case 8:
                moved = self._statements.moved
                execute(f"update t set id = %s, part = %s{moved} {where}", (*self._key(), *key))
            case 9:
                low = rng.randrange(KEYS)
                execute("update t set name = %s where id between %s and %s", (name, low, low + 8))
            case 10:
                self._depths[number] += 1
                execute(f"savepoint s{self._depths[number]}")
            case 11:
                if self._depths[number]:
                    execute(f"rollback to savepoint s{self._depths[number]}")
                    self._depths[number] -= 1
            case at:
                execute(more[at - 12], (*key, name, body))

    def _body(self) -> str | None:
        """Large enough for a place outside the row now and then, and not to be compressed."""
        size = self._rng.choice([0, 5, 5, 3_000])
        return "".join(self._rng.choices("abcdefghijklmnop0123456789", k=size)) if size else None
