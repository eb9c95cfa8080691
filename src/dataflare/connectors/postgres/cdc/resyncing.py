"""Tables that are read again because a user asks for it, or because they have other rows than were given.

Always true: a request is begun once for each position that has its id; what is given of a table that is read again
begins with a TRUNCATE, and no checkpoint is cut until it is whole, unless it is very large.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.log import Truncated
from dataflare.connectors.postgres.cdc.place import Place
from dataflare.connectors.postgres.cdc.rewrites import Found
from dataflare.sdk.resyncs import State
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.changes import truncated
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.read_again import WHOLE_ROWS, Asking, Requests
from dataflare.sdk.sql.read_again import states as states_of


class Resyncs:
    """folder: the workflow's; None where nothing is kept. tables: by number. warnings: what users are told is added here."""

    def __init__(
        self, folder: Path | None, tables: Mapping[int, Followed], warnings: dict[str, int]
    ) -> None:
        asking = {o: Asking(e.reading.step, e.not_truncated) for o, e in tables.items()}
        self._requests = Requests(folder, asking, warnings)
        self.whole: set[int] = set()
        """The tables of which no part may be seen."""
        self.rewritten: set[int] = set()
        """Those with other rows than were given, see `rewrites`."""

    @property
    def may_look(self) -> bool:
        return self._requests.may_look

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._requests.look()

    def due(self, place: Place, *, starts: bool = False) -> dict[int, str]:
        """The tables to read again, each with the id of its last request, as of the last look. starts: also those that an
        earlier run was reading: the reader reads none yet."""
        begun = {o: t.resync for o, t in place.tables.items() if starts or not t.reading}
        again = {oid: place.tables[oid].resync for oid in self.rewritten}
        return again | self._requests.due(begun)

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
        return table not in self.whole or rows > WHOLE_ROWS


def truncation(
    following: Following, event: Truncated, table: int, place: Place
) -> tuple[Place, SourceBatch | None]:
    """A TRUNCATE to give if rows were given that went with it. Where others were given that came later, the table is read
    again. Raises an error where a step takes no TRUNCATE."""
    there = place.tables[table]
    seen = [part.sight.sees(event.transaction) for part in there.parts]
    if there.reading or (seen and all(seen)):
        return place, None
    followed = following.tables[table]
    if followed.not_truncated is not None:
        reading, table_name = followed.reading, quoted(followed.table.name)
        label = f"{reading.relation.label} in {following.server.label}"
        raise truncated(label, table_name, followed.not_truncated, reading.step)
    if any(seen):
        place = place.with_table(table, there.anew())
    return place, followed.truncation


def states(place: Place, asked: Mapping[str, str], step: str) -> dict[str, tuple[str, State]]:
    """How far the requests of a step are that a committed position has begun."""
    tables = [(table.resync, table.reading) for table in place.tables.values()]
    return states_of(tables, asked, step)
