"""Tables that are read again because a user asks for it, or because they have other rows than were given.

Always true: a request is begun once for each position that has its id; what is given of a table that is read again
begins with a TRUNCATE, and no checkpoint is cut until it is whole, unless it is very large.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from dataflare.connectors.postgres.cdc.following import Followed
from dataflare.connectors.postgres.cdc.place import Place
from dataflare.connectors.postgres.cdc.rewrites import Found
from dataflare.sdk import resyncs
from dataflare.sdk.resyncs import State

_LOOK_S = 1.0
_WHOLE_ROWS = 1_000_000
"""A longer table may be cut, so that its copy may be seen while it is filled."""


class Resyncs:
    """folder: the workflow's; None where nothing is kept. tables: by number. warnings: what users are told is added here."""

    def __init__(
        self, folder: Path | None, tables: Mapping[int, Followed], warnings: dict[str, int]
    ) -> None:
        self._folder, self._tables, self._warnings = folder, tables, warnings
        self._asked: Mapping[str, str] = {}
        self._looked_at = -_LOOK_S
        self.whole: set[int] = set()
        """The tables of which no part may be seen."""
        self.rewritten: set[int] = set()
        """Those with other rows than were given, see `rewrites`."""

    @property
    def may_look(self) -> bool:
        """Whether the last look was more than a second ago."""
        return time.monotonic() - self._looked_at > _LOOK_S

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._looked_at, self._asked = time.monotonic(), resyncs.asked(self._folder)

    def due(self, place: Place, *, starts: bool = False) -> dict[int, str]:
        """The tables to read again, each with the id of its last request, as of the last look. starts: as in `due`."""
        found = due(self._asked, place, self._tables, starts=starts) if self._asked else {}
        for oid in list(found):
            # The workflow may have another step than when it was asked for.
            if (step := self._tables[oid].not_truncated) is not None:
                del found[oid]
                self._warnings[
                    f"'{self._tables[oid].reading.step}' is not read again, as was asked for: step '{step}' could not take "
                    "back the rows that it has"
                ] = 0
        return {oid: place.tables[oid].resync for oid in self.rewritten} | found

    def begin(self, place: Place, tables: Mapping[int, str]) -> Place:
        self.whole = set(tables)
        self.rewritten -= set(tables)
        for oid, id_ in tables.items():
            # What columns its rows had is forgotten with them.
            anew = replace(place.tables[oid].anew(), columns=(), numbers=(), highest=0, resync=id_)
            place = place.with_table(oid, anew)
        return place

    def note(self, found: Found) -> dict[str, int]:
        """Read the tables again that have other rows than were given. Returns what users are told, as warnings."""
        self.rewritten.update(found.again)
        return dict.fromkeys(found.told, 0)

    def may_cut(self, table: int, rows: int) -> bool:
        return table not in self.whole or rows > _WHOLE_ROWS


def due(
    asked: Mapping[str, str], place: Place, tables: Mapping[int, Followed], *, starts: bool = False
) -> dict[int, str]:
    """starts: also those that an earlier run was reading: the reader reads none yet."""
    found = {}
    for oid, followed in tables.items():
        id_, there = asked.get(followed.reading.step), place.tables.get(oid)
        if id_ is None or there is None or there.resync == id_:
            continue
        if starts or not there.reading:
            found[oid] = id_
    return found


def states(place: Place, asked: Mapping[str, str], step: str) -> dict[str, tuple[str, State]]:
    """How far the requests of a step are that a committed position has begun."""
    ids = {id_: name for name, id_ in asked.items() if name.partition(".")[0] == step}
    return {
        ids[table.resync]: (table.resync, "reading" if table.reading else "done")
        for table in place.tables.values()
        if table.resync in ids
    }
