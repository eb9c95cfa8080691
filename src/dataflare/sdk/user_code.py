"""Users' Python code: found by name; its exceptions and wrong results become DataFlare's errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.errors import ConfigError, DataError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk import user_exits
from dataflare.sdk.runtime import current
from dataflare.sdk.user_modules import UserModules, plain_names
from dataflare.sdk.user_values import WrongValue, as_promised

if TYPE_CHECKING:
    import polars as pl

LOST_WORKER = "E0522"


def raised(step: str, what: str, error: BaseException) -> DataError:
    """The error for what a user's code raised, which no signal did (E0520). what: the code, by its name. Raises an
    interruption again."""
    if user_exits.is_interrupt(error):
        raise error
    return DataError(
        f"step '{step}': {what} {plain_names(user_exits.described(error))}",
        code="E0520",
        step=step,
        notes=_raised_at(error),
        help=user_exits.help_for(
            error, "fix the function or the data, or set error_handling: {on_error: skip}"
        ),
    )


def is_of_rows(error: DataError) -> bool:
    """Whether fewer rows might not have the error: the code raised, lost its process, or gave a wrong value."""
    return error.code in ("E0520", LOST_WORKER) or isinstance(error, WrongValue)


def frame_of(step: str, what: str, result: object) -> pl.DataFrame:
    """The rows of what a user's code returned: a batch, a frame, a lazy frame or an Arrow table.
    Raises DataError (E0521)."""
    import polars as pl

    from dataflare.model.foreign import to_held_types

    if isinstance(result, SharedDataBatch):
        return to_held_types(result.frame)
    if isinstance(result, pl.LazyFrame):
        return to_held_types(result.collect(engine="in-memory"))
    if not isinstance(result, pl.DataFrame) and hasattr(result, "__arrow_c_stream__"):
        return to_held_types(pl.DataFrame(result))
    if not isinstance(result, pl.DataFrame):
        raise DataError(
            f"step '{step}': {what} returned {named(result)}, not a DataFrame",
            code="E0521",
            step=step,
            help="return a Polars DataFrame, a LazyFrame or an Arrow table",
        )
    return to_held_types(result)


def conformed(
    step: str, what: str, frame: pl.DataFrame, output: Schema, promise: str
) -> pl.DataFrame:
    """The frame with exactly the columns and types that `promise` names. Raises DataError (E0521);
    a WrongValue where only some of the rows are wrong."""
    missing = [name for name in output.names if name not in frame.columns]
    if missing:
        raise DataError(
            f"step '{step}': {what} left out the columns {', '.join(missing)}",
            code="E0521",
            step=step,
            notes=[f"it returned: {', '.join(frame.columns)}"],
            help=f"return all columns that {promise} names",
        )
    columns = []
    for field in output:
        try:
            columns.append(as_promised(frame[field.name], field.type, f"step '{step}': {what}"))
        except DataError as error:
            error.notes.append(f"{promise} names: {_shown(output)}")
            raise error.at(step=step) from None
    return frame.select(columns)


def _shown(schema: Schema) -> str:
    return ", ".join(f"{name}: {type_}" for name, type_ in schema.to_json().items())


def nothing_beside(step: str, what: str, frame: pl.DataFrame, output: Schema, promise: str) -> None:
    """Raises DataError (E0521) for columns that `promise` does not name."""
    extra = [name for name in frame.columns if name not in output]
    if not extra:
        return
    raise DataError(
        f"step '{step}': {what} returned columns that {promise} does not name: {', '.join(extra)}",
        code="E0521",
        step=step,
        notes=[f"{promise} names: {', '.join(output.names)}"],
        help=f"name them in {promise}, or leave them out: frame.select(...)",
    )


def named(value: object) -> str:
    """What a function returned, in words."""
    return "nothing (None)" if value is None else f"a value of the type {type(value).__name__}"


def load(target: str, base: Path) -> Callable[..., Any]:
    """The function or class that `package.module:name` names, for the run that calls. `base` is the folder
    where its module is sought first. Raises ConfigError (E0408)."""
    modules = current().modules(base)
    function: Callable[..., Any] | None = modules.loaded.get(target)
    if function is None:
        function = modules.loaded[target] = _loaded(target, modules)
    return function


def _loaded(target: str, modules: UserModules) -> Callable[..., Any]:
    module_name, _, name = target.partition(":")
    try:
        found: Any = modules.module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except BaseException as error:
        if user_exits.is_interrupt(error):
            raise
        raise ConfigError(
            f"cannot import '{target}': {_reason(error)}",
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


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it {user_exits.described(error)}"
    return f"{type(error).__name__}: {plain_names(str(error))}"


def _import_help(error: BaseException, module: str, name: str) -> str:
    """What to do about a function that cannot be imported."""
    lacking = plain_names(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if lacking and not f"{module}.".startswith(f"{lacking}."):
        return f"'{module}' imports '{lacking}': install it where dataflare runs"
    if isinstance(error, ImportError):
        return 'write "package.module:function"; the workflow\'s own folder is searched first'
    if isinstance(error, AttributeError) and name:
        return f"define '{name}' in {module}, or name another function of it"
    if isinstance(error, SystemExit):
        return f'put what {module} runs as a script under if __name__ == "__main__":'
    return f"fix {module}: it raises this when it is imported"


def _raised_at(error: BaseException) -> list[str]:
    """The line of the user's code where an exception was raised: the last that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    own = [frame for frame in own if Path(__file__).parents[1] not in Path(frame.filename).parents]
    return [f"raised in {own[-1].filename} line {own[-1].lineno}: {own[-1].line}"] if own else []
