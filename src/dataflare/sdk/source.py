"""The source contract: a description that pickles, and a live reader with a position.

Order of calls: `__init__` -> `validate` -> `schema` -> `splits` -> `open` for each split. The
description does no I/O in `__init__`. Readers hold no memory of earlier readers.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from msgspec import Struct
from pydantic import BaseModel

from dataflare.errors import DataError
from dataflare.model.bad_rows import BadRow as BadRow
from dataflare.model.bad_rows import BadRows as BadRows
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_fields import Columns
from dataflare.model.new_fields import NewFields as NewFields
from dataflare.model.progress import Position, Split, Watermark
from dataflare.model.types import Schema
from dataflare.sdk.chunks import Chunk as Chunk
from dataflare.sdk.chunks import InMemory as InMemory
from dataflare.sdk.chunks import Salvaged as Salvaged
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.places import Table, table_of
from dataflare.sdk.streams import Stream as Stream

ConfigClass = type[BaseModel]

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Typed


class EndOfSplit(Exception):
    """Raised by a reader when nothing will ever follow in its split."""


class Replay(enum.Enum):
    """What reading again from a position gives: the same rows in the same order; the same rows of
    an unfinished key range; the rows that no checkpoint has, in any order, as a queue delivers again what was not
    acknowledged; or nothing that can be relied on."""

    EXACT = "exact"
    BY_KEY = "by_key"
    REDELIVERED = "redelivered"
    NONE = "none"


class SourceCapabilities(Struct, frozen=True):
    """replay: see Replay; replay_reason: shown by `plan`. bounded: it has an end.
    repeats: with it, rows that a checkpoint has may come again, because nothing tells them from new ones.
    changelog: its batches have row kinds. local: `schema` needs no network, so `validate` may ask.
    chunks: its readers are ChunkReaders, so that the steps that follow merge into the scan. `plan`
    shows it, and the contract suite compares it with the readers.
    at_once: without an end, each of its splits has a reader of its own, as partitions that never end need;
    else as many splits are read as there are subtasks.
    key: of a changelog, columns of which no two of its rows that are there have equal values, at any moment.
    leaves_out: columns of a changelog whose value may be left out of an update that did not change it (UNCHANGED).
    deletes_by_key: a delete has the key of its row alone, and an insert replaces the row with its key.
    changed_at: of a changelog, the column with the time of each change; NULL in rows that were there before the log.
    paced: it has an end, and gives its rows at a pace of its own: a read waits until they are due."""

    replay: Replay = Replay.NONE
    replay_reason: str = ""
    repeats: bool = False
    bounded: bool = True
    changelog: bool = False
    local: bool = False
    chunks: bool = False
    at_once: bool = False
    key: tuple[str, ...] = ()
    deletes_by_key: bool = False
    changed_at: str | None = None
    leaves_out: tuple[str, ...] = ()
    paced: bool = False


class SourceConnector(ABC):
    """What to read. Built from validated config, sent between processes; no I/O before `validate`."""

    type: ClassVar[str]
    Config: ClassVar[ConfigClass]
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""
    """A step's YAML, shown by `dataflare connectors TYPE`; validated by a test."""
    finds_new_fields: bool = False
    """Whether its rows may have fields that its schema lacks, and its chunks tell them. Where the class says so, one
    with a config under which that cannot be says no."""
    tries_again: ClassVar[bool] = False
    """Whether calls that fail for a reason that may pass are made again also where the workflow says nothing of it."""
    resyncs: ClassVar[bool] = False
    """Whether it reads a table of its changelog again where a user asks for it (`sdk.resyncs`)."""
    lists_only_new: ClassVar[bool] = False
    """Whether `splits` lists nothing when a run would read no rows: this is known before anything is opened."""
    contract: Schema | None = None
    """The step's `schema:`, set before anything else is called; the rows must have these types."""
    learned: Columns = MappingProxyType({})
    """Columns that earlier reads found beyond what `schema` looks at (see `Chunk.new_fields`), set
    before anything else is called. `schema` has them too, and so has what `open` reads of a split that
    was listed before they were known."""

    written_as: Mapping[str, str | None] = MappingProxyType({})
    """By destination that its rows reach, its `mode`. Set by the planner before `splits` is called."""
    started_from: Mapping[str, Any] | None = None
    """What the run was given as `carried`, set before `carry` and `discover` are called: also for a run
    that was resumed, which lists no splits of its own."""

    streams_known: Set[str] = frozenset()
    """The names of its streams, as the run knows them; set before `splits` is called."""

    streams_read: Set[str] = frozenset()
    """Of its streams, those that some step reads: rows of others are dropped. Set before `splits` is called."""

    streams_learned: Mapping[str, Columns] = MappingProxyType({})
    """As `learned`, by stream."""

    not_truncated: Mapping[str | None, str] = MappingProxyType({})
    """By stream (or None) that may give no TRUNCATE, the step behind it that takes none. Set as `written_as`."""
    not_ranged: Mapping[str | None, str] = MappingProxyType({})
    """By stream (or None) of which single rows may not be read again, the step behind it that could not take them. Set so
    too."""
    needs_unchanged: Mapping[str | None, Mapping[str, str]] = MappingProxyType({})
    """By stream (or None) and column, the step that needs its value also where an update left it as it was. Set so too."""
    has_event_time: bool = False
    """Whether the step has an `event_time`. Then the splits of a source that never ends should be few: one
    that no reader has opened holds event time back. Set before anything else is called."""

    in_batch: bool = False
    """Whether the workflow has `mode: batch`: a log is then read to its end as the run starts. Set before anything else."""

    adds_columns: bool = True
    """Whether columns that only some of its parts have belong to the schema (`schema_change: evolve`); else those of the
    first part do, and others are new fields. Set before anything else is called."""

    of_command: bool = False
    """Whether it belongs to the process of the command, such as its standard streams: on a cluster the job stays in that process."""

    @property
    def of_machine(self) -> bool:
        """Whether it is a file that only processes of one machine may open, because they lock it or add to it: on a cluster the
        job stays on the machine of the command."""
        return False

    def __init__(self, config: Any, context: ConnectorContext) -> None:
        self.config = config
        self.context = context

    @property
    def beside_job(self) -> bool:
        """Whether it can be read only in the process that runs the job, such as standard input: on a cluster it is read there."""
        return False

    @abstractmethod
    def capabilities(self) -> SourceCapabilities:
        """What holds for this config. No I/O."""

    def range_of(self, stream: str | None, condition: Typed) -> str | None:
        """A condition for rows that are to be read again (`sdk.resyncs`), in the source's language; None if it cannot have
        it, or would find other rows. Called after `schema` or `streams`."""
        return None

    def changes_by(self, columns: Set[str]) -> bool:
        """Whether a row of its changelog is known by these columns: at no moment two rows that are there have equal
        values in them, and a delete means the row that has its values. No I/O."""
        key = self.capabilities().key
        return bool(key) and columns >= set(key)

    async def validate(self) -> None:
        """Say what is wrong before anything runs: missing file, wrong rights, no such table."""

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the system, for `dataflare check`: {"server": "PostgreSQL 15"}. Called after
        `validate`. Nothing by default."""
        return {}

    @abstractmethod
    async def schema(self) -> Schema:
        """The columns `open`'s batches will have (after pushdown, if any was applied)."""

    def gives_streams(self) -> bool:
        """Whether its readers, with this config, give the rows of several tables. No I/O."""
        return type(self).streams is not SourceConnector.streams

    async def streams(self) -> Sequence[Stream] | None:
        """The tables whose rows its readers give, each with columns of its own: a reader gives batches, each a
        `SourceBatch` that says which stream its rows are of. Called after `validate`, and then `schema` is not called.
        None: its rows have the columns of `schema`."""
        return None

    def streams_begun(self, position: Mapping[str, Any]) -> Set[str]:
        """Of its streams, those that a run which goes on from a position (JSON, of a split or as `carried`) goes on with;
        it reads others from their beginning. Called after `streams`. No I/O."""
        return self.streams_known

    def primary_key(self) -> tuple[str, ...]:
        """The columns of which no two rows of its table have equal values; empty if there are none. Called after
        `schema`. No I/O."""
        return ()

    @abstractmethod
    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        """List the splits that exist now; ids stay the same from call to call.

        carried: what `carry` returned at the end of the last finished run, or None.
        """

    def declarations(self) -> Declarations | None:
        """What its system's catalogue says of its columns beyond their types. Called after `schema`. No I/O."""
        return None

    def cut_by(self) -> str:
        """What the splits are cut by where the config asks for a cut: 'month of created_at'. Else
        nothing. `plan` lists the splits of what answers, and shows their number. No I/O."""
        return ""

    def findings(self) -> Mapping[str, str]:
        """What it found out about its data while it was asked for its `schema`, in words, for
        `preview`, `plan` and `validate`: {"delimiter": ";", "encoding": "cp1252"}. No I/O."""
        return {}

    def doubts(self) -> Sequence[str]:
        """What looks wrong in its data and is not an error, as warnings: 'all lines hold a ; and there is
        one column'. Called after `schema`. No I/O."""
        return ()

    def effects(self) -> Sequence[str]:
        """Which of its rows a run reads, where that is not all of them or surprises, each in a few
        words, for `plan`: 'reads only files that earlier runs have not read'. No I/O."""
        return ()

    def notes(self) -> Sequence[str]:
        """What a user should know of the last `splits`, for `plan` and the end of a run: '3 files were
        read by earlier runs'. No I/O."""
        return ()

    @abstractmethod
    async def open(self, split: Split, position: Position | None) -> SplitReader:
        """Start at `position`; None means the beginning."""

    def reads_all(self) -> bool:
        """Whether a run gives every row that the system has, so that a row which it does not give is gone:
        a destination with mode mirror deletes it. Not where only new rows are read. No I/O."""
        return False

    def carries(self) -> bool:
        """Whether the next run goes on where this one ended: `carry` gives something. Such a source is
        read to its end even when no step needs more rows. No I/O."""
        return type(self).carry is not SourceConnector.carry

    def table(self) -> Table | None:
        """The table that it reads; None for what is not one table. Read from `table`, with `path` or
        `connection_string`, of the config. No I/O except for links in the path."""
        return table_of(self.config, self.context)

    def is_incremental(self) -> bool:
        """Whether a cursor leaves out the rows that earlier runs read, so that no table may be replaced by
        the rest. Read from `incremental` of the config. No I/O."""
        return getattr(self.config, "incremental", None) is not None

    def reads(self, path: str) -> bool:
        """Whether a file that a destination writes at `path` (links in it resolved) would be read by
        this source, now or in its next run. Called after `schema`. No I/O except for links in paths."""
        return False

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        """What the next run starts from, given the last position of each split (by split id).
        None for a source that starts over each time."""
        return None

    def end_of(self, split: Split) -> Position | None:
        """The last position in a split that was read to its end, if its listing tells it. Used by `--adopt`
        if the positions are lost with the state folder; without it, a source that carries cannot be adopted
        then. No I/O."""
        return None

    async def aclose(self) -> None:
        """Release what the description itself opened (an exported snapshot, say)."""


