"""What a reader of changes is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.mysql import tables
from dataflare.connectors.mysql.cdc.batches import Decoded, Table, pieces
from dataflare.connectors.mysql.cdc.change_facts import FactColumns
from dataflare.connectors.mysql.cdc.checks import check_table
from dataflare.connectors.mysql.cdc.columns import described
from dataflare.connectors.mysql.cdc.events import Change
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.connection import Db, Server
from dataflare.connectors.mysql.reader import Reading
from dataflare.connectors.mysql.relation import Relation, backticked
from dataflare.errors import DataError, SystemError_
from dataflare.model.batch import KIND_COLUMN
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.table_reads import new_fields
from dataflare.sdk.sql.table_streams import NewTables


class Followed(Struct, frozen=True):
    """One table. stream: its name; None where the source is of one table. table, planned: its place in the catalogue, and
    what the catalogue said of it when the run was planned. find: finds its relation again. gives_new: whether columns that
    come later are told. facts: what is given, where `reading` has the columns of the table alone. not_truncated: the step
    behind it that takes no TRUNCATE; not_ranged: no single rows again."""

    stream: str | None
    reading: Reading
    table: tables.Place
    planned: Table
    find: Callable[[Db], Relation]
    gives_new: bool
    facts: FactColumns
    not_truncated: str | None = None
    not_ranged: str | None = None

    @property
    def name(self) -> str:
        return self.table.label

    @property
    def read(self) -> list[str]:
        """The names of the columns that are read."""
        return list(dict.fromkeys([*self.reading.output, *self.reading.relation.key]))

    def now(self, db: Db, *, reads: bool) -> Table:
        """What the catalogue says of it. reads: whether its rows are to be read. Raises SystemError_ for a table that is
        not there any more; of one of many the log tells that."""
        found = tables.find_place(db, self.table.schema, backticked(self.table.name))
        if found is not None:
            relation = self.find(db)
            if reads:
                self._check(db, found, relation)
            return catalogued(db, relation, found)
        if self.stream is not None and not reads:
            return self.planned
        raise SystemError_(
            f"{self.reading.relation.label} in {self.reading.server.label} was dropped since the run began",
            code="E0605",
            help="run again",
        )

    def _check(self, db: Db, found: tables.Place, relation: Relation) -> None:
        """Raises an error if the rows of the table cannot be read as the run has planned it: it may be another one by now."""
        check_table(db, found, self.reading.server.label)
        if relation.key != self.reading.relation.key:
            raise DataError(
                f"{relation.label} in {self.reading.server.label} has another key than when the run began",
                code="E0545",
                help="run again: the run then has the key that the table has now",
            )

    def with_new(self, now: Table) -> Reading:
        """Its rows with the columns that came behind the plan."""
        relation = self.reading.relation
        new = new_columns(self, now)
        if not new:
            return self.reading
        columns = (*relation.columns, *(now.columns[name] for name in new))
        output = (*self.reading.output, *new)
        return replace(self.reading, relation=replace(relation, columns=columns), output=output)


class Following(Struct, frozen=True):
    """tables: by name. copies: whether their rows are read first. until: where the run ends; None: nowhere. folder: the
    workflow's; None where nothing is kept. new_tables: finds those that came since the run began."""

    server: Server
    step: str
    tables: Mapping[str, Followed]
    server_id: int
    copies: bool
    until: Place | None
    folder: Path | None = None
    new_tables: Callable[[Db], NewTables] = lambda db: NewTables()

    @property
    def label(self) -> str:
        """What is followed, for messages."""
        labels = [each.reading.relation.label for each in self.tables.values()]
        return labels[0] if len(labels) == 1 else f"{len(labels)} tables"


def catalogued(db: Db, relation: Relation, table: tables.Place) -> Table:
    """What the catalogue says of a table. Raises pymysql's errors."""
    return Table({column.name: column for column in relation.columns}, described(db, table))


def new_columns(followed: Followed, now: Table) -> dict[str, str]:
    """The types of the columns that the table has now, and the plan does not have."""
    if not followed.gives_new:
        return {}
    known = followed.reading.relation.names
    return {name: str(column.type) for name, column in now.columns.items() if name not in known}


def cut(
    decoded: Decoded, changes: Sequence[Change], rows_max: int, followed: Followed, place: Callable[[int], str]
) -> list[SourceBatch]:  # fmt: skip
    """Decoded rows in batches."""
    batches, base, bad, facts = [], 0, deque(decoded.bad), followed.facts
    cuts = list(pieces(decoded.frame[KIND_COLUMN], rows_max)) or [(0, 0)]
    for start, stop in cuts:
        numbers = decoded.numbers[start:stop]
        next_base = int(numbers[-1]) + 1 if stop > start else base
        refused_rows = []
        while bad and ((start, stop) == cuts[-1] or bad[0].row < next_base):
            refused_rows.append(bad.popleft())
        frame = decoded.frame[start:stop]
        batches.append(
            SourceBatch(
                facts.of_log(frame.drop(decoded.new.keys()), changes, decoded.events[start:stop]),
                bad=[replace(each, row=each.row - base) for each in refused_rows],
                row_numbers=numbers - base,
                place=place,
                new_fields=new_fields(frame, decoded.new, numbers - base),
                stream=followed.stream,
            )
        )
        base = next_base
    return batches
