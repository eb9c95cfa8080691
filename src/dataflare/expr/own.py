"""Aggregate functions of users: rows of the registry beside the built-in ones.

Always true: the checker treats them like built-in functions; none of them replaces a built-in one.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
from msgspec.structs import replace

from dataflare.errors import ConfigError, ExpressionError
from dataflare.expr import problems, registry
from dataflare.expr.aggregates import KINDS, AggregateCall, Exprs, Kind
from dataflare.expr.check import Call, resolve_call
from dataflare.expr.tree import LITERAL, Node
from dataflare.model.types import DataType, parse_type

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_GROUP = "dataflare.aggregates"
_known: dict[str, type[Aggregate]] = {}


class Aggregate(ABC):
    """A function over the rows of a group, for `measures`.

    Rows become a partial, partials become one, and the last one becomes the result: in any split of the
    rows, on any number of tasks, with a checkpoint in between. Each step is a Polars expression per
    column, never a loop over rows. As in SQL, rows whose first argument is NULL should not count:
    `FILTER (WHERE ...)` leaves rows out by making it NULL.
    """

    signature: ClassVar[str]
    """Its name and parameters, as in "weighted_mean(value: number, weight: number) -> float64". Types are
    those of the expression language, or number, integer, any, T. A `const` parameter is a literal and is
    passed as an option. Parameters in [brackets] are optional."""
    summary: ClassVar[str] = ""
    examples: ClassVar[Sequence[tuple[str, Any]]] = ()
    """Calls over a few rows with their results, for `dataflare functions`."""

    @abstractmethod
    def state(self, types: Sequence[DataType]) -> Sequence[DataType | str]:
        """The types of a partial's columns, for arguments of these types."""

    @abstractmethod
    def partial(self, values: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        """The columns of a partial from rows: aggregating expressions over the arguments."""

    @abstractmethod
    def merge(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> Sequence[pl.Expr]:
        """One partial from several: aggregating expressions over the partials' columns. A group may have
        partials without rows."""

    @abstractmethod
    def finish(self, state: Sequence[pl.Expr], options: Sequence[Any]) -> pl.Expr:
        """The result from the last partial's columns: an expression that is not aggregating."""


def register_aggregate(aggregate: type[Aggregate]) -> None:
    """Add it to the functions of this process. Raises ConfigError (E0418) for a missing method, a signature
    that cannot be read, or a name that exists already."""
    name = _name(aggregate)
    lacking = sorted(getattr(aggregate, "__abstractmethods__", ()))
    if lacking:
        raise _unfit(aggregate, f"lacks {', '.join(lacking)}", "write each method of the contract")
    if name in _known:
        registry.forget(name)
    elif registry.is_known(name):
        raise _unfit(aggregate, f"is named {name}, as a built-in function", "give it another name")
    try:
        registry.register(
            name,
            aggregate.signature,
            aggregate.summary,
            *aggregate.examples,
            group="aggregate",
        )
    except AssertionError as error:
        raise _unfit(aggregate, f"cannot be called: {error}", _SIGNATURE) from None
    _known[name] = aggregate
    KINDS[name] = _kind(aggregate)


_SIGNATURE = 'write it as "name(value: number, share: const float64) -> float64"'


def _name(aggregate: type[Aggregate]) -> str:
    match = re.match(r"[a-z_][a-z0-9_]*(?=\()", getattr(aggregate, "signature", ""))
    if match is None:
        raise _unfit(aggregate, "has no signature", _SIGNATURE)
    return match[0]


def _unfit(aggregate: type[Aggregate], problem: str, help: str) -> ConfigError:
    return ConfigError(f"the aggregate {aggregate.__name__} {problem}", code="E0418", help=help)


def installed(name: str | None = None) -> None:
    """Load the aggregates of installed packages: one by name, or all."""
    from importlib.metadata import entry_points

    for point in entry_points(group=_GROUP):
        if name in (None, point.name) and point.name not in _known:
            register_aggregate(_loaded(point))


def _loaded(point: EntryPoint) -> type[Aggregate]:
    try:
        aggregate: type[Aggregate] = point.load()
    except Exception as error:
        raise ConfigError(
            f"the aggregate '{point.name}' cannot be loaded: {type(error).__name__}: {error}",
            code="E0418",
            notes=[f"its entry point: {point.value}"],
            help="fix or remove the package that has it",
        ) from error
    return aggregate


def resolved(call: Call) -> Node:
    """Type a call of such an aggregate. Literals of `const` parameters are its options."""
    node = resolve_call(call)
    if node.op == LITERAL:
        raise call.fail(f"an option of {call.function.name}() is NULL", code=problems.ARGUMENTS)
    places = call.function.signatures[0].parameter
    is_option = [places(place).const for place in range(len(node.args))]
    options = tuple(a.value for a, const in zip(node.args, is_option, strict=True) if const)
    values = tuple(a for a, const in zip(node.args, is_option, strict=True) if not const)
    aggregate_node = replace(node, args=values, value=options)
    _rehearsed(call, aggregate_node)
    return aggregate_node


def _rehearsed(call: Call, node: Node) -> None:
    """Run all its steps without rows, so that errors are found before a run."""
    draft = AggregateCall(
        node.op,
        tuple(f"a{i}" for i in range(len(node.args))),
        tuple(arg.type for arg in node.args),
        node.type,
        (),
        tuple(node.value),
    )
    kind, name = KINDS[node.op], _known[node.op].__name__
    try:
        types = [type_.to_polars() for type_ in kind.state(draft)]
        rows = pl.DataFrame(
            schema={n: t.to_polars() for n, t in zip(draft.inputs, draft.types, strict=True)}
        )
        columns = [f"s{i}" for i in range(len(types))]
        for step, read in ((kind.partial, draft.inputs), (kind.merge, columns)):
            expressions = step(draft, [pl.col(column) for column in read])
            rows = rows.select(e.alias(c) for e, c in zip(expressions, columns, strict=True))
        finished = kind.finish(draft, [pl.col(column) for column in columns])
        assert isinstance(finished, pl.Expr)
        rows.select(finished)
    except ExpressionError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise call.fail(
            f"the aggregate {name} does not work here: {type(error).__name__}: {first}",
            code=problems.NOT_ALLOWED,
            notes=[f"in {inspect.getfile(_known[node.op])}"],
            help="its steps give one expression for each column of its state",
        ) from error


def _kind(aggregate: type[Aggregate]) -> Kind:
    """Its steps, with each column cast to its declared type."""
    instance = aggregate()

    def state(call: AggregateCall) -> Sequence[DataType]:
        return [_type(each) for each in instance.state(call.types)]

    def kept(call: AggregateCall, expressions: Sequence[Any]) -> Sequence[pl.Expr]:
        return [
            expr.cast(type_.to_polars())
            for expr, type_ in zip(expressions, state(call), strict=True)
        ]

    def partial(call: AggregateCall, values: Exprs) -> Sequence[pl.Expr]:
        return kept(call, instance.partial(values, call.options))

    def merge(call: AggregateCall, columns: Exprs) -> Sequence[pl.Expr]:
        return kept(call, instance.merge(columns, call.options))

    def finish(call: AggregateCall, columns: Exprs) -> pl.Expr:
        return instance.finish(columns, call.options).cast(call.result.to_polars())

    return Kind(state, partial, merge, finish)


def _type(type_: DataType | str) -> DataType:
    return type_ if isinstance(type_, DataType) else parse_type(type_)
