"""`window`: measures over groups of rows in pieces of event time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from dataflare.errors import ConfigError, did_you_mean
from dataflare.expr import ExprText, check_measures
from dataflare.model import types as t
from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN, Kinds
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.record import StructABC
from dataflare.model.types import Field as Column
from dataflare.model.types import Schema
from dataflare.model.units import Duration
from dataflare.operators import window_state
from dataflare.operators.aggregate import group_keys
from dataflare.operators.base import (
    LATE,
    BindContext,
    Bound,
    LiveOperator,
    Side,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.names import ByName, Name, no_doubles, not_empty, not_reserved, spot_of
from dataflare.operators.primitives import Derive, Select
from dataflare.operators.window_grid import Grid, grid_of
from dataflare.state.layout import Adaptation, Held, Layout
from dataflare.state.tables import Tables

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Aggregation, Typed

_WINDOW_TYPE = t.timestamp("us", "UTC")


class Trigger(StepConfig):
    every: Duration | None = Field(default=None, description="How often, in processing time.")
    count: int | None = Field(default=None, ge=1, description="After how many rows of a window.")


class WindowConfig(StepConfig):
    kind: Literal["tumbling", "sliding", "session", "global"] = Field(
        description="tumbling: windows follow each other; sliding: they overlap; session: a window lasts as "
        "long as rows of a group follow each other closely; global: all rows of a group.",
    )
    size: Duration | None = Field(default=None, description="How long a window is.")
    slide: Duration | None = Field(
        default=None, description="How far a sliding window starts after the one before."
    )
    gap: Duration | None = Field(
        default=None,
        description="A session ends when its group has no row for longer than this.",
    )
    offset: Duration = Field(
        default=0.0, description="Windows start that much later: a day at 06:00 with 6h."
    )
    timezone: Name | None = Field(
        default=None,
        description="Windows follow the clocks of this zone (Europe/Berlin), so that a day may have 23 or 25 "
        "hours; UTC if not given.",
    )
    group_by: list[ExprText] | ByName[ExprText] = Field(
        default_factory=list,
        description="Columns or expressions; a mapping names them. Each group has windows of its own.",
    )
    measures: ByName[ExprText] = Field(description='Name to aggregate, as total: "sum(amount)".')
    trigger: Trigger | None = Field(
        default=None,
        description="Gives the results of open windows early: every 10s, or after a count of rows. A window that "
        "has new rows comes again at its end.",
    )
    emit: Literal["final", "updates"] = Field(
        default="final",
        description="What comes when a window's result changes. final: the whole result again; updates: a "
        "changelog, in which the new result replaces the one before.",
    )
    fill: Literal["none", "null", "previous", "0", 0] | None = Field(
        default="none",
        description="What tumbling and sliding windows without rows give, for groups that had rows before: "
        "none, null (measures are NULL), previous (those of the window before), or 0.",
    )
    allowed_lateness: Duration = Field(
        default=0.0,
        description="For how long after its end a window takes late rows. Each batch of them gives the window's "
        "result again.",
    )


class Window(StatefulOperator, StructABC, frozen=True):
    """group: the group's columns in the rows; names: in the results; meanings: what each holds. late: the columns of a late row. grid: of
    tumbling and sliding windows. gap: of sessions; without it and a grid there is one window.
    changes: whether its input is a changelog."""

    step: str
    keys: tuple[str, ...]
    group: tuple[str, ...]
    names: tuple[str, ...]
    meanings: tuple[str, ...]
    aggregation: Aggregation
    kind: str
    grid: Grid | None
    gap: int | None
    lateness: int
    late: tuple[str, ...]
    described: str
    every_s: float | None = None
    count: int | None = None
    updates: bool = False
    fill: Literal["none", "null", "previous", "0"] = "none"
    zone: str | None = None
    repeats: bool = False
    changes: bool = False
    accepts: Kinds = INSERTS
    timed = True
    keeps_time = True

    def open(self, tables: Tables) -> LiveOperator:
        if self.grid is not None:
            from dataflare.operators.window_panes import LivePanes

            return LivePanes(self, self.grid, tables)
        from dataflare.operators.window_sessions import LiveSessions

        return LiveSessions(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return window_state.layout_of(self, inputs[0])

    def initial(self, table: str) -> pl.DataFrame:
        return window_state.initial(self)

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return window_state.adapted(self, before, now, held)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The windows as they would be given now."""
        if self.grid is not None:
            from dataflare.operators.window_panes import LivePanes

            return LivePanes(self, self.grid, tables).shown()
        from dataflare.operators.window_sessions import LiveSessions

        return LiveSessions(self, tables).shown()

    @property
    def shown_keys(self) -> tuple[str, ...]:
        return self.names

    def late_rows(self, rows: pl.DataFrame) -> Side:
        """Rows that came too late, with the columns of the input."""
        stamps = [name for name in TIME_COLUMNS if name in rows.columns]
        if self.changes:
            from dataflare.operators.changes import op_text, parted

            return Side(LATE, op_text(parted(rows.select(*self.late, *stamps, KIND_COLUMN))))
        return Side(LATE, rows.select(*self.late, *stamps))

    def makes(self, arriving: Kinds) -> Kinds:
        return CHANGES if self.updates else INSERTS

    def describe(self) -> str:
        by = f" by {', '.join(self.names)}" if self.names else ""
        changes = ", of rows that change" if self.changes else ""
        return f"{self.described}: {', '.join(self.aggregation.output.names)}{by}{changes}"


class WindowStep(Step):
    type = "window"
    Config = WindowConfig
    summary = "Measures over groups of rows in windows of event time."
    example = """\
type: window
inputs: [orders]
config:
  kind: tumbling
  size: 1h
  group_by: [country]
  measures: {orders: "count(*)", revenue: "sum(amount)"}
  allowed_lateness: 10m
"""

    @classmethod
    def extra_outputs(cls, config: Any) -> tuple[str, ...]:
        return (LATE,)

    @classmethod
    def names_its_columns(cls, config: WindowConfig) -> bool:
        return True

    @classmethod
    def bind(cls, config: WindowConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        not_empty(step, "`measures`", config.measures)
        grid = _grid(config, step)
        _check_results(config, step)
        keys = group_keys(config.group_by, schema, step)
        not_reserved(step, [*keys, *config.measures])
        no_doubles(step, [*keys, "window_start", "window_end", *config.measures])
        fills = config.fill != "none"
        aggregation = check_measures(config.measures, schema, step=step, in_time=True)
        changes = bool(context.kinds) and context.kinds[0] != INSERTS
        if changes:
            from dataflare.operators.changes import with_op
            from dataflare.operators.window_changes import check_changes

            check_changes(step, config, aggregation, streaming=context.streaming)
        columns = _key_columns(keys, schema)
        late = tuple(schema.names) if LATE in context.read else ()
        derived = [
            *(
                (columns[name], typed)
                for name, typed in keys.items()
                if columns[name] not in schema
            ),
            *aggregation.inputs,
        ]
        selected = [*late, *columns.values(), *(name for name, _ in aggregation.inputs)]
        # A batch without columns would forget how many rows it has: one is kept.
        names = dict.fromkeys(selected or schema.names[:1])
        operators = (
            *([Derive(step, tuple(derived))] if derived else []),
            Select(step, tuple((name, name) for name in names)),
        )
        stamps = [Column(name, _WINDOW_TYPE) for name in ("window_start", "window_end")]
        updates = config.emit == "updates" and bool(config.trigger or config.allowed_lateness)
        key_types = map(Column, map(str, keys), (typed.type for typed in keys.values()))
        return Bound(
            outputs={
                None: Schema((*key_types, *stamps, *aggregation.output)),
                LATE: with_op(step, schema) if changes and LATE in context.read else schema,
            },
            operators=operators,
            stateful=Window(
                step,
                # With `fill`, all groups have windows up to the last one of any group.
                () if fills else tuple(columns.values()),
                tuple(columns.values()),
                tuple(map(str, keys)),
                tuple(key.meaning for key in keys.values()),
                aggregation,
                config.kind,
                grid,
                _us(config.gap) if config.gap else None,
                _us(config.allowed_lateness),
                late,
                _described(config),
                every_s=config.trigger.every if config.trigger else None,
                count=config.trigger.count if config.trigger else None,
                updates=updates,
                fill="0" if config.fill == 0 else config.fill or "null",
                zone=str(config.timezone) if config.timezone else None,
                repeats=config.emit == "final"
                and bool(config.trigger or (config.allowed_lateness and context.streaming)),
                changes=changes,
                accepts=CHANGES if changes else INSERTS,
            ),
        )


def _key_columns(keys: dict[str, Typed], schema: Schema) -> dict[str, str]:
    """The column of each key in the rows: its own name, unless an input column has that already."""
    columns = {}
    for place, (name, typed) in enumerate(keys.items()):
        is_free = name not in schema or typed.is_column == name
        columns[str(name)] = str(name) if is_free else f"__dataflare_g{place}"
    return columns


_NEEDS = {"tumbling": ("size",), "sliding": ("size", "slide"), "session": ("gap",), "global": ()}
_TAKES = {
    "tumbling": ("size", "offset", "timezone"),
    "sliding": ("size", "slide", "offset", "timezone"),
    "session": ("gap",),
    "global": (),
}


def _grid(config: WindowConfig, step: str) -> Grid | None:
    """Where tumbling and sliding windows start and end. Raises ConfigError (E0405)."""
    for name in _NEEDS[config.kind]:
        if not (value := getattr(config, name)):
            what = f"a {config.kind} window needs a '{name}'" + (" above 0" if value == 0 else "")
            example = {"size": "1h", "slide": "5m", "gap": "30m"}[name]
            raise _wrong(step, what, f"set it, as {name}: {example}")
    for name in ("size", "slide", "gap", "offset", "timezone"):
        if getattr(config, name) and name not in _TAKES[config.kind]:
            what = f"a {config.kind} window has no '{name}'"
            raise _wrong(step, what, "leave it out, or set another kind")
    if config.kind == "global" and config.allowed_lateness:
        raise _wrong(step, "a global window has no late rows", "leave out 'allowed_lateness'")
    if not config.size:
        return None
    size = _us(config.size)
    slide = _us(config.slide) if config.slide else size
    if slide > size:
        raise _wrong(
            step,
            "the 'slide' of a window is greater than its 'size', so that rows between windows would be lost",
            "set slide to the size or less",
        )
    try:
        return grid_of(size, slide, _us(config.offset), _zone(config.timezone, step))
    except ValueError as error:
        raise _wrong(step, str(error), "set another size, or leave out the time zone") from None


def _check_results(config: WindowConfig, step: str) -> None:
    """Refuse triggers and fillings that have no meaning. Raises ConfigError (E0405)."""
    trigger, kind = config.trigger, config.kind
    if trigger is not None and bool(trigger.every) == bool(trigger.count):
        raise _wrong(
            step, "a 'trigger' has 'every' or 'count'", "set one, as trigger: {every: 10s}"
        )
    if trigger is not None and trigger.count and kind in ("sliding", "session"):
        raise _wrong(step, f"a {kind} window has no trigger by count", "set trigger: {every: 10s}")
    if config.fill == "none":
        return
    if kind in ("session", "global"):
        raise _wrong(
            step,
            f"a {kind} window always has rows, so there is nothing to fill",
            "leave out 'fill'",
        )
    if trigger is not None or config.emit == "updates":
        raise _wrong(
            step, "'fill' needs windows that come at their end", "leave out 'trigger' and 'emit'"
        )


def _described(config: WindowConfig) -> str:
    if config.gap:
        return f"sessions with a gap of {_shown(_us(config.gap))}"
    if not config.size:
        return "global window"
    by = f" by {_shown(_us(config.slide))}" if config.slide else ""
    return f"{config.kind} window of {_shown(_us(config.size))}{by}"


def _zone(name: str | None, step: str) -> str | None:
    if name is None:
        return None
    from zoneinfo import available_timezones

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ConfigError(
            f"step '{step}' has an unknown time zone '{name}'",
            code="E0405",
            step=step,
            spot=spot_of(name),
            help=did_you_mean(name, sorted(available_timezones())) or "name it as Europe/Berlin",
        ) from None
    return str(name)


def _wrong(step: str, problem: str, help: str) -> ConfigError:
    return ConfigError(f"step '{step}': {problem}", code="E0405", step=step, help=help)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _shown(size_us: int) -> str:
    """A duration as in a workflow file."""
    for unit, length in (
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("m", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1000),
    ):
        if size_us % length == 0:
            return f"{size_us // length}{unit}"
    return f"{size_us}us"