class SourceBatch(SharedDataBatch):
    """A batch with what a reader knows of its rows beyond their values.

    bad: the rows that could not be read; the frame has the others, and may have none then. row_numbers: the
    numbers of the frame's rows among all that were read, by which `bad` and `new_fields` count; None: they
    are 0, 1, 2 ... place: where the row with a number is, to show to the user: 'orders partition 3 offset
    812'. may_cut: whether a checkpoint may be cut behind the batch; False inside a transaction, whose rows
    are to be committed together. new_fields: fields of these rows that the columns lack, also where the
    source's schema has changed. stream: of a source with streams, the one that the rows are of.
    """

    __slots__ = ("bad", "may_cut", "new_fields", "place", "row_numbers", "stream")

    def __init__(
        self,
        frame: pl.DataFrame,
        *,
        bad: Sequence[BadRow] = (),
        row_numbers: pl.Series | None = None,
        place: Callable[[int], str] | None = None,
        may_cut: bool = True,
        new_fields: NewFields | None = None,
        stream: str | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        watermark: Watermark | None = None,
    ) -> None:
        super().__init__(frame, metadata=metadata, watermark=watermark)
        self.bad, self.row_numbers, self.place = bad, row_numbers, place
        self.may_cut, self.new_fields, self.stream = may_cut, new_fields, stream


