"""What sources of tables that follow their server's log have in common: the table is read first, then its changes.
A connector says what it knows of the log, and opens the readers."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec import Struct

from dataflare.errors import SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk.source import Replay, SourceCapabilities
from dataflare.sdk.sql.change_facts import TIME, Fact, columns_of
from dataflare.sdk.sql.relation import Relation
from dataflare.sdk.sql.source import ServerTableSource

if TYPE_CHECKING:
    from dataflare.expr import Typed

R = TypeVar("R", bound=Relation[Any])
_SPLIT = "changes"
_COMMITTED_S, _COMMITTED_LOOK_S = 10.0, 0.02
"""How long an error waits for a checkpoint with the rows before it."""


class TableChanges(Struct, kw_only=True):
    """The changes of a table. copies: whether the first run reads the table. stops: whether a run ends with what is
    there at its start. facts: of each change, that are columns of its rows."""

    copies: bool
    stops: bool
    facts: tuple[Fact, ...] = ()

    def row_key(self, output: Sequence[str] | None) -> tuple[str, ...]:
        """The columns that identify a row; empty before the table is checked. output: the columns that are given;
        None for all."""
        raise NotImplementedError

    def has_whole_rows(self) -> bool:
        """Whether the log has the values of a row that goes."""
        return True

    def leaves_out(self) -> tuple[str, ...]:
        """The columns of which the log may lack a value that did not change; empty before the table is checked."""
        return ()

    def capabilities(self, output: Sequence[str] | None) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.BY_KEY,
            replay_reason="the table is read from the last key on, and the log from the last transaction on",
            bounded=self.stops,
            changelog=True,
            at_once=not self.stops,
            key=self.row_key(output),
            # The facts are those of the change that takes a row away, and not those with which it came.
            deletes_by_key=bool(self.facts) or not self.has_whole_rows(),
            changed_at=TIME if "ts" in self.facts else None,
            leaves_out=self.leaves_out(),
        )

    def effects(self) -> Sequence[str]:
        first = "reads the table in the first run, and then its changes"
        told = [first if self.copies else "reads the changes of the table"]
        if self.stops:
            told.append(
                "reads the changes that are there when the run starts; the next run goes on there"
            )
        return told

    def split_from(self, start: Mapping[str, Any], until: Any) -> Split:
        """The only split. start: JSON of its position. until: where the run ends, as JSON; None: nowhere."""
        return Split(_SPLIT, {"start": dict(start), "until": until})

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        position = positions.get(_SPLIT)
        return None if position is None or not position.value else dict(position.value)


class SupportsChanges(ServerTableSource[R]):
    """A source that may follow its server's log."""

    @property
    @abstractmethod
    def log(self) -> TableChanges | None:
        """Of a source of changes, what it knows of the log; else None."""

    def output(self, relation: R) -> tuple[str, ...]:
        names = super().output(relation)
        if self.log is None or self._columns is not None or self.config.columns is None:
            return names
        return tuple(dict.fromkeys((*names, *columns_of(self.log.facts))))

    def capabilities(self) -> SourceCapabilities:
        if self.log is None:
            return super().capabilities()
        return self.log.capabilities(self._columns or self.config.columns)

    def effects(self) -> Sequence[str]:
        return super().effects() if self.log is None else self.log.effects()

    def reads_all(self) -> bool:
        return self.log is None and super().reads_all()

    def is_incremental(self) -> bool:
        return self.log is not None or super().is_incremental()

    def carries(self) -> bool:
        return self.log is not None or super().carries()

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        return super().carry(positions) if self.log is None else self.log.carry(positions)

    def with_filter(self, condition: Typed) -> Self | None:
        # The log has no filter. A row may come to fit a condition, or not to fit it any more, and the log has both as
        # one change.
        return super().with_filter(condition) if self.log is None else None


def not_followed(table: str) -> str:
    """What is told of a table that an earlier run followed."""
    return f"table '{table}' is not followed any more, because it is gone or no step reads it: its rows stay where they are"


def was_renamed(table: str, now: str) -> str:
    """What is told of one of many tables."""
    return f"table '{table}' is called '{now}' now: it is read as a new table, and what was given as '{table}' stays where it is"


def was_dropped(table: str) -> str:
    """What is told of one of many tables."""
    return f"table '{table}' was dropped: its rows stay where they are"


class Committed:
    """The position of the last checkpoint, as JSON."""

    def __init__(self) -> None:
        self.position: Mapping[str, Any] | None = None


async def until_committed(is_committed: Callable[[], bool]) -> None:
    """Before a log ends with an error: until a checkpoint has the rows that were given, or for some seconds. Where the
    reader is in another process it is not told of checkpoints, and waits for all of them."""
    end = time.monotonic() + _COMMITTED_S
    while not is_committed() and time.monotonic() < end:
        await asyncio.sleep(_COMMITTED_LOOK_S)


def truncated(label: str, table: str, refusing: str, step: str) -> SystemError_:
    """refusing: the step that takes no TRUNCATE."""
    return SystemError_(
        f"{label} was truncated, and step '{refusing}' cannot take back the rows that went, because the log does not have "
        "them",
        code="E0605",
        step=step,
        help="empty the destination, and run with --fresh to read the table and its changes anew",
        notes=[f"of {table} everything before TRUNCATE was written"],
    )
