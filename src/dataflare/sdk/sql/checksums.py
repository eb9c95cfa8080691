"""Checksums of the rows of a table, computed in its database.

Each value becomes a text in a form that has a name; the texts of a row become one text, from which the values can be
told again; its MD5 gives two numbers of 60 bits, which are summed over the rows. Two databases that have a form in
common for each column get equal sums for equal rows.

Always true: values that differ have different texts in one form; equal values may have different ones, whose rows are
then compared by reading them. The hash covers a whole row, so values that change places between rows are found. A row
whose text the database cannot build is counted, so that it is not taken for equal.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from msgspec import Struct

from dataflare.expr.sql import SqlText
from dataflare.sdk.sql.source import DatabaseSource, R
from dataflare.sdk.threads import in_thread

_PREFIX = 3
"""Hexadecimal digits of a key's hash that name its bucket."""
FREE = ("text", "bytes")
"""Forms whose texts may hold any character, so that their length is told before them."""
Bucket = int | str | None
KEY_BUCKETS = 16**_PREFIX


class Digests(Struct, frozen=True):
    """SQL of a database. concat: of texts. length: of a text in characters. md5: 32 hexadecimal digits in lower case.
    number: of 15 hexadecimal digits. wide: an integer that its differences fit into. divided: an integer, without its
    remainder. text_of: a number as text. once: the end of a subquery whose columns are computed once, also where they
    are used twice. own: two numbers of the text of a whole row, `m`, by hashes that only this database has."""

    concat: Callable[[Sequence[str]], str]
    length: str
    md5: str
    number: str
    wide: str
    divided: str
    text_of: str
    once: str = ""
    own: tuple[str, str] | None = None


class Sum(NamedTuple):
    """Of a bucket. hashed: how many rows have a hash."""

    rows: int
    hashed: int
    first: int
    second: int


class Ranges(Struct, frozen=True):
    """Buckets of an integer column, of `width` values each, from `low` on."""

    column: str
    low: int
    width: int

    def edges(self, bucket: int) -> tuple[int, int]:
        """The first value of a bucket, and that of the next one."""
        low = self.low + bucket * self.width
        return low, low + self.width


class Keys(Struct, frozen=True):
    """Buckets of the hash of some columns, each in a form."""

    columns: Mapping[str, str]


def key_bucket(number: int) -> str:
    """The name of a bucket of `Keys`."""
    return f"{number:0{_PREFIX}x}"


class SupportsChecksums(DatabaseSource[R]):
    """A source whose database computes checksums of its rows."""

    digests: ClassVar[Digests]

    @abstractmethod
    def texts(self, column: Any) -> Mapping[str, str]:
        """SQL for the text of a column's value, NULL for NULL, by the name of its form."""

    def own_text(self, names: Sequence[str]) -> tuple[str, str] | None:
        """SQL for a text of these columns of a row that is made faster, and what has to be the same on the other side,
        in a database of the same type, for the texts to be."""
        return None

    @abstractmethod
    def asked(self, db: Any, relation: R, sql: Callable[[str], str]) -> list[tuple[Any, ...]]:
        """The rows of a statement. sql: the statement for a condition, which holds the source's filters."""

    @abstractmethod
    def identifier(self, name: str) -> str:
        """A name of a column in SQL."""

    def forms(self, name: str) -> Mapping[str, str]:
        """`texts` of a column of the relation. Called after `look`."""
        assert self._relation is not None
        return self.texts(self._relation.column(name))

    async def bounds(self, column: str) -> tuple[int, int] | None:
        """The least and the greatest value of an integer column; None without rows."""
        name = self.identifier(column)
        [(low, high)] = await self._ask(
            lambda source, where: f"select min({name}), max({name}) from {source} where {where}"
        )
        return None if low is None else (int(low), int(high))

    async def checksums(
        self, columns: Mapping[str, str], by: Ranges | Keys, own: str | None = None
    ) -> dict[Bucket, Sum]:
        """The checksum of each bucket that has rows. columns: the form of each column. own: the text of a row by
        `own_text`, in place of the forms."""
        digests = self.digests
        if own is not None:
            assert digests.own is not None
            text, numbers = own, digests.own
        else:
            text = digests.md5.format(self.row_text(columns))
            first, second = (digests.number.format(f"substr(m, {n}, 15)") for n in (1, 16))
            numbers = (first, second)
        inner = f"select {self._bucket(by)} as b, {text} as m"

        def sql(source: str, where: str) -> str:
            return (
                f"select b, count(*), count(m), sum({numbers[0]}), sum({numbers[1]}) from "
                f"({inner} from {source} where {where}{digests.once}) as hashed group by b"
            )

        rows = await self._ask(sql)
        return {
            _bucket_of(bucket, by): Sum(int(n), int(hashed), int(first or 0), int(second or 0))
            for bucket, n, hashed, first, second in rows
        }

    def row_text(self, columns: Mapping[str, str]) -> str:
        """The text of these columns of a row, in SQL."""
        parts: list[str] = []
        for name, form in columns.items():
            value, concat = self.forms(name)[form], self.digests.concat
            if form in FREE:
                size = self.digests.text_of.format(self.digests.length.format(value))
                value = concat([size, "':'", value])
            parts += [f"coalesce({value}, '-')", "','"]
        return self.digests.concat(parts)

    def _bucket(self, by: Ranges | Keys) -> str:
        if isinstance(by, Keys):
            return f"substr({self.digests.md5.format(self.row_text(by.columns))}, 1, {_PREFIX})"
        distance = f"({self.digests.wide.format(self.identifier(by.column))} - ({by.low}))"
        return self.digests.divided.format(distance, by.width)

    def condition(self, by: Ranges | Keys, buckets: Sequence[Bucket]) -> str:
        """SQL that is true for the rows of these buckets."""
        if isinstance(by, Keys):
            names = ", ".join(f"'{each}'" for each in buckets)
            return f"{self._bucket(by)} in ({names})"
        name = self.identifier(by.column)
        edges = [by.edges(each) for each in sorted(b for b in buckets if isinstance(b, int))]
        parts = [f"({name} >= {low} and {name} < {high})" for low, high in _joined(edges)]
        if None in buckets:
            parts.append(f"{name} is null")
        return f"({' or '.join(parts)})"

    def where(self, conditions: Sequence[str]) -> Self:
        """A copy that reads the rows alone for which one of these conditions is true."""
        copy_ = copy.copy(self)
        copy_._filters = (*self._filters, SqlText(" or ".join(conditions) or "1 = 0"))
        return copy_

    async def _ask(self, sql: Callable[[str, str], str]) -> list[tuple[Any, ...]]:
        relation = await self.look()
        return await in_thread(
            self.with_db,
            relation.label,
            lambda db: self.asked(db, relation, lambda where: sql(relation.source, where)),
        )


def _bucket_of(value: Any, by: Ranges | Keys) -> Bucket:
    if value is None:
        return None
    return int(value) if isinstance(by, Ranges) else str(value)


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch each other as one."""
    joined: list[tuple[int, int]] = []
    for low, high in ranges:
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined
