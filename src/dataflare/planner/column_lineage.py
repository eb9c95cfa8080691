"""Which columns of the sources each column of a destination comes from, derived from the plan as it is written.

A column has *values* it is made of, and *conditions* that decide whether or to which row it comes: filters, the keys of
joins, groups and lookups. Nothing is guessed: where a step is code of the user's, all columns that reach it are values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from msgspec import Struct

from dataflare.expr.measures import Aggregation
from dataflare.expr.tree import AGGREGATE, COLUMN
from dataflare.expr.tree import Node as Expression
from dataflare.model.event_time import TIME_COLUMN
from dataflare.model.types import RESERVED, Schema
from dataflare.operators.aggregate import Aggregate
from dataflare.operators.applied import AppliedFirst
from dataflare.operators.base import RowOperator, StatefulOperator
from dataflare.operators.history import History
from dataflare.operators.history_versions import IS_CURRENT, VALID_FROM, VALID_TO
from dataflare.operators.join_bounded import BoundedJoin
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_shape import KEPT, LEFT, RIGHT, JoinShape
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.operators.join_updating import UpdatingJoin
from dataflare.operators.lookup import Lookup
from dataflare.operators.primitives import Conform, Derive, Filter, Select
from dataflare.operators.stamp import Stamp
from dataflare.operators.window import Window
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)

Column = tuple[str, str]
"""A step and a column of its rows. Of a lookup: the lookup and a column of its table."""


class Origins(Struct, frozen=True):
    """values: what a column is made of; conditions: what decides whether it comes."""

    values: frozenset[Column] = frozenset()
    conditions: frozenset[Column] = frozenset()

    def __or__(self, other: Origins) -> Origins:
        return Origins(self.values | other.values, self.conditions | other.conditions)

    @property
    def as_conditions(self) -> Origins:
        return Origins(frozenset(), self.values | self.conditions)


_NONE = Origins()
Row = dict[str, Origins]
"""The origins of each column of a port, and of the event time of its rows; under "" the conditions of all its rows."""


def column_lineage(graph: Graph) -> dict[str, dict[str, Origins]]:
    """By destination and column, its origins in the sources and in the tables of lookups."""
    lineage = _Lineage(graph)
    rows = lineage.rows
    found: dict[str, dict[str, Origins]] = {}
    for node in graph:
        if isinstance(node, DestinationNode):
            into = found.setdefault(node.step, {})
            for place, port in enumerate(node.ports):
                conform = node.conform[place] if node.conform else ()
                arriving = lineage.through(rows[port], conform, graph.schema(port))
                for name, origins in _shown(arriving):
                    into[name] = into.get(name, _NONE) | origins
            if node.run_column is not None:
                into[node.run_column] = _NONE
    return found


def unmasked(written: Graph, graph: Graph, masks: Set[str]) -> dict[Port, frozenset[str]]:
    """By port of a graph, the columns with values that some `mask` step hides from what is behind it, and that are not hidden
    there. written: the graph as the user wrote it; a rule may have dropped a mask that nothing reads. masks: the names of
    these steps."""
    hidden: set[Column] = set()
    _Lineage(written, masks, hidden)
    rows = _Lineage(graph, masks).rows
    return {
        port: frozenset(
            name
            for name, origins in row.items()
            if name and not name.startswith(RESERVED) and origins.values & hidden
        )
        for port, row in rows.items()
    }


def _shown(row: Row) -> Iterator[tuple[str, Origins]]:
    for name, origins in row.items():
        if name and not name.startswith(RESERVED):
            yield name, origins | row.get("", _NONE)


def _time_of(row: Row) -> Row:
    """The event time of the rows, if they have one."""
    return {TIME_COLUMN: row[TIME_COLUMN]} if TIME_COLUMN in row else {}


def _name_of(step: str, output: str | None) -> str:
    return step if output is None else f"{step}.{output}"


def _all(row: Row, names: frozenset[str] | tuple[str, ...]) -> Origins:
    found = _NONE
    for name in names:
        found |= row.get(name, _NONE)
    return found


class _Lineage:
    """rows: by port, the origins of its columns. masks: steps whose results have no origins; the columns that they hide are
    added to `hidden`."""

    def __init__(
        self, graph: Graph, masks: Set[str] = frozenset(), hidden: set[Column] | None = None
    ) -> None:
        self._graph, self._masks = graph, masks
        self._hidden = hidden if hidden is not None else set()
        self.rows: dict[Port, Row] = {}
        for node in graph:
            for output, row in self._outputs(node).items():
                self.rows[Port(node.id, output)] = row

    def _outputs(self, node: Node) -> Mapping[str | None, Row]:
        graph, rows = self._graph, self.rows
        match node:
            case SourceNode():
                return {
                    output: {
                        name: Origins(frozenset([(_name_of(node.step, output), name)]))
                        for name in schema.names
                    }
                    for output, schema in node.outputs.items()
                }
            case RowsNode():
                row = self.through(rows[node.input], node.operators, graph.schema(node.input))
                return dict.fromkeys(node.outputs, row)
            case BranchNode():
                row = rows[node.input]
                by = _all(row, node.branch.reads).as_conditions
                return {
                    output: {
                        **{name: row[name] for name in schema.names if name in row},
                        **_time_of(row),
                        "": row.get("", _NONE) | by,
                    }
                    for output, schema in node.outputs.items()
                }
            case UnionNode():
                made: Row = {}
                for port, conform in zip(node.ports, node.conform, strict=True):
                    for name, origins in self.through(
                        rows[port], conform, graph.schema(port)
                    ).items():
                        made[name] = made.get(name, _NONE) | origins
                return dict.fromkeys(node.outputs, made)
            case StatefulNode():
                arriving = [rows[port] for port in node.ports]
                return {
                    output: _remembered(node.operator, schema, arriving)
                    for output, schema in node.outputs.items()
                }
        return {}

    def through(self, row: Row, operators: tuple[RowOperator, ...], schema: Schema) -> Row:
        for operator in operators:
            row = self._after(row, operator, schema)
            schema = operator.output_schema(schema)
        return row

    def _after(self, row: Row, operator: RowOperator, schema: Schema) -> Row:
        rest = {**_time_of(row), "": row.get("", _NONE)}
        match operator:
            case Stamp():
                return {**row, TIME_COLUMN: _all(row, operator.time.columns)}
            case Derive():
                made = {name: _all(row, typed.columns) for name, typed in operator.columns}
                if operator.step in self._masks:
                    for origins in made.values():
                        self._hidden |= origins.values
                    made = dict.fromkeys(made, _NONE)
                return {**row, **made}
            case Filter():
                return {**row, "": rest[""] | _all(row, operator.reads).as_conditions}
            case Select():
                return {**rest, **{new: row.get(old, _NONE) for new, old in operator.columns}}
            case Conform():
                return {**rest, **{name: row.get(name, _NONE) for name in operator.target.names}}
            case Lookup():
                table = operator.table.source.context.step
                theirs = frozenset((table, name) for name in operator.remote_keys)
                keys = _all(row, operator.keys).as_conditions | Origins(conditions=theirs)
                added = {
                    new: Origins(frozenset([(table, column)])) | keys
                    for new, column in operator.added
                }
                if not operator.keeps_rows:
                    rest[""] |= keys
                return {**row, **added, **rest}
        # A step that is known by what it reads: a column that was there before stays what it was, unless it is read.
        read = _all(row, operator.reads)
        after = {}
        for name in operator.output_schema(schema).names:
            kept = row.get(name, _NONE) if name in schema.names else _NONE
            after[name] = (
                kept if name in schema.names and name not in operator.reads else kept | read
            )
        if not operator.keeps_rows:
            rest[""] |= read.as_conditions
        return {**rest, **after}


# -- steps that remember ---------------------------------------------------------------------------


def _remembered(operator: StatefulOperator, schema: Schema, arriving: list[Row]) -> Row:
    if isinstance(operator, AppliedFirst):
        operator = operator.inner
    shape = _shape_of(operator)
    if isinstance(operator, Aggregate):
        groups = dict(zip(operator.keys, operator.keys, strict=True))
        return _grouped(schema, arriving[0], groups, operator.aggregation)
    if isinstance(operator, Window):
        groups = dict(zip(operator.names, operator.group, strict=True))
        return _grouped(schema, arriving[0], groups, operator.aggregation)
    if shape is not None:
        return _joined(schema, arriving, shape)
    row = arriving[0]
    names = tuple(name for name in row if name and not name.startswith(RESERVED))
    chosen_by = operator.chosen_by(names) if len(arriving) == 1 else None
    if chosen_by is not None and row.keys() >= set(chosen_by):
        read = _all(row, chosen_by)
        by = row.get("", _NONE) | read.as_conditions
        if isinstance(operator, History):  # its own columns have a time, or come from no column
            read = row[operator.time] if operator.time is not None else _NONE
            is_own = {VALID_FROM: read, VALID_TO: read, IS_CURRENT: _NONE}
            return {
                **{n: row.get(n, _NONE) for n in schema.names},
                **is_own,
                **_time_of(row),
                "": by,
            }
        return {**{name: row.get(name, read) for name in schema.names}, **_time_of(row), "": by}
    # Code of the user's, or a step of which no more is known: any value may come from any column.
    everything = _NONE
    for row in arriving:
        everything |= _all(row, frozenset(row))
    return dict.fromkeys(schema.names, everything)


def _grouped(schema: Schema, row: Row, groups: Mapping[str, str], aggregation: Aggregation) -> Row:
    """groups: by column of the result, the column of the rows."""
    by = _all(row, tuple(groups.values())).as_conditions | row.get("", _NONE).as_conditions
    inputs = {
        name: row[name] if name in row else _all(row, typed.columns)
        for name, typed in aggregation.inputs
    }
    states = {
        state: _all(inputs, frozenset(call.inputs))
        for call in aggregation.calls
        for state in call.state
    }
    measures = {name: _of_calls(typed.node, states) for name, typed in aggregation.measures}
    made: Row = {"": by}
    for name in schema.names:
        if name in groups:
            made[name] = row.get(groups[name], _NONE)
        elif name in measures:
            made[name] = measures[name]
        else:
            made[name] = _NONE  # the bounds of a window
    return made


def _of_calls(node: Expression, states: Mapping[str, Origins]) -> Origins:
    found = _NONE
    for each in node.walk():
        if each.op == AGGREGATE:
            for state in each.value.state:
                found |= states.get(state, _NONE)
        elif each.op == COLUMN:
            found |= states.get(str(each.value), _NONE)
    return found


def _shape_of(operator: StatefulOperator) -> JoinShape | None:
    match operator:
        case BoundedJoin() | TemporalJoin() | UpdatingJoin():
            return operator.shape
        case IntervalJoin():
            return operator.pairing.shape
    return None


def _joined(schema: Schema, arriving: list[Row], shape: JoinShape) -> Row:
    left, right = arriving[LEFT], arriving[RIGHT]
    keys = _all(left, shape.left_keys) | _all(right, shape.right_keys)
    by = keys.as_conditions | left.get("", _NONE) | right.get("", _NONE)
    right_of = {new: old for old, new in shape.right_names.items()}
    made: Row = {"": by}
    for name in schema.names:
        if name in left:
            made[name] = left[name]
            if name in shape.left_keys and RIGHT in KEPT[shape.kind]:
                # A row of the right side without a match has its own key there.
                made[name] |= right[shape.right_keys[shape.left_keys.index(name)]]
        else:
            made[name] = right.get(right_of.get(name, name), _NONE)
    return made
