"""Users' processors (`sdk.processor`) as steps: one is an operator that keeps its state as rows."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.errors import ConfigError, DataError, DataFlareError, PlanError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.event_time import (
    END_OF_TIME,
    TIME_COLUMN,
    TIME_COLUMNS,
    is_in_years,
    moment_of,
)
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
)
from dataflare.operators.names import known_columns, no_doubles
from dataflare.sdk import user_code
from dataflare.sdk.context import Policy
from dataflare.sdk.processor import KeptRows, Processor, ProcessorContext, Refused
from dataflare.state.layout import Layout, TableLayout
from dataflare.state.rows import RowsTable
from dataflare.state.tables import Tables
from dataflare.state.timers import AT_COLUMN, LAST

if TYPE_CHECKING:
    from pydantic import BaseModel

_STATE = "state."


def step_of(processor: type[Processor]) -> type[Step]:
    """The step type that a processor class is."""

    class ProcessorStep(Step):
        Config = processor.Config  # type: ignore[assignment]
        type = _name(processor)
        summary = processor.summary
        example = processor.example
        inputs_max = processor.inputs_max

        @classmethod
        def bind(cls, config: Any, inputs: Sequence[Schema], context: BindContext) -> Bound:
            return _bound(processor, config, inputs, context)

    return ProcessorStep


def step_at(target: str, base: Path, policy: Policy) -> type[Step]:
    """The step type that "package.module:Class" names. Raises ConfigError (E0408, E0410, E0418)."""
    if not policy.python:
        raise _forbidden()
    found: Any = user_code.load(target, base)
    if not (isinstance(found, type) and issubclass(found, Processor)):
        raise ConfigError(
            f"'{target}' is not a Processor",
            code="E0418",
            help="derive the class from dataflare.Processor; for a function use a step of type python",
        )
    return step_of(found)


def _forbidden() -> ConfigError:
    return ConfigError(
        "your own processors are not allowed here",
        code="E0410",
        help="use built-in steps, or run the workflow where code is allowed",
    )


def _name(processor: type[Processor]) -> str:
    return getattr(processor, "type", processor.__name__)


def _bound(
    processor: type[Processor], config: Any, inputs: Sequence[Schema], context: BindContext
) -> Bound:
    step, what = context.step, processor.__name__
    if not context.policy.python:
        raise _forbidden()
    own = ProcessorContext(step, context.base, context.policy)
    try:
        made = processor(config, own)
        output = made.output_schema(inputs)
    except DataFlareError:
        raise
    except BaseException as error:
        raise user_code.raised(step, f"{what}.output_schema", error) from error
    if not isinstance(output, Schema):
        raise ConfigError(
            f"step '{step}': {what}.output_schema returned {user_code.named(output)}, not a Schema",
            code="E0417",
            step=step,
            help='return Schema.of({"column": "int64", ...}), or one made of the inputs',
        )
    no_doubles(step, output.names)
    if processor.ports and len(processor.ports) != len(inputs):
        raise PlanError(
            f"step '{step}' has {len(inputs)} inputs, and {what} takes {len(processor.ports)}: "
            f"{', '.join(processor.ports)}",
            code="E0318",
            step=step,
            help="name one step for each of them under 'inputs', in this order",
        )
    keys = None if made.keys is None else tuple(made.keys)
    if keys is None and processor.end is not Processor.end:
        raise ConfigError(
            f"step '{step}': {what} has an end, and keys = None, which says that no row needs another",
            code="E0417",
            step=step,
            help="set keys to (), or to the columns whose rows must meet",
        )
    _check_time(step, processor, output, keys)
    for schema in inputs:
        known_columns(step, keys or (), schema)
        _same_keys(step, keys or (), inputs[0], schema)
    operator = OwnProcessor(
        step,
        keys or (),
        processor,
        config,
        context.base,
        context.policy,
        tuple(inputs),
        output,
        spread=keys is None,
        timed=processor.timed,
        keeps_time=processor.event_time is not None,
        streaming=context.streaming,
    )
    return Bound(outputs={None: output}, stateful=operator)


def _check_time(
    step: str, processor: type[Processor], output: Schema, keys: Sequence[str] | None
) -> None:
    """Raise ConfigError (E0417) for a processor whose words on event time do not fit together."""
    what, column = processor.__name__, processor.event_time
    problem = cure = ""
    if processor.timed and keys is None:
        problem = f"{what} is timed, and keys = None, which says that nothing is kept"
        cure = "set keys to (), or to the columns whose rows must meet"
    elif column is not None and not processor.timed:
        problem, cure = f"{what} has an event_time, and is not timed", "set timed = True"
    elif column is not None and (column not in output or output[column].name != "timestamp"):
        problem = f"{what}.event_time is '{column}', which is not a timestamp of its output"
        cure = "name a timestamp column of output_schema, or leave event_time out"
    if problem:
        raise ConfigError(f"step '{step}': {problem}", code="E0417", step=step, help=cure)


def _same_keys(step: str, keys: Sequence[str], first: Schema, other: Schema) -> None:
    for key in keys:
        if first[key] != other[key]:
            raise PlanError(
                f"the key '{key}' of step '{step}' is {first[key]} in one input and {other[key]} "
                "in another",
                code="E0312",
                step=step,
                help="cast one of them in a map step before",
            )


class OwnProcessor(StatefulOperator, StructABC, frozen=True):
    """The description that travels: the class, its config, and the schemas on both sides."""

    step: str
    keys: tuple[str, ...]
    processor: type[Processor]
    config: BaseModel
    base: Path
    policy: Policy
    inputs: tuple[Schema, ...]
    output: Schema
    spread: bool
    timed: bool = False
    keeps_time: bool = False
    streaming: bool = False

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        """The processor knows by itself what its rows mean, whatever its config is."""
        keys = {key: f"{inputs[0][key]}" for key in self.keys}
        name = f"{self.processor.__module__.rpartition('.')[2]}:{self.processor.__qualname__}"
        return {"": TableLayout(keys, rule=f"of processor {name}")}

    def open(self, tables: Tables) -> LiveProcessor:
        return LiveProcessor(self, tables)

    def describe(self) -> str:
        name = _name(self.processor)
        return f"{name} by {', '.join(self.keys)}" if self.keys else name


class LiveProcessor(LiveOperator):
    """Runs a user's object, which is opened at the first call, when its state has been restored.

    The rows that it keeps are a table for each of their names; from the end of the input on, the results
    not handed out yet are one.
    """

    def __init__(self, operator: OwnProcessor, tables: Tables) -> None:
        self.operator, self._tables = operator, tables
        self.state = KeptRows(None if operator.spread else operator.keys)
        self._kept: dict[str, RowsTable] = {}
        for name in tables.names(_STATE):
            table = self._kept_table(name)
            table.name_pieces(self.state.restore(name.removeprefix(_STATE), table.frames()))
        self._results = tables.queue("results")
        self._has_ended = tables.value("ended", False, all)
        self._ended_ports: set[int] = set()
        self._timers = tables.timers("timers", operator.keys) if operator.timed else None
        self.context = ProcessorContext(
            operator.step,
            operator.base,
            operator.policy,
            subtask=tables.subtask,
            subtasks=tables.subtasks,
            state=self.state,
        )
        if self._timers is not None and self._timers.told_us is not None:
            self.context.times.watermark = moment_of(self._timers.told_us)
        self.processor: Processor | None = None

    def _kept_table(self, name: str) -> RowsTable:
        table = self._kept[name] = self._tables.rows(name, self.operator.keys)
        return table

    def _keep(self) -> None:
        """Bring the tables to what the user's object keeps now."""
        names = [] if self._has_ended.value else list(self.state)
        for name in names:
            table = self._kept.get(f"{_STATE}{name}") or self._kept_table(f"{_STATE}{name}")
            table.hold(self.state.chunks(name))
        for gone in [each for each in self._kept if each.removeprefix(_STATE) not in names]:
            self._tables.drop(gone)
            del self._kept[gone]

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        results = self._processed(port, frame)
        self._keep()
        return results

    def watermark(self, event_time_us: int) -> Iterable[pl.DataFrame]:
        moment = moment_of(event_time_us)
        self.context.times.watermark = moment
        results = self._due(event_time_us, moment)
        if self.operator.processor.on_time is not Processor.on_time:
            results += self._called("on_time", lambda p: p.on_time(moment))
        self._keep()
        return results

    def _due(self, event_time_us: int, moment: datetime.datetime) -> list[pl.DataFrame]:
        """What follows from the timers up to a moment, also from those that they set."""
        results: list[pl.DataFrame] = []
        if self._timers is None:
            return results
        while (rows := self._timers.due(event_time_us)) is not None:
            at = pl.col(AT_COLUMN).cast(pl.Datetime("us", "UTC")).alias("at")
            batch = SharedDataBatch(rows.with_columns(at).drop(AT_COLUMN))
            results += self._called("on_timer", lambda p, b=batch: p.on_timer(b, moment))  # type: ignore[misc]
            if event_time_us != LAST:
                break
        return results

    def _processed(self, port: int, rows: pl.DataFrame) -> list[pl.DataFrame]:
        """What follows from some rows. With `sift`, those that make the code raise are refused."""
        before, refused = self.state.mark(), len(self.context.refused)
        own, timed = rows, self.operator.timed
        if timed:
            self.context.times.of_rows = (
                rows[TIME_COLUMN].cast(pl.Datetime("us", "UTC")).alias("time")
            )
        if TIME_COLUMN in rows.columns:
            own = rows.drop(TIME_COLUMNS, strict=False)
        try:
            return self._called("process", lambda p: p.process(port, SharedDataBatch(own)))
        except DataError as error:
            if not user_code.is_of_rows(error) or not self.sift:
                raise
            self.state.reset(before)
            del self.context.refused[refused:]
            self.context.times.added.clear()
            if rows.height == 1:
                self.context.refused.append(Refused(own, error.message, error.code))
                return []
        half = rows.height // 2
        return [*self._processed(port, rows.head(half)), *self._processed(port, rows.slice(half))]

    def _called(self, name: str, call: Callable[[Processor], Any]) -> list[pl.DataFrame]:
        """The frames that a method of the user's object gives. Raises DataError (E0520, E0521)."""
        operator = self.operator
        what = f"{operator.processor.__name__}.{name}"
        try:
            if self.processor is None:
                self.processor = operator.processor(operator.config, self.context)
                self.processor.open()
            result = call(self.processor)
            result = [] if result is None else result
            whole = isinstance(result, SharedDataBatch) or hasattr(result, "__arrow_c_stream__")
            parts = [result] if whole or isinstance(result, pl.LazyFrame) else list(result)
            frames = [user_code.frame_of(operator.step, what, part) for part in parts]
        except DataFlareError as error:
            raise error.at(step=operator.step) from error.__cause__
        except BaseException as error:
            raise user_code.raised(operator.step, what, error) from error
        promised = (operator.output, "output_schema")
        for frame in frames:
            user_code.nothing_beside(operator.step, what, frame, *promised)
        if self._timers is not None:
            self._set_timers(what)
        made = [user_code.conformed(operator.step, what, f, *promised) for f in frames]
        return [self._stamped(what, frame) for frame in made] if operator.keeps_time else made

    def _set_timers(self, what: str) -> None:
        """Take over the timers of a call that succeeded. Raises DataError (E0521)."""
        assert self._timers is not None
        added, operator = list(self.context.times.added), self.operator
        self.context.times.added.clear()
        for frame in added:
            missing = [name for name in (*operator.keys, "at") if name not in frame.columns]
            if (
                missing
                or not isinstance(frame["at"].dtype, pl.Datetime)
                or frame["at"].null_count()
            ):
                raise DataError(
                    f"step '{operator.step}': {what} set timers that "
                    + (f"lack {', '.join(missing)}" if missing else "have no timestamp in 'at'"),
                    code="E0521",
                    step=operator.step,
                    help="timers are rows with the key columns and a timestamp 'at' in each row",
                )
            self._refuse_far(f"{what} set timers", frame, "at")
            at = pl.col("at").dt.timestamp("us").alias(AT_COLUMN)
            self._timers.add(frame.with_columns(at).drop("at"))

    def _refuse_far(self, what: str, frame: pl.DataFrame, column: str) -> None:
        """Raise DataError (E0521) for a time that event time does not reach."""
        unit = getattr(frame[column].dtype, "time_unit", None)
        if frame.select(is_in_years(pl.col(column), unit).all()).item():
            return
        raise DataError(
            f"step '{self.operator.step}': {what} with a time in '{column}' that is not in the years 1 to 9999",
            code="E0521",
            step=self.operator.step,
            help="leave such rows out, or give them another time",
        )

    def _stamped(self, what: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Results with their event time, and with a watermark that does not make them late."""
        name = self.operator.processor.event_time
        assert name is not None
        if frame[name].null_count():
            raise DataError(
                f"step '{self.operator.step}': {what} gave rows without an event time in '{name}'",
                code="E0521",
                step=self.operator.step,
                help="give each row a time there",
            )
        self._refuse_far(f"{what} gave rows", frame, name)
        time = pl.col(name).dt.timestamp("us")
        names = TIME_COLUMNS if self.operator.streaming else (TIME_COLUMN,)
        return frame.with_columns(time.alias(each) for each in names)

    def refused(self) -> Sequence[Refused]:
        taken = list(self.context.refused)
        self.context.refused.clear()
        return taken

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        self._ended_ports.add(port)
        if len(self._ended_ports) < len(self.operator.inputs):
            return ()
        if not self._has_ended.value:
            self._has_ended.value = True
            for frame in self._due(LAST, END_OF_TIME):
                self._results.put(frame)
            if not self.operator.spread:
                for frame in self._called("end", lambda p: p.end()):
                    self._results.put(frame)
            self.close()
            self._keep()
        return self._results.drain_pieces()

    def close(self) -> None:
        processor, self.processor = self.processor, None
        if processor is None:
            return
        try:
            processor.close()
        except DataFlareError as error:
            raise error.at(step=self.operator.step) from error.__cause__
        except BaseException as error:
            what = f"{self.operator.processor.__name__}.close"
            raise user_code.raised(self.operator.step, what, error) from error
