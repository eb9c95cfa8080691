"""`python`: a user's function over batches or rows."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dataflare.errors import ConfigError, DataError
from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.model.hashing import mix_int
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.names import ByName, Name, not_empty, not_reserved, spot_of, types

if TYPE_CHECKING:
    import polars as pl


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
        default="thread", description="process: in worker processes, for code that holds the GIL."
    )


@dataclass(frozen=True)
class PythonCall(RowOperator):
    """Runs eagerly between the queries of a chain, on rows without a fault."""

    step: str
    function: str
    mode: str
    execution: str
    base: Path
    output: Schema
    input: Schema

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.input.names)

    @property
    def can_fail(self) -> bool:
        return True

    @property
    def changelog(self) -> bool:
        return False

    def output_schema(self, schema: Schema) -> Schema:
        return self.output

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        raise AssertionError("python steps run eagerly; the chain does not lower them")

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows after the function, with the clock and keys of rows that went in.

        Raises DataError: E0520 with what the function raised, E0521 for a wrong result.
        """
        if self.execution == "process":
            from dataflare.operators.python_process import call_in_process

            made = call_in_process(self, frame)
        else:
            made = self.call(frame)
        return _carried(frame, made)

    def call(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        function = load_function(self.function, self.base)
        shown = frame.select(self.input.names)
        try:
            if self.mode == "record":
                result: Any = self._records(function, shown)
            else:
                result = function(shown)
            if isinstance(result, pl.LazyFrame):
                result = result.collect()
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"step '{self.step}': {self.function} raised {type(error).__name__}: {error}",
                code="E0520",
                step=self.step,
                notes=_raised_at(error),
                help="mend the function or the data, or set error_handling: {on_error: skip}",
            ) from error
        if not isinstance(result, pl.DataFrame) and hasattr(result, "__arrow_c_stream__"):
            result = pl.DataFrame(result)
        if not isinstance(result, pl.DataFrame):
            raise DataError(
                f"step '{self.step}': {self.function} returned {_named(result)}, not a DataFrame",
                code="E0521",
                step=self.step,
                help="return a Polars DataFrame, a LazyFrame or an Arrow table",
            )
        return self._conformed(result)

    def _records(self, function: Callable[..., Any], frame: pl.DataFrame) -> pl.DataFrame:
        """Row by row. A column that a returned dict lacks is NULL; a value of another type raises."""
        import polars as pl

        made: list[dict[str, Any]] = []
        for row in frame.iter_rows(named=True):
            given = function(row)
            if given is not None:
                made.extend(given if isinstance(given, list) else [given])
        for row in made:
            if not isinstance(row, dict):
                raise DataError(
                    f"step '{self.step}': {self.function} returned {_named(row)}, not a dict",
                    code="E0521",
                    step=self.step,
                    help="return a dict, a list of dicts, or None to leave the row out",
                )
        columns = {name: [row.get(name) for row in made] for name in self.output.names}
        return pl.DataFrame(columns, schema=self.output.to_polars())

    def _conformed(self, frame: pl.DataFrame) -> pl.DataFrame:
        missing = [name for name in self.output.names if name not in frame.columns]
        if missing:
            raise DataError(
                f"step '{self.step}': {self.function} left out the columns {', '.join(missing)}",
                code="E0521",
                step=self.step,
                notes=[f"it returned: {', '.join(frame.columns)}"],
                help="return all columns that 'schema' names",
            )
        try:
            return frame.select(self.output.names).cast(dict(self.output.to_polars()))  # type: ignore[arg-type]
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            expected = ", ".join(
                f"{name}: {type_}" for name, type_ in self.output.to_json().items()
            )
            raise DataError(
                f"step '{self.step}': {self.function} returned values of another type: {first}",
                code="E0521",
                step=self.step,
                notes=[f"expected: {expected}"],
                help="return those types, or change 'schema'",
            ) from error

    def describe(self) -> str:
        return f"python {self.function}"


def _named(value: object) -> str:
    """What a function returned, in words."""
    return "nothing (None)" if value is None else f"a value of the type {type(value).__name__}"


def _raised_at(error: BaseException) -> list[str]:
    """The line of the user's code where an exception was raised: the last that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    own = [frame for frame in own if Path(__file__).parents[1] not in Path(frame.filename).parents]
    return [f"raised in {own[-1].filename} line {own[-1].lineno}: {own[-1].line}"] if own else []


def _carried(frame: pl.DataFrame, made: pl.DataFrame) -> pl.DataFrame:
    """The result with the reserved columns that expressions behind it may read: `now()` stays that
    of the batch; a row's key follows from the batch's first and the row's place in the result."""
    import polars as pl

    if NOW_COLUMN in frame.columns:
        now = pl.lit(frame[NOW_COLUMN].first(), frame[NOW_COLUMN].dtype)
        made = made.with_columns(now.alias(NOW_COLUMN))
    if ROWKEY_COLUMN in frame.columns:
        first = mix_int(int(frame[ROWKEY_COLUMN].first() or 0))  # type: ignore[arg-type]
        place = pl.int_range(pl.len(), dtype=pl.UInt64)
        made = made.with_columns((place + pl.lit(first, pl.UInt64)).alias(ROWKEY_COLUMN))
    return made


@lru_cache(maxsize=64)
def load_function(target: str, base: Path) -> Callable[..., Any]:
    """The function that `package.module:name` names. Raises ConfigError (E0408)."""
    module_name, _, name = target.partition(":")
    try:
        found: Any = _module(module_name, base)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigError(
            f"cannot import '{target}': {type(error).__name__}: {error}",
            code="E0408",
            help=_import_help(error, module_name, name),
        ) from error
    if not callable(found):
        raise ConfigError(
            f"'{target}' is not a function",
            code="E0408",
            help="name a function, or another thing that can be called",
        )
    function: Callable[..., Any] = found
    return function


def _import_help(error: Exception, module: str, name: str) -> str:
    """What to do about a function that cannot be imported."""
    lacking = error.name if isinstance(error, ModuleNotFoundError) else None
    if lacking and not f"{module}.".startswith(f"{lacking}."):
        return f"'{module}' imports '{lacking}': install it where dataflare runs"
    if isinstance(error, ImportError):
        return 'write "package.module:function"; the workflow\'s own folder is searched first'
    if isinstance(error, AttributeError) and name:
        return f"define '{name}' in {module}, or name another function of it"
    return f"mend {module}: it raises this when it is imported"


def _module(name: str, base: Path) -> ModuleType:
    """The module, first sought in the workflow's folder. One that another workflow's folder gave
    under the same name makes way."""
    folder = str(base.absolute())
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    top = name.partition(".")[0]
    known = sys.modules.get(top)
    spec = importlib.machinery.PathFinder.find_spec(top, [folder])
    if known is not None and spec is not None and spec.origin != getattr(known, "__file__", None):
        for other in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[other]
    return importlib.import_module(name)


class PythonStep(Step):
    type = "python"
    Config = PythonConfig
    summary = "Run a function of your own over batches (Polars frames) or rows (dicts)."
    example = """\
type: python
inputs: [orders]
config:
  function: "my_steps:add_margin"
  schema: {order_id: int64, margin: float64}
"""

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
            )
        try:
            load_function(str(config.function), context.base)
        except ConfigError as error:
            raise error.at(step=step, spot=spot) from error.__cause__
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
        )
        return Bound(outputs={None: output}, operators=(operator,))
