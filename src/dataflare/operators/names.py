"""Names in configs (columns, routes, functions) that remember where in the file they stand.

Pydantic makes plain strings of all text; these field types keep the text of the file, so that an
error about a name points to it. Always true: they are `str` and `dict` in every other respect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, cast

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from dataflare.errors import (
    ConfigError,
    ExpressionError,
    PlanError,
    Spot,
    WorkflowError,
    did_you_mean,
)
from dataflare.model.patterns import is_pattern, matches
from dataflare.model.text import SourceText
from dataflare.model.types import RESERVED, DataType, Schema, parse_type

T = TypeVar("T")
T_Name = TypeVar("T_Name", bound=str)


def _kept(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    made = handler(value)
    return value if isinstance(value, SourceText) else made


def _keys_kept(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    made = handler(value)
    spots: Mapping[str, Spot] = getattr(value, "key_spots", {})
    return {_placed(key, spots.get(key)): item for key, item in made.items()}


def _placed(key: str, spot: Spot | None) -> str:
    return key if spot is None else SourceText(key, starts=((0, spot),))


Name = Annotated[str, WrapValidator(_kept)]
"""A text with its place."""

ByName = Annotated[dict[str, T], WrapValidator(_keys_kept)]
"""A mapping whose keys have their places."""


def spot_of(name: object) -> Spot | None:
    """Where a name stands, if that is known: all of the name."""
    if isinstance(name, SourceText):
        return name.spot_of(0, len(name.template))
    return None


def listed(names: str | Iterable[str]) -> list[str]:
    """One name or several, as several."""
    return [names] if isinstance(names, str) else list(names)


def known_columns(step: str, names: Iterable[str], schema: Schema) -> None:
    """Raise for names that do not reach the step (E0203), at their place where it is known."""
    for name in names:
        if name not in schema:
            raise ExpressionError(
                f"unknown column '{name}' in step '{step}'",
                code="E0203",
                step=step,
                spot=spot_of(name),
                notes=[f"it receives: {', '.join(schema.names)}"],
                help=did_you_mean(name, schema.names),
            )


def expanded(names: Iterable[T_Name], schema: Schema, matched: dict[str, bool]) -> list[T_Name]:
    """A list of columns in which each pattern (`*` is any text, `?` one character) is replaced by the columns that match
    it and that no other name of the list is. A column that is called like a pattern is a name. matched: to which is
    added, for each pattern, whether a column matches it."""
    listed = list(names)
    named = {name for name in listed if not _stands_for_many(name, schema)}
    found: dict[str, None] = {}
    result: list[T_Name] = []
    for name in listed:
        if name in named:
            result.append(name)
            continue
        every = [column for column in schema.names if matches(column, name)]
        matched[str(name)] = matched.get(str(name), False) or bool(every)
        fresh = [column for column in every if column not in named and column not in found]
        found |= dict.fromkeys(fresh)
        result += [placed(column, name) for column in fresh]
    return result


def by_column(named: Mapping[str, T], schema: Schema, matched: dict[str, bool]) -> dict[str, T]:
    """A mapping by column in which each pattern is replaced as in `expanded`."""
    result: dict[str, T] = {}
    plain = [name for name in named if not _stands_for_many(name, schema)]
    for name, value in named.items():
        each = (
            expanded([*plain, name], schema, matched)[len(plain) :] if name not in plain else [name]
        )
        for column in each:
            result.setdefault(column, value)
    return result


def _stands_for_many(name: str, schema: Schema) -> bool:
    return is_pattern(name) and name not in schema


def placed(column: str, pattern: T_Name) -> T_Name:
    """A column with the place of the pattern that stands for it."""
    spot = spot_of(pattern)
    return cast("T_Name", column if spot is None else SourceText(column, starts=((0, spot),)))


def fitting_column(
    step: str, verb: str, name: str, schema: Schema, wanted: str, fits: bool
) -> None:
    """Raise for a column of the wrong type (E0204). verb: what the step would do to it."""
    if not fits:
        raise ExpressionError(
            f"step '{step}' {verb} '{name}', which is {schema[name]}, not {wanted}",
            code="E0204",
            step=step,
            spot=spot_of(name),
            help="name another column, or cast this one in a map before",
        )


def not_reserved(step: str, names: Iterable[str], help: str | None = None) -> None:
    """Refuse column names that begin as our own do (E0310)."""
    for name in names:
        if name.startswith(RESERVED):
            raise PlanError(
                f"step '{step}' makes a column '{name}': names that begin with '{RESERVED}' are reserved",
                code="E0310",
                step=step,
                spot=spot_of(name),
                help=help or "give it another name",
            )


def no_doubles(step: str, names: Iterable[str], help: str | None = None) -> None:
    """Refuse a name that stands twice (E0311)."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(
                f"step '{step}' gives the column '{name}' twice",
                code="E0311",
                step=step,
                spot=spot_of(name),
                help=help,
            )
        seen.add(name)


def not_empty(step: str, what: str, value: object, help: str | None = None) -> None:
    """Raise for a config part that must not be empty (E0405)."""
    if not value:
        raise ConfigError(f"step '{step}' needs {what}", code="E0405", step=step, help=help)


def types(step: str, named: Mapping[str, str]) -> dict[str, DataType]:
    """The types that texts name, by plain column name. Raises at the text (E0112)."""
    found = {}
    for name, text in named.items():
        try:
            found[str(name)] = parse_type(str(text))
        except WorkflowError as error:
            raise error.at(step=step, spot=spot_of(text)) from None
    return found
