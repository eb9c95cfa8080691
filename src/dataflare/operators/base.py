"""What a step becomes when it is bound to the schemas that reach it.

A row step becomes row operators: relational changes that take one row to at most a few, hold no
state, and are expressed on a Polars LazyFrame, so that neighbours fuse into one query. A stateful
step becomes a `StatefulOperator`. Everything here is frozen and pickles.

Always true of a row operator:
- its query never raises for a row: a row that fails gets a fault in ERROR_COLUMN and goes on;
- a row with a fault passes every later operator of the chain untouched by filters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict

from dataflare.errors import InternalError
from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN, Kinds
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.types import Schema
from dataflare.model.unchanged import UNCHANGED
from dataflare.sdk.context import Policy

if TYPE_CHECKING:
    import polars as pl

    from dataflare.sdk.lookup import LookupConnector
    from dataflare.sdk.processor import Refused
    from dataflare.sdk.source import SourceConnector
    from dataflare.state.index import KeyIndex
    from dataflare.state.layout import Adaptation, Held, Layout
    from dataflare.state.tables import Tables


ERROR_COLUMN = "__dataflare_error"
"""UInt32, null for a good row: the fault's site (its index in `Lowering.sites`) times 256, plus the kind."""


TRAVELLING = frozenset(
    (
        KIND_COLUMN,
        ERROR_COLUMN,
        UNCHANGED,
        "__dataflare_row",
        "__dataflare_now",
        "__dataflare_rowkey",
        *TIME_COLUMNS,
    )
)
"""Reserved columns that go along through a chain whatever is selected."""


class StepConfig(BaseModel):
    """The base of step configs: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


Fault = tuple[str, "pl.Expr"] | tuple[str, "pl.Expr", str]
"""What was evaluated, as the user wrote it; its UInt8 error kind; perhaps what is to happen to such a
row (fail, dead_letter), whatever the step's `on_error` says."""


class Lowering:
    """What is shared while a chain is lowered: the places where a row may fail, in order, and the
    lookup tables by step (rows and their index).

    sites: step and text of each place. policies: by the index of a site, what is to happen to its
    rows, where the step's config says so itself. changelog: whether rows have a kind.
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[pl.DataFrame, KeyIndex]] | None = None,
        *,
        changelog: bool = False,
    ) -> None:
        self.sites: list[tuple[str, str]] = []
        self.policies: dict[int, str] = {}
        self.tables = tables or {}
        self.changelog = changelog

    def mark(self, frame: pl.LazyFrame, step: str, errors: Sequence[Fault]) -> pl.LazyFrame:
        """Note the first fault of each row. They are evaluated on `frame`."""
        return frame.with_columns(self.column(step, errors)) if errors else frame

    def column(self, step: str, errors: Sequence[Fault]) -> pl.Expr:
        """The ERROR_COLUMN after `errors`; only rows without an earlier fault change."""
        import polars as pl

        earlier = [pl.col(ERROR_COLUMN)] if self.sites else []
        coded = []
        for shown, error, *policy in errors:
            site = len(self.sites)
            coded.append(error.cast(pl.UInt32) + pl.lit(site * 256, pl.UInt32))
            self.sites.append((step, shown))
            if policy:
                self.policies[site] = policy[0]
        return pl.coalesce(*earlier, *coded).cast(pl.UInt32).alias(ERROR_COLUMN)

    def keep(self, condition: pl.Expr) -> pl.Expr:
        """A filter's condition that lets rows with a fault pass."""
        import polars as pl

        return condition | pl.col(ERROR_COLUMN).is_not_null() if self.sites else condition

    def sound(self, value: pl.Expr) -> pl.Expr:
        """The value, NULL in rows with a fault: so that nothing multiplies those."""
        import polars as pl

        return pl.when(pl.col(ERROR_COLUMN).is_null()).then(value) if self.sites else value


class RowOperator(ABC):
    """A change of rows that needs only the row. Implementations are frozen records (`StructABC`)."""

    step: str
    no_changes: ClassVar[str] = ""
    """Why it takes no changelog, as `, because ...`."""

    @property
    @abstractmethod
    def reads(self) -> frozenset[str]:
        """Columns it reads, reserved ones included."""

    @property
    def can_fail(self) -> bool:
        """Whether some row could get a fault here."""
        return False

    @property
    def accepts(self) -> Kinds:
        """The row kinds that it is right for. A changelog with another kind is refused when the workflow is
        planned."""
        return CHANGES

    def makes(self, arriving: Kinds) -> Kinds:
        """The row kinds that leave it."""
        return arriving

    @property
    def keeps_rows(self) -> bool:
        """Whether as many rows leave as enter, except for faults."""
        return False

    @property
    def keeps_time(self) -> bool:
        """Whether a row that leaves has the event time of the row that it comes from."""
        return True

    @property
    def keeps_columns(self) -> bool:
        """Whether it leaves each column that it does not read as it is, under its name."""
        return False

    @property
    def runs_alone(self) -> bool:
        """Whether it is not part of a query: a user's function, or a system that must be asked first."""
        return False

    @abstractmethod
    def output_schema(self, schema: Schema) -> Schema:
        """The columns after it."""

    @abstractmethod
    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        """The query with this operator added."""

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        """Which incoming columns must be there so that the `needed` ones come out right. All of
        them, for an operator that knows no better."""
        return frozenset(incoming.names)

    def only(self, needed: frozenset[str]) -> RowOperator | None:
        """The same operator making only what is needed; None when it then does nothing."""
        return self

    def describe(self) -> str:
        """A few words for `plan`."""
        return type(self).__name__.lower()

    def needs(self) -> frozenset[str]:
        """Reserved columns (`__dataflare_now`, `__dataflare_rowkey`) the engine must add at the chain's start."""
        return frozenset(
            name for name in self.reads if name in ("__dataflare_now", "__dataflare_rowkey")
        )


