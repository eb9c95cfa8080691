"""The destination contract: a description, writers for the rows, a committer for the epochs.

The protocol (one for every destination, so that nothing is lost or doubled):

1. `Writer.write_batch` stages rows durably out of sight: a redo file, a staging file.
2. `Writer.prepare(epoch)` finds out every refusal, makes the staged rows durable (fsync) and
   returns a committable: JSON that names them, with a checksum.
3. The engine publishes a manifest naming all committables. From here on the epoch will happen.
4. `Committer.commit` makes the rows visible and records the epoch, in one atomic act. It must
   accept the same epoch twice and do it once: also when the first call raised an error that is
   worth retrying, for then it may be called again.
5. After a crash: `marker()`, then `recover(...)` clears what later epochs left, then `commit`
   of the manifest's committables again.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from msgspec import Struct, field
from pydantic import BaseModel

from dataflare.errors import ConfigError, RunError, did_you_mean
from dataflare.model.float_losses import Loss
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.places import Table, identity_of, shown_place_of, table_of, target_of
from dataflare.sdk.places import Target as Target

ConfigClass = type[BaseModel]

if TYPE_CHECKING:
    import polars as pl

    from dataflare.model.batch import SharedDataBatch


class Delivery(enum.Enum):
    """What a destination can promise by itself, given a source that replays exactly.

    TRANSACTIONAL: rows and epoch become visible together (exactly once).
    IDEMPOTENT: the same row twice is the row once (effectively once).
    REPEATING: a row may come twice (at least once). FLEETING: nothing is kept (at most once).
    """

    TRANSACTIONAL = "exactly once"
    IDEMPOTENT = "effectively once"
    REPEATING = "at least once"
    FLEETING = "at most once"


class DestinationCapabilities(Struct, frozen=True):
    """delivery and its reason, shown by `plan`. parallel: several writers at once.
    changelog: takes batches with row kinds. changelog_with: the options with which it takes them, where it does
    not now ("mode: upsert with a key"), for the error. key: rows are sent to writers by these columns.
    by_id: with IDEMPOTENT, it knows a row by a column, so a row that comes again is one row however late it comes.
    at_commit: rows are visible when their epoch is committed, not before, though the delivery is not TRANSACTIONAL.
    refuses_at_commit: its system tells only at the commit which rows it refuses; then see `Committer.take_refused`.
    bounded_only: refused in a run without end (overwrite, a single Parquet file).
    one_schema: what one run writes has the same columns from its first row to its last.
    all_rows: refused in a run that does not read all rows of its sources (mirror of one file).
    keeps_unchanged: it keeps what is there of a column that a row leaves out as unchanged (UNCHANGED).
    truncates: it takes a TRUNCATE of its changelog: it deletes all rows, has it as a row, or leaves it out as it does
    deletes. Not with several writers by key.
    parts_keys: an update that changes the key of its rows comes as a delete and an insert, where the key is known.
    hands_back: it sends rows as they come, and its writers have `hand_back`.
    local: `validate` needs no network, so `dataflare validate` may ask."""

    delivery: Delivery
    reason: str
    parallel: bool = False
    changelog: bool = False
    changelog_with: str = ""
    key: tuple[str, ...] = ()
    by_id: bool = False
    at_commit: bool = False
    refuses_at_commit: bool = False
    bounded_only: bool = False
    one_schema: bool = False
    all_rows: bool = False
    truncates: bool = False
    parts_keys: bool = False
    keeps_unchanged: bool = False
    hands_back: bool = False
    local: bool = False


class WriteStats(Struct, frozen=True):
    """What a `write_batch` took: rows and bytes, as near as is cheap to know."""

    rows: int
    num_bytes: int = 0


class RefusedRow(Struct, frozen=True):
    """A row the system does not take. row: its columns; code and message: why (E0510 and others)."""

    row: Mapping[str, Any]
    code: str
    message: str


class Committable(Struct, frozen=True):
    """What one writer prepared in an epoch. data: JSON, small; paths in it relative where possible. content: its rows
    themselves, where they are few: the checkpoint keeps them, and `Epoch.manifest` is without them."""

    subtask: int
    data: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""

    def to_json(self) -> dict[str, Any]:
        value = {"subtask": self.subtask, "data": dict(self.data)}
        return value | {"content": b64encode(self.content).decode()} if self.content else value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Committable:
        return cls(value["subtask"], value["data"], b64decode(value.get("content", "")))


class Epoch(Struct, frozen=True):
    """An epoch to commit. manifest: the manifest's bytes as text, for destinations that keep it
    beside the rows (it holds the sources' positions, and no rows). final: the run ends with it."""

    number: int
    manifest: str
    final: bool = False


class Marker(Struct, frozen=True):
    """What a destination knows of the last epoch it holds.

    manifest: the text given with it, or None. can_rewind: the destination can go back to an earlier
    epoch (unpublished staging, parts named by epoch, rows written by key), or holds no rows since.
    """

    epoch: int
    attempt: int
    manifest: str | None
    can_rewind: bool


class Owner(Struct, frozen=True):
    """The lineage that wrote to a destination last, for the same workflow and step, when it is not the
    one that asks: its home is another one, or lost.

    epoch, attempt: its newest. rows: that a run which starts from the beginning would double; 0 where
    it replaces them, and where the table was dropped. manifest: of the epoch, or None.
    """

    lineage: str
    attempt: int
    epoch: int
    rows: int
    manifest: str | None = None


class DestinationConnector(ABC):
    """Where to write. Built from validated config, sent between processes; no I/O before `validate`."""

    type: ClassVar[str]
    Config: ClassVar[ConfigClass]
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""

    declarations: Declarations | None = None
    """What the catalogue of the source says of columns that arrive as they were read, set by the
    planner. For a table that the destination makes in the same kind of system."""

    widens: bool = False
    """Whether columns that are too narrow for a value become wider, set by the planner: the workflow says
    `schema_change: evolve`."""

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
        """Whether it can be written only in the process that commits, such as standard output, a file that one process locks, or a
        table whose rows and commit are one transaction: on a cluster its rows go there."""
        return False

    @abstractmethod
    def capabilities(self) -> DestinationCapabilities:
        """What holds for this config. No I/O."""

    def writes_to(self) -> Target | None:
        """Where it writes; None for a place that any number may write to. Read from `path`, `table`
        and `mode` of the config; connectors that name their place otherwise override it. No I/O
        except for links in the path."""
        return target_of(self.config, self.context)

    def table(self) -> Table | None:
        """The table that it writes; None for a place that is not a table. Read from `table`, with `path`
        or `connection_string`, of the config. No I/O except for links in the path."""
        return table_of(self.config, self.context)

    @property
    def mode(self) -> str | None:
        """How it writes (append, overwrite, upsert, mirror); None where it has no modes. Read from
        `mode` of the config. No I/O."""
        mode = getattr(self.config, "mode", None)
        return mode if isinstance(mode, str) else None

    @property
    def key(self) -> Sequence[str]:
        """The columns that tell its rows apart, for `plan`. Read from `key` of the config. No I/O."""
        key = getattr(self.config, "key", None)
        return [key] if isinstance(key, str) else list(key or ())

    @property
    def keeps_last(self) -> Literal["upsert", "mirror"] | None:
        """Of its rows with one key it has the last: upsert, as if none were deleted; mirror, unless it is deleted.
        None: it has all rows. No I/O."""
        modes: dict[str | None, Literal["upsert", "mirror"]] = {
            "upsert": "upsert",
            "mirror": "mirror",
        }
        return modes.get(self.mode) if self.key else None

    @property
    def newest_by(self) -> str | None:
        """The column by which it knows the newest of the rows with one key, in place of their order. No I/O."""
        column = getattr(self.config, "sequence", None)
        return column if isinstance(column, str) else None

    def place(self) -> str | None:
        """Where it writes, in words for `plan`; None if it stores no rows. It may contain a password,
        which is hidden before it is shown. No I/O except for links in the path."""
        target = self.writes_to()
        return target.place if target is not None else shown_place_of(self.config)

    def replaces(self) -> bool:
        """Whether each run replaces all that earlier runs wrote. No I/O."""
        return self.mode == "overwrite"

    def cannot_add(self) -> str | None:
        """Why rows cannot be added to what a finished run wrote ('one parquet file, to which ...'); None
        where they can. Asked before letters are replayed into it. No I/O."""
        return None

    def cannot_go_on(self, lineage: str, committables: Sequence[Committable]) -> str | None:
        """Why a run from a savepoint of this lineage cannot go on from these committables ('a run has published
        ...'); None where it can, or where only the committer can tell. Asked also for `plan`: it reads files, and
        changes nothing."""
        return None

    def refuse_staged(self, committables: Sequence[Committable], schema: Schema) -> None:
        """Raise RunError (E0803) where rows of this schema cannot be added to the rows that are staged. Asked before
        a run goes on from a savepoint, and for `plan`. No I/O."""
        return

    @property
    def adds_for_good(self) -> bool:
        """Whether rows that it has published can neither be taken back nor be written again, so that a run cannot
        go on from a checkpoint before them (E0702). Then each committable has `rows_total`, the rows so far. For `plan`.
        No I/O."""
        return False

    def effects(self) -> Sequence[str]:
        """What a run does there besides adding rows, each in a few words, for `plan`: 'deletes rows
        that are gone from the source, at most 20%'. No I/O."""
        return ()

    def identity(self) -> str | None:
        """The place that it writes to, in words that are the same for the same place wherever the
        workflow's folder lies; None where it has none. Positions that a run carries over belong to it."""
        return identity_of(self.config, self.context)

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the system, for `dataflare check`: {"server": "PostgreSQL 15"}. Connects, and
        changes nothing. Nothing by default."""
        return {}

    async def lacking(self, schema: Schema) -> Sequence[str]:
        """Which of these columns the place to write to lacks, where it is there and has columns of its
        own. Asked before `validate`, unless `settings.schema_change` is evolve."""
        return ()

    async def validate(self, schema: Schema) -> None:
        """Say what is wrong before anything is written: rights, a missing table or key column."""

    @abstractmethod
    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        """A writer for one subtask. restored: its last committed committable of this lineage, after
        `Committer.recover`; None in a new lineage or when the number of subtasks changed."""

    async def committer(self, context: DestinationContext) -> Committer:
        """The one who makes epochs visible; one per step, opened before the writers."""
        return NoCommitter()


class Writer(ABC):
    """One subtask's live end of a destination.

    resumes: a call that raised an error worth retrying may be made again, with the same batch, and
    goes on where it stopped. Where it is False such an error ends the attempt, and what the writer
    took since the last checkpoint is read again.
    progress: of a writer that resumes: grows with what the system takes, so that only attempts that
    come no further are counted.
    takes_at_once: `write_batch` keeps the rows, or leaves them to threads, and seldom waits. Then the task in front
    of it calls it for small batches, without a channel between them.
    system_calls: grows with each call of the outside system, for the circuit breaker: a method that made none says
    nothing of the system. None: each method is such a call.
    """

    resumes: ClassVar[bool] = False
    takes_at_once: ClassVar[bool] = False
    progress: int = 0
    system_calls: int | None = None
    float_losses: Sequence[Loss] = ()
    """Values of floats that the system has no form for, and that are written as NULL or as 0: the run counts
    them, and says so."""
    rows_out: int | None = None
    """Of a writer that holds rows back, and whose rows are visible at once: how many it has sent. None: all
    that `write_batch` took are out, or none before the commit."""

    @abstractmethod
    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        """Stage (or, for a destination without epochs, write) the rows. Called one at a time."""

    async def flush(self) -> None:
        """Send what is held back. Called at the end of the input and by `prepare`; makes nothing visible by itself."""

    async def settle(self) -> Sequence[RefusedRow]:
        """Leave out of the epoch the staged rows that the system refuses, and return them.

        Called before each `prepare` and at the end of input, only where refused rows may be left
        out (`on_error` skip or dead_letter, `DestinationContext.sift`); else `write_batch` or
        `prepare` raises for the first of them.
        """
        return ()

    def hand_back(self) -> Sequence[pl.DataFrame]:
        """Give back the rows that the system has not taken, in their order, and forget them. Of destinations with
        `hands_back`; called after a call that failed, whose batch is among them."""
        return ()

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        """Rows failed, and did not come here. Called before the final `prepare`, and before a call of it
        that is made again. rows: by step, how many of the whole run. What did not come is not known to
        be gone then."""
        return

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        """Make all rows since the last prepare durable, and answer with their committable.
        None when this destination has nothing to commit, ever."""
        await self.flush()
        return None

    async def aclose(self) -> None:
        """Release connections and files. Not called after a crash."""


class Committer(ABC):
    """Makes prepared epochs visible, in order, once. Lives beside the coordinator."""

    @abstractmethod
    async def marker(self) -> Marker | None:
        """The last epoch of this lineage and step that the destination holds; None if none, or if
        the destination keeps no record (then `commit` must find out by itself)."""

    async def owner(self) -> Owner | None:
        """Which other lineage of this workflow and step wrote there last; None where there is none,
        or no record. Asked before `recover`."""
        return None

    async def supersede(self, epoch: int) -> None:
        """Take the place of the owner, durably: it writes nothing any more. epoch: the last one of
        this lineage. Called once, where `owner` told of one."""

    async def is_empty(self) -> bool:
        """Whether nothing is there of what earlier runs wrote. Asked before `recover`, of a lineage
        that has finished runs; False where that cannot be told."""
        return False

    @abstractmethod
    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        """Clear what epochs after `epoch` left behind (0: all of this lineage's leftovers), so that
        `commit` and new writers can follow. Called before any writer is opened: once, or again after
        an error that is worth retrying, and so is `begin`."""

    async def begin(self, epoch: int) -> None:
        """A run begins (it does not resume); `epoch` is the last one before it. Called after
        `recover`, before any writer is opened."""

    @abstractmethod
    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        """Make the rows visible and record the epoch, atomically. The same epoch again changes
        nothing. Raises RunError (E0804, fenced) when a newer attempt has been here."""

    def take_refused(self) -> Sequence[RefusedRow]:
        """The rows that the system refused in the commits since the last call, where rows may be left out
        (`DestinationContext.sift`). An epoch that is committed again must give the same ones again: they are in no
        destination until the next epoch has them as dead letters. Of destinations with `refuses_at_commit`."""
        return ()

    async def published(self) -> Mapping[str, Any]:
        """To show to the user at the end of a run: what is where (`{"path": ..., "rows": ...}`)."""
        return {}

    async def aclose(self) -> None:
        """Release connections."""


def refuse_older(step: str, ours: tuple[int, str], newest: tuple[int, str]) -> None:
    """Raise RunError (E0804) for an attempt that another one has taken over from.

    ours, newest: attempt and token, of this attempt and of the one that the destination saw last. Two
    attempts of one number are of two copies of one state folder: the one that came first goes on.
    """
    if newest[0] > ours[0]:
        raise RunError(
            f"step '{step}' may not write any more: attempt {newest[0]} of this run has taken over "
            f"from attempt {ours[0]}",
            code="E0804",
            step=step,
            help="let the newer attempt go on; this one has nothing left to do",
        )
    if newest[0] == ours[0] and newest[1] and newest[1] != ours[1]:
        raise RunError(
            f"step '{step}' may not write any more: another copy of this state folder has begun attempt {ours[0]} "
            "as well",
            code="E0804",
            step=step,
            help="keep one copy of the state folder; if the other one is gone, run again",
        )


def fenced_by_other(step: str, place: str) -> RunError:
    """The error (E0804) of a lineage whose place another one of the same workflow has taken."""
    return RunError(
        f"step '{step}' may not write any more: a run of this workflow with another state folder has taken over "
        f"{place}",
        code="E0804",
        step=step,
        help="let one state folder write there; --adopt or --fresh takes it back",
    )


class NoCommitter(Committer):
    """For destinations whose rows are visible as soon as they are written."""

    async def marker(self) -> Marker | None:
        return None

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        return None

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        return None


def need_columns(step: str, names: Iterable[str], schema: Schema) -> None:
    """Raises ConfigError (E0411) for the first column that does not reach a step."""
    for name in names:
        if name not in schema:
            raise ConfigError(
                f"step '{step}' needs column '{name}', which does not reach it",
                code="E0411",
                step=step,
                notes=[f"it receives: {', '.join(schema.names)}"],
                help=did_you_mean(name, schema.names),
            )
