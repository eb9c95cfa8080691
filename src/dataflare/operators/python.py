"""`python`: a user's function over batches or rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dataflare.errors import ConfigError, DataError
from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN, Kinds
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.hashing import mix_int
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import Duration, Size
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.names import ByName, Name, not_empty, not_reserved, spot_of, types
from dataflare.operators.primitives import kinds_without_updates, without_updates
from dataflare.sdk import user_code, user_values

if TYPE_CHECKING:
    import polars as pl


ORIGIN = "__dataflare_origin"
"""UInt32: the row of the batch that a row of the result came from."""


class Limits(StepConfig):
    timeout: Duration | None = Field(
        default=None,
        description="How long one call of the function may take, without the start of its process and the import "
        "of its module.",
    )
    memory: Size | None = Field(
        default=None,
        description="How much memory the process may have; it is read ten times a second.",
    )


class PythonConfig(StepConfig):
    function: str = Field(
        description='"package.module:name"; modules beside the workflow file are found.'
    )
    mode: Literal["batch", "record"] = Field(
        default="batch",
        description="batch: gets and returns a polars.DataFrame; record: gets a dict, returns a dict, "
        "a list of dicts, or None to drop the row.",
    )
    schema_: ByName[Name] | None = Field(
        default=None,
        alias="schema",
        description="Columns that come out; those of the input if not given.",
    )
    execution: Literal["thread", "process"] = Field(
        default="thread",
        description="process: in worker processes, for code that holds the GIL, crashes or hangs. A batch with which a "
        "process is lost three times is handled by `error_handling`.",
    )
    limits: Limits | None = Field(
        default=None,
        description="For execution: process. A process beyond them is ended, as if it had crashed.",
    )
    pure: bool = Field(
        default=False,
        description="For mode: record. The function gives the same for the same row, at any time. Then a changelog may "
        "pass: what it gave for a row is taken back by calling it again.",
    )


class PythonCall(RowOperator, StructABC, frozen=True):
    """Runs eagerly between the queries of a chain, on rows without a fault."""

    step: str
    function: str
    mode: str
    execution: str
    base: Path
    output: Schema
    input: Schema
    pure: bool = False
    timeout_s: float | None = None
    memory_max: int | None = None

    no_changes = ", because it may give something else for the same row; mode: record with pure: true says that it does not"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.input.names)

    @property
    def can_fail(self) -> bool:
        return True

    @property
    def accepts(self) -> Kinds:
        return CHANGES if self.pure and self.mode == "record" else INSERTS

    def makes(self, arriving: Kinds) -> Kinds:
        return kinds_without_updates(arriving)

    @property
    def keeps_time(self) -> bool:
        return self.mode == "record"

    @property
    def runs_alone(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return self.output

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        raise AssertionError("python steps run eagerly; the chain does not lower them")

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows after the function, with the clock and keys of rows that went in.

        Raises DataError: E0520 with what the function raised, E0521 for a wrong result.
        """
        if KIND_COLUMN in frame.columns:
            lazy = without_updates(frame.lazy(), Lowering(changelog=True))
            frame = lazy.collect(engine="in-memory")
        if self.execution == "process":
            from dataflare.operators.python_process import call_in_process

            made = call_in_process(self, frame)
        else:
            made = self.call(frame)
        return _carried(frame, made)

    def nothing(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A result without rows, with the columns that `run` gives."""
        import polars as pl

        none: pl.DataFrame = pl.DataFrame(schema=self.output.to_polars())
        return _carried(frame, none.with_columns(_origin([])) if self.mode == "record" else none)

    def call(self, frame: pl.DataFrame) -> pl.DataFrame:
        function = user_code.load(self.function, self.base)
        shown = frame.select(self.input.names)
        origins: list[int] | None = None
        try:
            if self.mode == "record":
                result: Any
                result, origins = self._records(function, shown)
            else:
                result = function(shown)
            made = user_code.frame_of(self.step, self.function, result)
        except DataError as error:
            raise error.at(step=self.step) from error.__cause__
        except BaseException as error:
            raise user_code.raised(self.step, self.function, error) from error
        made = user_code.conformed(self.step, self.function, made, self.output, "'schema'")
        return made if origins is None else made.with_columns(_origin(origins))

    def _records(
        self, function: Callable[..., Any], frame: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[int]]:
        """Row by row, and from which row each came. A column that a returned dict lacks is NULL. Raises DataError
        (E0521)."""
        import polars as pl

        self._refuse_what_python_cuts(frame)
        made: list[dict[str, Any]] = []
        origins: list[int] = []
        for number, row in enumerate(frame.iter_rows(named=True)):
            given = function(row)
            if given is not None:
                rows = given if isinstance(given, list) else [given]
                made.extend(rows)
                origins.extend([number] * len(rows))
        for row in made:
            if not isinstance(row, dict):
                raise DataError(
                    f"step '{self.step}': {self.function} returned {user_code.named(row)}, not a dict",
                    code="E0521",
                    step=self.step,
                    help="return a dict, a list of dicts, or None to leave the row out",
                )
        what = f"step '{self.step}': {self.function}"
        columns = [
            user_values.column_of(f.name, [row.get(f.name) for row in made], f.type, what)
            for f in self.output
        ]
        return pl.DataFrame(columns), origins

    def _refuse_what_python_cuts(self, frame: pl.DataFrame) -> None:
        """Raises WrongValue for times that Python's own classes would cut or do not reach."""
        for name in self.input.names:
            if (odd := _unlike_python(frame.select(name), self.input.select([name]))) is not None:
                raise user_values.WrongValue(
                    f"step '{self.step}': the column '{name}' has a time that Python's {odd}",
                    help="use mode: batch, or make it text with map: derive: "
                    f"{{{name}: CAST({name} AS string)}}",
                )

    def describe(self) -> str:
        return f"python {self.function}"


def _unlike_python(frame: pl.DataFrame, schema: Schema) -> str | None:
    """What Python's dates and times lack for values of these columns; None where nothing."""
    from dataflare.formats import far_times

    if far_times.finer_than_python(frame, schema):
        return "microseconds would cut"
    return "years 1 to 9999 do not reach" if far_times.beyond_python(frame, schema) else None


def _origin(rows: list[int]) -> pl.Series:
    import polars as pl

    return pl.Series(ORIGIN, rows, dtype=pl.UInt32)


def _carried(frame: pl.DataFrame, made: pl.DataFrame) -> pl.DataFrame:
    """The result with the reserved columns that expressions behind it may read: `now()` stays that
    of the batch; a row's key follows from the batch's first and the row's place in the result; a row that
    came from one row has its event time."""
    import polars as pl

    if ORIGIN in made.columns:
        times = [name for name in (KIND_COLUMN, *TIME_COLUMNS) if name in frame.columns]
        made = made.with_columns(frame[made[ORIGIN]].select(times)).drop(ORIGIN)
    if NOW_COLUMN in frame.columns:
        now = pl.lit(frame[NOW_COLUMN].first(), frame[NOW_COLUMN].dtype)
        made = made.with_columns(now.alias(NOW_COLUMN))
    if ROWKEY_COLUMN in frame.columns:
        first = mix_int(int(frame[ROWKEY_COLUMN].first() or 0))  # type: ignore[arg-type]
        place = pl.int_range(pl.len(), dtype=pl.UInt64)
        made = made.with_columns((place + pl.lit(first, pl.UInt64)).alias(ROWKEY_COLUMN))
    return made


class PythonStep(Step):
    type = "python"
    Config = PythonConfig
    each_table = True
    summary = "Run a function of your own over batches (Polars frames) or rows (dicts)."
    example = """\
type: python
inputs: [orders]
config:
  function: "my_steps:add_margin"
  schema: {order_id: int64, margin: float64}
"""

    @classmethod
    def names_its_columns(cls, config: PythonConfig) -> bool:
        return config.schema_ is not None

    @classmethod
    def bind(cls, config: PythonConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step = context.step
        spot = spot_of(config.function)
        if not context.policy.python:
            raise ConfigError(
                f"step '{step}': python functions are not allowed here",
                code="E0410",
                step=step,
                spot=spot,
                help="use built-in steps, or run the workflow where functions are allowed",
            )
        try:
            user_code.load(str(config.function), context.base)
        except ConfigError as error:
            raise error.at(step=step, spot=spot) from error.__cause__
        limits = config.limits
        if limits is not None and config.execution != "process":
            raise ConfigError(
                f"step '{step}': 'limits' hold for a process of its own, and the function runs in a thread",
                code="E0405",
                step=step,
                spot=spot,
                help="add execution: process, or leave out 'limits'",
            )
        output = inputs[0]
        if config.schema_ is not None:
            not_empty(step, "columns in `schema`", config.schema_)
            not_reserved(step, config.schema_)
            output = Schema.of(types(step, config.schema_))
        operator = PythonCall(
            step,
            str(config.function),
            config.mode,
            config.execution,
            context.base,
            output,
            inputs[0],
            config.pure,
            None if limits is None else limits.timeout,
            None if limits is None else limits.memory,
        )
        return Bound(outputs={None: output}, operators=(operator,))