class SplitReader(ABC):
    """One split being read, by one task, never by two at once.

    hold_s: set by the engine: how long a reader of a live stream may hold rows back so that
    batches are not tiny. It bounds latency; ignoring it is right, only costlier.
    resumes: a read that raised an error worth retrying may be made again on the same reader, and
    goes on where it was. Else another reader is opened at the position.
    """

    resumes: ClassVar[bool] = False

    hold_s: float = 0.0

    warnings: Mapping[str, int] = MappingProxyType({})
    """What users are told at the end of the split, each with a number of rows: "column 'a' is
    NULL" is told as "column 'a' is NULL in 2 rows". A text with the number 0 is told alone, and behind the next batch."""

    kept_bytes: int | None = None
    """How much of its log the server keeps for it at the moment, where that is known."""

    @property
    def holds_time(self) -> bool:
        """Whether rows that were there before its log are still to come, in any order: event time does not move then, and its
        last batch was of these. A reader that answers yes gives a batch, if one without rows, when they are all there."""
        return False

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint should be taken soon, before its time: a queue gives only so many messages that are
        not acknowledged. Asked behind each batch or chunk."""
        return False

    @abstractmethod
    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        """Return the next rows, at least one and at most `rows_max`, waiting if there are none yet. Where
        nothing without an end can be read again (`Replay.NONE`), a batch without rows is right too: a run that stops
        waits some seconds for a read to return, because its rows could not be read again.

        Never cancelled for a checkpoint: the engine cuts at the rows already returned. Raises
        EndOfSplit when nothing will ever follow. Every batch has exactly the source's schema. A
        `SourceBatch` says more: bad rows, where no checkpoint may be cut, new fields.
        """

    @abstractmethod
    def position(self) -> Position:
        """Where to resume: the first row `read_batch` has not returned. JSON, small, no pickle. One behind a
        batch that says `may_cut=False` is not used."""

    async def aclose(self) -> None:
        """Release the connection. Not called after a crash, so nothing may depend on it."""


class ChunkReader(SplitReader):
    """A reader that hands out chunks. It needs no `read_batch` of its own."""

    bytes_max: int | None = None
    """About how large the next chunk should be at most, but never without a row. The engine sets it where the steps
    behind are slow: a checkpoint waits until they are done with the chunk."""

    rows_max: int | None = None
    """How many rows the next chunk should have at most. The engine sets it where a step has a rate: rows of a larger chunk
    that still wait for their turn go at once when a checkpoint begins."""

    @abstractmethod
    async def read_chunk(self) -> Chunk:
        """The next chunk; reading ahead is allowed, positions travel with the chunks.
        Raises EndOfSplit, or DataError for bytes that cannot be cut into rows at all."""

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        raise DataError("chunk readers are read by chunk", code="E0900", help="call 'read_chunk'")


class UnreadRow(Struct, frozen=True):
    """A row that a run could not read: where it stood, its text or bytes as text, and what stood beside
    it, as its `BadRow` told it."""

    place: str | None
    raw: str
    neighbours: str | None


class Reread(Struct, frozen=True):
    """What became of a row that was read again. row: it alone, with the columns of `schema`; else why
    says why all such rows cannot be read, and detail of this one. moved: its place is gone, or may
    be another row's. source: names what was read, so that one row which was refused in two runs is told
    from two rows."""

    row: pl.DataFrame | None = None
    why: str = ""
    detail: str = ""
    source: str = ""
    moved: bool = False


class SupportsReread(ABC):
    """A source whose rows have places where they can be read again, as those of files."""

    @abstractmethod
    async def reread(self, rows: Sequence[UnreadRow]) -> Sequence[Reread]:
        """What each row is now. Never another row that has come to its place since."""


class SupportsCommits(ABC):
    """A source that is told what it may forget, as a queue whose rows are acknowledged."""

    @abstractmethod
    async def committed(self, positions: Mapping[str, Position]) -> None:
        """The rows before these positions are in every destination and are not read again.

        positions: by split id, the first row that is not committed. Of splits that are read and of those
        that have ended; a split may be named again with the same position. Called after each commit, and at the start of a run that resumes; on the
        description, in the process that leads the run, which may not be the one that has the readers.
        Positions never go back. An error that is worth retrying is retried; another one ends the attempt,
        and loses nothing.
        """


class KnownSplits(Struct, frozen=True):
    """What a run knows of the splits of a source. listed: as `splits` listed them at the start of the run.
    ids: of all splits, also of those that were discovered since. done: of those that were read to their end,
    with all their rows in every destination."""

    listed: Sequence[Split]
    ids: Set[str]
    done: Set[str]

    @property
    def all_done(self) -> bool:
        """Whether no split is left to read."""
        return len(self.done) == len(self.ids)


class SupportsDiscovery(ABC):
    """A source that finds splits while it is read: new files, new partitions, or a log that follows when the
    snapshot before it is done."""

    def discovery_interval_s(self) -> float | None:
        """How many seconds lie between two calls of `discover`. None: with this config, the splits that are
        listed at the start of a run are all."""
        return 10.0

    @abstractmethod
    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        """The splits that are there beside the known ones; known ones among them are passed over. None: no
        other will ever be found, and the source ends with the splits that are known.

        Called after each interval, at once when all known splits are done, and at the start of a run that
        resumes. Only a split that a checkpoint has is known, and only so many are taken as are read soon. So
        a split that is not known must be told by each call, until it is. An id belongs to one split for ever.
        A run that commits at its end takes no checkpoints: there a split is done when its rows were read.
        """


class SupportsProjection(ABC):
    """A source that can leave columns unread."""

    @abstractmethod
    def with_columns(self, columns: Sequence[str]) -> Self:
        """A copy that reads only these, in this order; its `schema` says so."""


class SupportsFilter(ABC):
    """A source that can leave rows unread by a condition of its own language."""

    @abstractmethod
    def with_filter(self, condition: Typed) -> Self | None:
        """A copy that gives exactly the rows where `condition` is true, or None if it cannot.
        May be called again on the copy: conditions add up."""
