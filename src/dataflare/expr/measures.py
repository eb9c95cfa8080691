"""The measures of an aggregation: expressions over aggregates, as three steps over columns.

Always true: `partial` reads only the input columns, `merge` and `finish` only the state's; two equal
aggregates share one state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.expr import problems, registry
from dataflare.expr.aggregates import AggregateCall, merge, partial, state_types
from dataflare.expr.check import Call, Checker
from dataflare.expr.text import ExprText
from dataflare.expr.tree import AGGREGATE, COLUMN, STAR, Ast, Node, as_text
from dataflare.expr.typed import Typed, parsed_in, result, typed
from dataflare.model import types as t
from dataflare.model.record import Discreet
from dataflare.model.text import SourceText
from dataflare.model.types import Field, Schema

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr.lowered import Lowered

_DISTINCT = ("avg", "count", "list", "max", "min", "string_agg", "sum")
_KEEPS_NULLS = ("first", "last", "list")


class Aggregation(Discreet, frozen=True):
    """The result of `check_measures`. It pickles.

    Use: derive `inputs`; `df.group_by(keys).agg(*partial())`; concatenate partials in order and
    `group_by(keys).agg(*merge())`, any number of times; `finish()` over the merged state. Without
    keys, `df.select(*partial())` gives the one row.
    """

    hidden = ("calls", "measures")

    inputs: tuple[tuple[str, Typed], ...]
    state: Schema
    output: Schema
    calls: tuple[AggregateCall, ...]
    measures: tuple[tuple[str, Typed], ...]

    def partial(self) -> tuple[pl.Expr, ...]:
        """One aggregation expression for each state column, over the inputs."""
        return tuple(expr for call in self.calls for expr in partial(call))

    def merge(self) -> tuple[pl.Expr, ...]:
        """One aggregation expression for each state column, over concatenated partials."""
        return tuple(expr for call in self.calls for expr in merge(call))

    def meanings(self) -> dict[str, str]:
        """What each state column holds, as text: the same for the same aggregate in another aggregation."""
        inputs = self.input_meanings()
        return {
            name: _meaning(call, inputs, place)
            for call in self.calls
            for place, name in enumerate(call.state)
        }

    def input_meanings(self) -> dict[str, str]:
        """What each input column holds, as text."""
        return {name: as_text(each.node) for name, each in self.inputs}

    def finish(self) -> dict[str, Lowered]:
        """Each measure over the state columns, by name."""
        return {name: measure.lower() for name, measure in self.measures}


def _meaning(call: AggregateCall, inputs: Mapping[str, str], place: int) -> str:
    words = [
        f"{inputs[name]}: {type_}" for name, type_ in zip(call.inputs, call.types, strict=True)
    ]
    text = f"{call.name}({'distinct ' if call.distinct else ''}{', '.join(words) or '*'})"
    if call.options or call.directions:
        text += f" {list(call.options)} {[list(each) for each in call.directions]}"
    return text if len(call.state) == 1 else f"{text}, part {place + 1} of {len(call.state)}"


class _Collector(Struct):
    """Collects the aggregates and their inputs."""

    inputs: dict[Node, str] = field(default_factory=dict)
    calls: dict[tuple[object, ...], AggregateCall] = field(default_factory=dict)
    states: int = 0
    in_time: bool = False

    def aggregate(self, outer: Checker, ast: Ast) -> Node:
        inner = Checker(outer.source, outer.schema, outer.step, aggregate=_nested)
        function = registry.row(ast.op)
        args = [inner.node(arg) for arg in ast.args if arg.op != STAR]
        typed_call = Call(function, ast, args, inner)
        if ast.distinct and ast.op not in _DISTINCT:
            raise typed_call.fail(
                f"DISTINCT is possible in {', '.join(_DISTINCT)}, not in {ast.op}()",
                code=problems.NOT_ALLOWED,
            )
        if ast.distinct and not args:
            raise typed_call.fail("count(DISTINCT x) needs a value", code=problems.ARGUMENTS)
        if function.resolve is not None:
            node = function.resolve(typed_call)
        else:
            from dataflare.expr import own

            node = own.resolved(typed_call)
        if ast.where is not None:
            node = self._filtered(typed_call, node, inner.node(ast.where), ast)
        order = [inner.node(each) for each in ast.order]
        for place, each in enumerate(order):
            if each.type.name in ("list", "struct"):
                raise inner.fail(ast.order[place].span, f"ORDER BY cannot order {each.type}")
        if ast.distinct and order:
            if order != [args[0]]:
                raise inner.fail(
                    ast.order[0].span, "after DISTINCT, ORDER BY is the value itself",
                    code=problems.NOT_ALLOWED,
                )  # fmt: skip
            order = []
        if self.in_time and node.op in ("first", "last") and not order:
            node = replace(node, op=f"{node.op}_in_time")
        node = replace(node, args=(*node.args, *order))
        return self._result(node, ast.distinct, ast.directions)

    def _filtered(self, call: Call, node: Node, where: Node, ast: Ast) -> Node:
        assert ast.where is not None
        if where.type.name not in ("bool", "null"):
            raise call.checker.fail(
                ast.where.span, f"FILTER expects a condition, this is {where.type}"
            )
        if node.op in _KEEPS_NULLS:
            raise call.fail(f"FILTER is not possible with {node.op}()", code=problems.NOT_ALLOWED)
        value = node.args[0] if node.args else Node("literal", t.BOOL, value=True)
        none = Node("literal", value.type)
        return replace(node, args=(Node("case", value.type, (where, value, none)), *node.args[1:]))

    def _result(
        self, node: Node, distinct: bool, directions: tuple[tuple[bool, bool], ...]
    ) -> Node:
        key = (node.op, node.args, tuple(node.value or ()), distinct, directions)
        call = self.calls.get(key)
        if call is None:
            names = tuple(
                self.inputs.setdefault(arg, f"__dataflare_m{len(self.inputs)}") for arg in node.args
            )
            draft = AggregateCall(
                node.op, names, tuple(arg.type for arg in node.args), node.type, (),
                tuple(node.value or ()), distinct, directions,
            )  # fmt: skip
            count = len(state_types(draft))
            call = replace(
                draft, state=tuple(f"__dataflare_s{self.states + i}" for i in range(count))
            )
            self.states += count
            self.calls[key] = call
        return Node(AGGREGATE, node.type, value=call)


def _nested(checker: Checker, ast: Ast) -> Node:
    raise checker.fail(
        ast.point,
        f"the aggregate function {ast.op}() cannot be inside of another",
        code=problems.NOT_ALLOWED,
    )


class _MeasureChecker(Checker):
    """Allows columns only inside of aggregates."""

    def node(self, ast: Ast) -> Node:
        if ast.op == COLUMN and ast.value in self.types:
            raise self.fail(
                ast.span,
                f"column '{ast.value}' must be inside of an aggregate function",
                code=problems.NOT_ALLOWED,
                help=f"write first({ast.value}), or add it to group_by",
            )
        return super().node(ast)


def check_measures(
    measures: Mapping[str, ExprText | SourceText | str],
    schema: Schema,
    *,
    step: str | None = None,
    in_time: bool = False,
) -> Aggregation:
    """Type the measures. in_time: rows have an event time, and first and last go by it. Raises ExpressionError for
    the first wrong one."""
    collector = _Collector(in_time=in_time)
    typed_measures: list[tuple[str, Typed]] = []
    for name, text in measures.items():
        parsed = parsed_in(text, step)
        checker = _MeasureChecker(parsed.source, schema, step, aggregate=collector.aggregate)
        node = result(parsed, checker.node(parsed.ast), step)
        typed_measures.append((name, typed(node, parsed.source.shown)))
    calls = tuple(collector.calls.values())
    state = [
        Field(name, type_)
        for call in calls
        for name, type_ in zip(call.state, state_types(call), strict=True)
    ]
    return Aggregation(
        inputs=tuple((name, typed(node, name)) for node, name in collector.inputs.items()),
        state=Schema(tuple(state)),
        output=Schema(tuple(Field(name, measure.type) for name, measure in typed_measures)),
        calls=calls,
        measures=tuple(typed_measures),
    )
