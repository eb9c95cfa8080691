"""Move filters before operators on which they do not depend: lookups, derived columns, renames.

A filter never moves before an operator that can fail, because a row that it removes might have been an
error. A filter that can fail does not move, because it might then fail for rows that an earlier
step removes.
"""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.expr.tree import COLUMN, Node
from dataflare.expr.typed import typed
from dataflare.operators.base import RowOperator
from dataflare.operators.lookup import Lookup
from dataflare.operators.primitives import Derive, Filter, Select
from dataflare.planner.graph import Effect, Graph, RowsNode


def move_filters(graph: Graph) -> Graph:
    """Move the filters of each chain towards the source."""
    for node in list(graph):
        if not isinstance(node, RowsNode):
            continue
        operators, effects = sunk(list(node.operators))
        if effects:
            graph = graph.with_nodes({node.id: replace(node, operators=tuple(operators))}, *effects)
    return graph


def sunk(operators: list[RowOperator]) -> tuple[list[RowOperator], list[Effect]]:
    """The operators with each filter as early as possible, and the moves as effects."""
    effects: list[Effect] = []
    for start in range(1, len(operators)):
        place = start
        while place > 0 and may_pass(operators[place], operators[place - 1]):
            before = operators[place - 1]
            operators[place - 1], operators[place] = ahead(operators[place], before), before
            place -= 1
        if place < start:
            moved, passed = operators[place], operators[place + 1]
            effects.append(
                Effect(
                    "move_filters", f"{moved.step}: {moved.describe()} runs before {passed.step}"
                )
            )
    return operators, effects


def may_pass(operator: RowOperator, before: RowOperator) -> bool:
    """Whether a filter may run before the operator that is now before it."""
    if not isinstance(operator, Filter) or operator.can_fail or operator.condition.needs:
        return False
    if before.can_fail:
        return False
    match before:
        case Derive():
            added = {name for name, _ in before.columns}
        case Lookup():
            if before.on_many == "all":
                return False
            added = {name for name, _ in before.added}
        case Select():
            return True
        case _:
            return False
    return not (operator.reads & added)


def ahead(operator: RowOperator, before: RowOperator) -> RowOperator:
    """The filter with the names that columns have before the operator."""
    if not isinstance(operator, Filter) or not isinstance(before, Select):
        return operator
    names = dict(before.columns)
    if all(names[name] == name for name in operator.reads):
        return operator
    node = _renamed(operator.condition.node, names)
    return replace(operator, condition=typed(node, operator.condition.shown))


def _renamed(node: Node, names: dict[str, str]) -> Node:
    if node.op == COLUMN:
        return replace(node, value=names[node.value])
    return replace(node, args=tuple(_renamed(arg, names) for arg in node.args))
