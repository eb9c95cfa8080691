"""Processors of users' own (`sdk.processor`), as steps: one is an operator that keeps its state as rows.

The rows of several inputs reach it on one way, each with the columns of its own input beside the keys
and the number of its port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.errors import ConfigError, DataError, DataFlareError, PlanError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.record import StructABC
from dataflare.model.types import INT64, RESERVED, Field, Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    Lowering,
    RowOperator,
    Snapshot,
    StatefulOperator,
    Step,
)
from dataflare.operators.names import known_columns, no_doubles
from dataflare.sdk import user_code
from dataflare.sdk.context import Policy
from dataflare.sdk.processor import KeptRows, Processor, ProcessorContext, Refused
from dataflare.state.partials import own_rows

if TYPE_CHECKING:
    from pydantic import BaseModel

_PORT = f"{RESERVED}port"
_RESULT = "result"
_STATE = "state"


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
            f"'{target}' is no Processor",
            code="E0418",
            help="derive the class from dataflare.Processor; for a function use a step of type python",
        )
    return step_of(found)


def _forbidden() -> ConfigError:
    return ConfigError(
        "processors of one's own are not allowed here",
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
    except Exception as error:
        raise user_code.raised(step, f"{what}.output_schema", error) from error
    if not isinstance(output, Schema):
        raise ConfigError(
            f"step '{step}': {what}.output_schema returned {user_code.named(output)}, not a Schema",
            code="E0417",
            step=step,
            help='return Schema.of({"column": "int64", ...}), or one made of the inputs',
        )
    no_doubles(step, output.names)
    keys = None if made.keys is None else tuple(made.keys)
    if keys is None and processor.end is not Processor.end:
        raise ConfigError(
            f"step '{step}': {what} has an end, and keys = None, which says that no row needs another",
            code="E0417",
            step=step,
            help="set keys to (), or to the columns whose rows must meet",
        )
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
    )
    return Bound(outputs={None: output}, ports=operator.ports, stateful=operator)


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


class OnPort(RowOperator, StructABC, frozen=True):
    """One input's rows, in the columns of all inputs."""

    step: str
    port: int
    keys: tuple[str, ...]
    inputs: tuple[Schema, ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.inputs[self.port].names)

    @property
    def changelog(self) -> bool:
        return False

    def output_schema(self, schema: Schema) -> Schema:
        shared = [Field(key, self.inputs[0][key]) for key in self.keys]
        own = [
            Field(_on_port(port, field.name), field.type)
            for port, each in enumerate(self.inputs)
            for field in each
            if field.name not in self.keys
        ]
        return Schema((*shared, *own, Field(_PORT, INT64)))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        own = {_on_port(self.port, name): name for name in self.inputs[self.port].names}
        columns = []
        for field in self.output_schema(self.inputs[self.port]):
            if field.name in self.keys:
                columns.append(pl.col(field.name))
            elif field.name in own:
                columns.append(pl.col(own[field.name]).alias(field.name))
            else:
                value = self.port if field.name == _PORT else None
                columns.append(pl.lit(value, field.type.to_polars()).alias(field.name))
        return frame.select(columns)

    def taken_back(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows as they were."""
        return frame.select(
            pl.col(name) if name in self.keys else pl.col(_on_port(self.port, name)).alias(name)
            for name in self.inputs[self.port].names
        )

    def describe(self) -> str:
        return f"input {self.port}"


def _on_port(port: int, name: str) -> str:
    return f"{RESERVED}p{port}_{name}"


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

    @property
    def ports(self) -> tuple[OnPort, ...]:
        """What brings each input to common columns; nothing for a single one."""
        if len(self.inputs) == 1:
            return ()
        return tuple(
            OnPort(self.step, port, self.keys, self.inputs) for port in range(len(self.inputs))
        )

    def open(self, subtask: int, subtasks: int) -> LiveProcessor:
        return LiveProcessor(self, subtask, subtasks)

    def describe(self) -> str:
        name = _name(self.processor)
        return f"{name} by {', '.join(self.keys)}" if self.keys else name


class LiveProcessor(LiveOperator):
    """Runs a user's object. Its state is opened at the first call, when it has been restored.

    A snapshot holds the rows kept; from the end of the input on, the results not handed out yet.
    """

    def __init__(self, operator: OwnProcessor, subtask: int, subtasks: int) -> None:
        self.operator, self.subtask, self.subtasks = operator, subtask, subtasks
        self.state = KeptRows(None if operator.spread else operator.keys)
        self.context = ProcessorContext(
            operator.step,
            operator.base,
            operator.policy,
            subtask=subtask,
            subtasks=subtasks,
            state=self.state,
        )
        self.processor: Processor | None = None
        self._results: dict[str, pl.DataFrame] = {}
        self._has_ended = False

    def process(self, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        ports = self.operator.ports
        if not ports:
            return self._processed(0, frame)
        made: list[pl.DataFrame] = []
        for on in ports:
            rows = frame.filter(pl.col(_PORT) == on.port)
            if rows.height:
                made += self._processed(on.port, on.taken_back(rows))
        return made

    def _processed(self, port: int, rows: pl.DataFrame) -> list[pl.DataFrame]:
        """What follows from some rows. With `sift`, those that make the code raise are refused."""
        before, refused = self.state.mark(), len(self.context.refused)
        try:
            return self._called("process", lambda p: p.process(port, SharedDataBatch(rows)))
        except DataError as error:
            if not user_code.is_of_rows(error) or not self.sift:
                raise
            self.state.reset(before)
            del self.context.refused[refused:]
            if rows.height == 1:
                self.context.refused.append(Refused(rows, error.message, error.code))
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
            if result is None:
                return []
            whole = isinstance(result, SharedDataBatch) or hasattr(result, "__arrow_c_stream__")
            parts = [result] if whole or isinstance(result, pl.LazyFrame) else list(result)
            frames = [user_code.frame_of(operator.step, what, part) for part in parts]
        except DataFlareError as error:
            raise error.at(step=operator.step) from error.__cause__
        except Exception as error:
            raise user_code.raised(operator.step, what, error) from error
        promised = (operator.output, "output_schema")
        for frame in frames:
            user_code.nothing_beside(operator.step, what, frame, *promised)
        return [user_code.conformed(operator.step, what, f, *promised) for f in frames]

    def refused(self) -> Sequence[Refused]:
        taken = list(self.context.refused)
        self.context.refused.clear()
        return taken

    def end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if not self.operator.spread:
            made = self._called("end", lambda p: p.end())
            self._results |= {f"{_RESULT}.{i}": f for i, f in enumerate(made, len(self._results))}
        if self.processor is not None:
            self.processor.close()

    def drain(self) -> pl.DataFrame | None:
        if not self._results:
            return None
        return self._results.pop(next(iter(self._results)))

    def snapshot(self) -> Snapshot:
        kept = {} if self._has_ended else self.state.frames()
        frames = {f"{_STATE}.{name}": frame for name, frame in kept.items()}
        frames |= self._results
        return Snapshot(frames, {"ended": self._has_ended, "names": list(frames)})

    def restore(self, snapshots: Sequence[Snapshot]) -> None:
        """Rows kept go to who owns their keys; a result that waits, to one of the subtasks."""
        self._has_ended = all(snapshot.facts["ended"] for snapshot in snapshots)
        waiting: list[pl.DataFrame] = []
        for place, snapshot in enumerate(snapshots):
            names = snapshot.facts["names"]
            for name, frame in zip(names, snapshot.frames.values(), strict=True):
                kind, _, rest = name.partition(".")
                if kind == _RESULT and place % self.subtasks == self.subtask:
                    waiting.append(frame)
                elif kind == _STATE:
                    mine = own_rows(frame, self.operator.keys, self.subtask, self.subtasks)
                    self.state.append(rest.rpartition(".")[0], mine)
        self._results = {f"{_RESULT}.{i}": frame for i, frame in enumerate(waiting)}

    def state_bytes(self) -> int:
        return sum(int(frame.estimated_size()) for frame in self.snapshot().frames.values())