class Branch(Struct, frozen=True):
    """The end of a chain that sends each row to some of several outputs.

    tag: adds helper columns (left out again by the outputs' schemas) and faults. outputs: name of
    the output and the condition, over the helper columns, for a row to go there. counters: a
    warning and the helper column whose true values it counts. shares: the same for rules of which a share may be broken.
    """

    step: str
    reads: frozenset[str]
    can_fail: bool
    tag: Callable[[pl.LazyFrame, Lowering], pl.LazyFrame]
    outputs: Mapping[str | None, Callable[[], pl.Expr]]
    described: str = ""
    counters: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, str] = field(default_factory=dict)


class Bound(Struct, frozen=True):
    """A step bound to the schemas of its inputs. Exactly one of the three shapes:

    row operators (with or without a branch at the end), a stateful operator, or a union (operators
    per input). `outputs` names every output with its schema; None is the step itself. Operators stand
    before each input of a stateful one.
    """

    outputs: Mapping[str | None, Schema]
    operators: tuple[RowOperator, ...] = ()
    branch: Branch | None = None
    stateful: StatefulOperator | None = None
    union: tuple[tuple[RowOperator, ...], ...] | None = None


class StatefulOperator(ABC):
    """A description of an operator that remembers rows. Opened once per subtask.

    keys: columns its input is partitioned by (see `keys_of` for several inputs); empty means all rows meet
    in one task. spread: no row needs another, so that rows go to any task.
    passes_rows: what comes out are rows that went in, so columns that no step reads may be left out.
    finite: a bounded number of rows comes out, also of an input without end. timed: reads the event time of
    its rows. keeps_time: its results have an event time. accepts: the row kinds of its inputs that it is
    right for; others are refused when the workflow is planned. truncates: it takes a TRUNCATE, which comes to each
    subtask. repeats: a result may come again, as a plain row,
    when rows come that change it. zone: the time zone whose clock it follows. goes_on: its tables at the end of its
    inputs are all that it would need if they went on, so the next run uses them where it reads only new rows.
    goes_on_always: also where the next run reads all rows again.
    """

    step: str
    keys: tuple[str, ...]
    spread: bool = False
    timed: bool = False
    keeps_time: bool = False
    repeats: bool = False
    zone: str | None = None
    goes_on_always: bool = False
    accepts: Kinds = INSERTS
    truncates: ClassVar[bool] = False
    fills_unchanged: ClassVar[bool] = False
    """Whether it knows the values that rows leave out because they did not change (UNCHANGED)."""
    bounded_only: ClassVar[bool] = False
    no_changes: ClassVar[str] = ""
    """Why it takes no changelog, as `, because ...`."""
    passes_rows: ClassVar[bool] = False
    finite: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False
    shown_values: ClassVar[frozenset[str]] = frozenset()
    """The small values of its state that mean something to a user, for `dataflare state show`."""

    @abstractmethod
    def open(self, tables: Tables) -> LiveOperator:
        """A live copy for one subtask, on its state: new tables, or those of a checkpoint."""

    def layout(self, inputs: Sequence[Schema]) -> Layout | None:
        """What its tables hold, for a run from a savepoint after the step has changed. inputs: the columns
        that reach it. None: state of a step that was written in another way cannot be used."""
        return None

    def initial(self, table: str) -> pl.DataFrame:
        """One row with the state columns of a table as they are before any row. Asked only for columns of
        `layout`."""
        raise InternalError(f"{type(self).__name__} has no initial state")

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        """How state that was made with other settings is used, or why it cannot be. before, now: the settings of the
        step, as its layout has them. held: what there is. Asked also if the settings are the same."""
        from dataflare.state.layout import Adaptation

        for name, value in now.items():
            if name in before and before[name] != value:
                return f"its {name} was {before[name]}, and is {value}"
        return Adaptation()

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        """The columns that decide which rows come out, where each is a row of its one input that went in, perhaps with new
        columns, which are made of these. None: its rows are others. names: the columns that went in."""
        return self.keys if self.passes_rows else None

    def keys_of(self, port: int) -> tuple[str, ...]:
        """The columns that one of its inputs is partitioned by. Rows of several inputs meet if
        `model.hashing` gives the values of these the same hash."""
        return self.keys

    def makes(self, arriving: Kinds) -> Kinds:
        """The row kinds that leave its main output. Its other outputs, such as late rows, have plain rows. arriving: those
        of all its inputs together."""
        return INSERTS

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]] | None:
        """Its state as rows to show to the user, by table, in batches: `dataflare state show`. tables: those of a
        checkpoint, for this call alone. None: the tables are shown as they are stored."""
        return None

    @property
    def shown_keys(self) -> tuple[str, ...]:
        """The key columns of the rows that `shown` gives."""
        return self.keys

    def describe(self) -> str:
        return type(self).__name__.lower()


