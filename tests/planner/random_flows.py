"""Random workflows over small tables, for laws that hold of every plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flows import flow, flow_text, inline
from hypothesis import strategies as st

from dataflare.workflow import Workflow

Columns = dict[str, str]
"""Column to type: int64, string or bool."""

TABLE: Columns = {"a": "int64", "b": "string", "c": "int64"}
OTHER: Columns = {"a": "int64", "b": "string", "d": "string"}
VALUES = {
    "int64": st.none() | st.integers(-2, 3),
    "string": st.none() | st.sampled_from(["", "x", "y", "xy"]),
    "bool": st.none() | st.booleans(),
}
VALUE_OF = {
    "int64": ["{c}", "coalesce({c}, 7)", "{c} + 1", "CASE WHEN {c} > 0 THEN {c} ELSE 0 END"],
    "string": ["{c}", "coalesce({c}, '?')", "upper({c})"],
    "bool": ["{c}", "NOT {c}"],
}
TRUTH_OF = {
    "int64": ["{c} > 0", "{c} IS NULL", "{c} = 1", "{c} * 2 < 3", "{c} IN (1, NULL)"],
    "string": ["{c} = 'x'", "{c} <> ''", "{c} IS NOT NULL", "{c} LIKE 'x%'"],
    "bool": ["{c}", "NOT {c}", "{c} IS NULL"],
}


@dataclass
class Draft:
    """A workflow that is being built. open: ports that no step reads yet, with their columns."""

    draw: Any
    lines: list[str] = field(default_factory=list)
    known: dict[str, Columns] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def take(self) -> str:
        """A port to read, which may have been read before."""
        port: str = self.draw(st.sampled_from(sorted(self.known)))
        if port in self.open:
            self.open.remove(port)
        return port

    def add(self, type_: str, inputs: list[str], config: str, outputs: dict[str, Columns]) -> None:
        name = f"s{len(self.lines)}"
        listed = ", ".join(inputs)
        self.lines.append(f"{name}: {{type: {type_}, inputs: [{listed}], config: {{{config}}}}}")
        for output, columns in outputs.items():
            port = f"{name}.{output}" if output else name
            self.known[port] = columns
            self.open.append(port)

    def column(self, columns: Columns, *types: str) -> str | None:
        fitting = sorted(n for n, t in columns.items() if not types or t in types)
        return self.draw(st.sampled_from(fitting)) if fitting else None

    def truth(self, columns: Columns) -> str:
        parts = []
        for _ in range(self.draw(st.integers(1, 2))):
            name = self.column(columns)
            assert name is not None
            parts.append(self.draw(st.sampled_from(TRUTH_OF[columns[name]])).format(c=name))
        return f'"{self.draw(st.sampled_from([" AND ", " OR "])).join(parts)}"'


def filter_(draft: Draft, port: str, columns: Columns) -> None:
    outputs = {"": columns}
    if draft.draw(st.booleans()):
        outputs["rejected"] = columns
    draft.add("filter", [port], f"condition: {draft.truth(columns)}", outputs)


def derive(draft: Draft, port: str, columns: Columns) -> None:
    name = draft.column(columns)
    assert name is not None
    type_ = columns[name]
    text = draft.draw(st.sampled_from(VALUE_OF[type_])).format(c=name)
    new = draft.draw(st.sampled_from(["n", "m", name]))
    draft.add("map", [port], f'derive: {{{new}: "{text}"}}', {"": {**columns, new: type_}})


def rename(draft: Draft, port: str, columns: Columns) -> None:
    old = draft.column(columns)
    assert old is not None
    new = f"{old}r"
    if new in columns:
        return filter_(draft, port, columns)
    renamed = {(new if name == old else name): type_ for name, type_ in columns.items()}
    return draft.add("map", [port], f"rename: {{{old}: {new}}}", {"": renamed})


def select(draft: Draft, port: str, columns: Columns) -> None:
    names = draft.draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, unique=True))
    draft.add("map", [port], f"select: [{', '.join(names)}]", {"": {n: columns[n] for n in names}})


def lookup(draft: Draft, port: str, columns: Columns) -> None:
    key = draft.column(columns, "int64")
    if key is None:
        return filter_(draft, port, columns)
    many = draft.draw(st.sampled_from(["first", "all"]))
    miss = draft.draw(st.sampled_from(["null", "drop"]))
    new = draft.draw(st.sampled_from(["l", "b", key]))
    mapping = f"{{key: {key}, remote_key: a, fields: {{{new}: d}}}}"
    config = f"source: t, mapping: {mapping}, on_many: {many}, on_miss: {miss}"
    return draft.add("lookup", [port], config, {"": {**columns, new: "string"}})


def route(draft: Draft, port: str, columns: Columns) -> None:
    match = draft.draw(st.sampled_from(["first", "all"]))
    config = f"routes: {{p: {draft.truth(columns)}, q: {draft.truth(columns)}}}, match: {match}"
    outputs = dict.fromkeys(draft.draw(st.sampled_from([("p", "q"), ("p",), ("q", "z")])), columns)
    draft.add("route", [port], f"{config}, default: z", outputs)


def validate(draft: Draft, port: str, columns: Columns) -> None:
    config = f"rules: [{{name: r, expect: {draft.truth(columns)}}}]"
    draft.add("validate", [port], config, {"": columns})


def union(draft: Draft, port: str, columns: Columns) -> None:
    other = draft.take()
    shared = {**columns, **draft.known[other]}
    if any(shared[name] != type_ for name, type_ in columns.items()):
        draft.open.append(other)
        return derive(draft, port, columns)
    return draft.add("union", [port, other], "", {"": {**columns, **draft.known[other]}})


def aggregate(draft: Draft, port: str, columns: Columns) -> None:
    group, value = draft.column(columns), draft.column(columns, "int64")
    by = f"group_by: [{group}], " if draft.draw(st.booleans()) else ""
    count = "j" if by and group == "k" else "k"
    made = {count: "int64"} if not by else {str(group): columns[str(group)], count: "int64"}
    more = ""
    if value is not None and "t" not in made:
        more, made = f', t: "min({value})"', {**made, "t": "int64"}
    draft.add("aggregate", [port], f'{by}measures: {{{count}: "count(*)"{more}}}', {"": made})


def deduplicate(draft: Draft, port: str, columns: Columns) -> None:
    draft.add("deduplicate", [port], f"key: [{', '.join(sorted(columns))}]", {"": columns})


def sample(draft: Draft, port: str, columns: Columns) -> None:
    draft.add("sample", [port], f"fraction: 0.6, key: {draft.column(columns)}", {"": columns})


STEPS = [filter_, filter_, filter_, derive, derive, rename, select, lookup, lookup]
STEPS += [route, validate, union, aggregate, deduplicate, sample]


def _table(draw: Any, columns: Columns) -> str:
    row = st.fixed_dictionaries({name: VALUES[type_] for name, type_ in columns.items()})
    contract = ", ".join(f"{name}: {type_}" for name, type_ in columns.items())
    rows = draw(st.lists(row, min_size=1, max_size=8))
    return inline(rows, schema=f"{{{contract}}}")


@dataclass(frozen=True)
class Drawn:
    """A workflow that nothing is wrong with; shown as its text when a test fails."""

    workflow: Workflow = field(repr=False)
    text: str
    outputs: tuple[str, ...]
    file: str = field(repr=False)


@st.composite
def workflows(draw: Any) -> Drawn:
    draft = Draft(draw, known={"s": TABLE, "t": OTHER}, open=["s", "t"])
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        port = draft.take()
        step(draft, port, draft.known[port])
    outputs = {f"out{number}": port for number, port in enumerate(dict.fromkeys(draft.open))}
    text, tables = "\n".join(draft.lines), {"s": _table(draw, TABLE), "t": _table(draw, OTHER)}
    made = flow(text, outputs=outputs, **tables)
    file = flow_text(text, outputs=outputs, **tables)
    return Drawn(made, "\n".join([text, *tables.values(), str(outputs)]), tuple(outputs), file)
