"""Tables that are read again: by which position, and with what is told.

Always true: what is given of a table that is read again begins with a TRUNCATE, from which on it is a table that comes
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dataflare.connectors.mysql.cdc.following import Following
from dataflare.connectors.mysql.cdc.standing import Standing, TableStanding
from dataflare.errors import DataError
from dataflare.sdk.sql.changes import not_followed
from dataflare.sdk.sql.read_again import (
    ANOTHER,
    READ_AGAIN,
    WHOLE_ROWS,
    Asking,
    Requests,
    has_other_rows,
    is_read_again,
    only_changes,
)


class Rereading:
    """folder: the workflow's; None where nothing is kept. warnings: what users are told is added here."""

    def __init__(self, following: Following, folder: Path | None, warnings: dict[str, int]) -> None:
        self._following, self._warnings = following, warnings
        self.whole: set[str] = set()
        """The tables of which no part may be seen."""
        self._begins: set[str] = set()
        self._requests = Requests(
            folder,
            {n: Asking(e.reading.step, e.not_truncated) for n, e in following.tables.items()},
            warnings,
        )

    def taken_in(self, start: Standing) -> Standing:
        """A position with the tables that are followed now. Those that are not keep their names, because destinations may
        have rows of them. Raises DataError for one that is another one now, where a step cannot take that."""
        followed = self._following.tables
        found = {}
        for name, there in start.tables.items():
            if name not in followed:
                if not there.gone:
                    self._warnings[not_followed(name)] = 0
                found[name] = TableStanding(reads=False, gone=True)
        for name, each in followed.items():
            before = start.tables.get(name)
            is_another = before is None and each.stream is None and bool(start.tables)
            is_another |= before is not None and before.gone
            if is_another and self._following.copies:
                found[name] = self.of(name, ANOTHER)
            elif is_another:
                # Rows that were never given must not come now.
                self._warnings[only_changes(name, ANOTHER)] = 0
                found[name] = TableStanding(reads=True)
            else:
                found[name] = before or TableStanding(reads=True)
        return Standing(start.place, found)

    def of(self, name: str, why: str, last: TableStanding | None = None) -> TableStanding:
        """Where a table is that has other rows than were given. last: where it was. Raises DataError if a step cannot take
        that, or if its rows were never given."""
        followed, following = self._following.tables[name], self._following
        if not following.copies:
            raise DataError(
                f"{followed.reading.relation.label} cannot be followed further: {why}",
                code="E0545",
                step=followed.reading.step,
                help=READ_AGAIN,
            )
        if followed.not_truncated is not None:
            label = f"{followed.reading.relation.label} in {following.server.label}"
            raise has_other_rows(label, why, followed.not_truncated, followed.reading.step)
        self._warnings[is_read_again(name, why)] = 0
        return TableStanding(reads=True, anew=True, resync="" if last is None else last.resync)

    def with_other_rows(self, standing: Standing, tables: Mapping[str, str]) -> Standing:
        """tables: with the reason of each. Raises as `of`."""
        found = {name: self.of(name, why, standing.tables[name]) for name, why in tables.items()}
        return standing.with_tables(found)

    def look(self) -> None:
        """See what users ask for, at most once in a second. Blocking."""
        if self._requests.may_look:
            self._requests.look()

    def asked(self, standing: Standing) -> dict[str, TableStanding]:
        """Where the tables are that users ask for and that no request was begun of."""
        begun = {
            name: standing.tables[name].resync
            for name in self._following.tables
            if not standing.tables[name].gone
        }
        due = self._requests.due(begun)
        return {name: TableStanding(reads=True, anew=True, resync=id_) for name, id_ in due.items()}

    def begin(self, standing: Standing) -> None:
        """The tables that are not read to their end are read from here on."""
        self._begins = {name for name, each in standing.tables.items() if each.begins_anew}
        self.whole |= self._begins

    def begins(self, table: str) -> bool:
        """Whether these are the first rows of a table that is read again, before which it is emptied. True once."""
        begins = table in self._begins
        self._begins.discard(table)
        return begins

    def end(self) -> bool:
        """All tables are read. Returns whether one of them was read again as a whole."""
        was_whole = bool(self.whole)
        self.whole.clear()
        return was_whole

    def may_cut(self, table: str, rows: int) -> bool:
        """rows: how many of the table were read."""
        return table not in self.whole or rows > WHOLE_ROWS