LATE = "late"
"""The output of a step that works by event time, with the rows that came too late for it."""

LATE_RIGHT = "late_right"
"""The same for the second input of a join."""


LATE_IN_PART = "late_in_part"
"""Not an output: rows that came too late for some of their windows, and are in the later ones. They are only counted."""


class Side(Struct, frozen=True):
    """Rows for an output of a stateful step other than the main one."""

    output: str
    frame: pl.DataFrame


Result: TypeAlias = "pl.DataFrame | Side"


class LiveOperator(ABC):
    """One subtask's live operator. Called by one task, one call at a time, on the worker pool. All that
    it remembers is in the tables that it was opened with.

    sift: rows that it cannot take are left out and given by `refused`; else the first of them is
    raised. lowering: the places where rows that came out last may have failed, if they may.
    """

    sift: bool = False
    lowering: Lowering | None = None
    tick_s: float | None = None
    """How many seconds of processing time lie between two calls of `tick`."""

    @property
    def needs_rows(self) -> bool:
        """Whether more rows could change what comes out. Where not, its sources stop reading."""
        return True

    @abstractmethod
    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        """Take a batch of an input; give what follows from it now."""

    def refused(self) -> Sequence[Refused]:
        """Rows that the calls since the last time could not take."""
        return ()

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        """No row below this event time is expected any more; give what follows from it."""
        return ()

    def passed_on(self, event_time_us: int) -> int:
        """The watermark for the later steps, after `watermark`: no result with an earlier event time
        follows."""
        return event_time_us

    def tick(self) -> Iterable[Result]:
        """The processing time has moved; give what follows from it. See `tick_s`."""
        return ()

    def end(self, port: int) -> Iterable[Result]:
        """No more rows of an input. Between two results a checkpoint may be cut, so that what was
        given is no longer in the tables. After a restart it is called again."""
        return ()

    def warnings(self) -> Mapping[tuple[str, str], int]:
        """What a user must know of its rows, once all inputs have ended: by step and text, for how many rows it is so."""
        return {}

    def close(self) -> None:
        """Release what it holds beside its tables. Called once, after its end, an error or a stop."""


class LookupTable(Struct, frozen=True):
    """What a `lookup` looks up in: a bounded table that is read whole at each start, or a system
    that is asked key by key; the latter's schema is empty until the step is bound."""

    name: str
    source: SourceConnector | LookupConnector
    schema: Schema
    shown: str


class BindContext(Struct, frozen=True):
    """What a step may ask while it is bound.

    table: opens the description of a lookup's source, given its config or the name of a source of
    the file. bounded: the run has an end. parallelism: subtasks of keyed steps. timed: by input, whether
    its rows have an event time. streaming: watermarks move while the run goes on, and rows may be late.
    read: the outputs other than the step itself that some step reads. inputs: their names in the file.
    kinds: by input, the row kinds of its rows; inserts only, if not given. ends: by input, whether it has an end.
    matched: to which the step adds, for each pattern in a list of columns, whether a column matches it.
    """

    step: str
    base: Path
    policy: Policy
    bounded: bool
    parallelism: int
    table: Callable[[Any], LookupTable]
    timed: tuple[bool, ...] = ()
    streaming: bool = False
    inputs: tuple[str, ...] = ()
    read: frozenset[str] = frozenset()
    kinds: tuple[Kinds, ...] = ()
    ends: tuple[bool, ...] = ()
    matched: dict[str, bool] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether some input is a changelog."""
        return any(kinds != INSERTS for kinds in self.kinds)


class Step(ABC):
    """The definition of a step type. Subclasses are found by `operators.registry`."""

    Config: ClassVar[type[StepConfig]]
    type: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[str]
    inputs_max: ClassVar[int | None] = 1
    each_table: ClassVar[bool] = False
    """Whether the step may read many tables, so that it is applied to each of them."""
    key_of_source: ClassVar[bool] = False
    """Whether a `key` that its config does not name is that of the table its rows are of."""

    @classmethod
    @abstractmethod
    def bind(cls, config: Any, inputs: Sequence[Schema], context: BindContext) -> Bound:
        """Check the config against the schemas and say what the step becomes.
        Raises ExpressionError, PlanError, ConfigError."""

    @classmethod
    def extra_outputs(cls, config: Any) -> tuple[str, ...]:
        """Names of outputs other than the step itself (`step.NAME`)."""
        return ()

    @classmethod
    def names_its_columns(cls, config: Any) -> bool:
        """Whether only columns that the config names come out, so that a field which is new in the
        input ends here."""
        return False
