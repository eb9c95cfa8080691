"""Tables of a source of changes that are read again, because a user asks for it or because they have other rows than were
given. What readers of logs have in common.

Always true: a request is begun once for each position that has its id; no checkpoint is cut until a table that is read again
is whole, unless it is very large.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from dataflare.errors import DataError
from dataflare.sdk import resyncs
from dataflare.sdk.resyncs import State

K = TypeVar("K")
READ_AGAIN = (
    "read this table again with 'dataflare resync', or run with --fresh to read all tables anew"
)
ANOTHER = "it is another table than the one of this name that was followed before"
WHOLE_ROWS = 1_000_000
"""A longer table may be cut, so that its copy may be seen while it is filled."""
_LOOK_S = 1.0


class Asking(Struct, frozen=True):
    """What a request concerns. step: by which it is asked for. refusing: the step behind it that takes no TRUNCATE."""

    step: str
    refusing: str | None = None


class Requests(Generic[K]):
    """folder: the workflow's; None where nothing is kept. tables: those that may be asked for. warnings: what users are told
    is added here."""

    def __init__(
        self, folder: Path | None, tables: Mapping[K, Asking], warnings: dict[str, int]
    ) -> None:
        self._folder, self._tables, self._warnings = folder, tables, warnings
        self._asked: Mapping[str, str] = {}
        self._looked_at = -_LOOK_S

    @property
    def may_look(self) -> bool:
        """Whether the last look was more than a second ago."""
        return time.monotonic() - self._looked_at > _LOOK_S

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._looked_at, self._asked = time.monotonic(), resyncs.asked(self._folder)

    def due(self, begun: Mapping[K, str]) -> dict[K, str]:
        """The tables to read again, each with the id of its last request, as of the last look. begun: by table that may begin
        now, the id of the request that was begun last."""
        found = {}
        for table, last in begun.items() if self._asked else ():
            asking = self._tables[table]
            id_ = self._asked.get(asking.step)
            if id_ is None or id_ == last:
                continue
            if asking.refusing is None:
                found[table] = id_
                continue
            # The workflow may have another step than when it was asked for.
            self._warnings[
                f"'{asking.step}' is not read again, as was asked for: step '{asking.refusing}' could not take back the rows "
                "that it has"
            ] = 0
        return found


def states(
    tables: Iterable[tuple[str, bool]], asked: Mapping[str, str], step: str
) -> dict[str, tuple[str, State]]:
    """How far the requests of a step are that a committed position has begun. tables: of each the id of its last request, and
    whether it is being read."""
    ids = {id_: name for name, id_ in asked.items() if name.partition(".")[0] == step}
    return {
        ids[id_]: (id_, "reading" if is_read else "done") for id_, is_read in tables if id_ in ids
    }


def is_read_again(table: str, why: str) -> str:
    """What is told of a table that has other rows than those that were given."""
    return f"table '{table}' is read again: {why}"


def only_changes(table: str, why: str) -> str:
    """The same, where rows that were never given must not come now."""
    return f"of table '{table}' only changes are given, and not what comes otherwise: {why}"


def has_other_rows(label: str, why: str, refusing: str, step: str) -> DataError:
    """The same, where a step takes no TRUNCATE. label: of the table and its server."""
    return DataError(
        f"{label} has other rows than those that were given: {why}; step '{refusing}' cannot take back the rows that it has",
        code="E0545",
        step=step,
        help="empty the destination, and run with --fresh to read the table and its changes anew",
    )
