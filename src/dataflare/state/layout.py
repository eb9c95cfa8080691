"""What the tables of an operator mean, so that state of another version of its step can be used.

A checkpoint has a layout beside the state of each operator. A table of a changed step gets the columns of
the same meaning, under their names of now. What else the state depends on, such as the size of a window, are
settings: the operator says whether state that was made with other ones can be used, and how.

A layout has an entry for each table. A table whose name goes on after a point ("panes.0.12") has that of the part
before ("panes"). The entry "" is of the step as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.model.types import Schema
from dataflare.state.meanings import readable


class TableLayout(Struct, frozen=True):
    """keys: the key columns with their types; state is found by them, so they must be the same. columns: by
    name, what each other column means; two columns with one text hold the same. rule: what the rows mean as
    a whole, such as "keep last". key_meanings: what the key columns hold, if that is more than a column of the
    rows; a key with another name and the same meaning is the same. order: the key columns in their order, which a
    manifest does not keep. settings: see above. of_rows: the columns are those of rows, and not of what was
    computed from them; then the key columns are among them."""

    keys: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""
    key_meanings: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    of_rows: bool = False

    def to_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "keys": dict(self.keys),
            "columns": dict(self.columns),
            "rule": self.rule,
            "order": [*self.keys],
        }
        if self.key_meanings:
            facts["key_meanings"] = dict(self.key_meanings)
        if self.settings:
            facts["settings"] = dict(self.settings)
        if self.of_rows:
            facts["of_rows"] = True
        return facts

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TableLayout:
        order = value.get("order", ())
        keys = value["keys"]
        return cls(
            {key: keys[key] for key in order} if order else keys,
            value["columns"],
            value["rule"],
            value.get("key_meanings", {}),
            tuple(order),
            value.get("settings", {}),
            value.get("of_rows", False),
        )


Layout = Mapping[str, TableLayout]
"""By table."""

STEP = ""
"""The entry of the step as a whole."""


def entry_of(layout: Layout, table: str) -> str:
    """The name of the entry that a table has in a layout."""
    return table if table in layout else table.partition(".")[0]


HIDDEN = "("
"""The meaning of a column that users need not know begins so."""


class Held(Struct, frozen=True):
    """The state of a step in a checkpoint. values: the small values of each subtask. rows: how many rows each
    table has, by its entry in the layout. moves: by entry, how the columns of those with rows move."""

    values: Sequence[Mapping[str, Any]] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    moves: Mapping[str, Moved] = field(default_factory=dict)

    @property
    def reordered(self) -> bool:
        """Whether the key columns have another order now, so that rows are in other key groups."""
        return any(move.reordered for move in self.moves.values())

    def all_of(self, value: str) -> list[Any]:
        """A small value of all subtasks that have it."""
        return [values[value] for values in self.values if value in values]


class Adaptation(Struct, frozen=True):
    """How state that was made with other settings is used. notes: what the user must know of it. frames: gives the
    rows of a table as rows of the tables of now, after their columns were moved. values: the same for the small
    values of a subtask. dropped: tables that the step does not need any more."""

    notes: tuple[str, ...] = ()
    frames: Callable[[str, pl.DataFrame], Iterable[tuple[str, pl.DataFrame]]] | None = None
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    dropped: frozenset[str] = frozenset()


class Moved(Struct, frozen=True):
    """How the columns of a table go from one layout to another. names: the old name of each new column;
    added: new columns without an old one; lost: meanings that no new column has. keys: the old name of each key
    column. reordered: the key columns have another order. former: all columns of the old layout."""

    names: Mapping[str, str]
    added: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    reordered: bool = False
    former: frozenset[str] = frozenset()

    @property
    def changes(self) -> bool:
        return bool(
            self.added
            or self.lost
            or self.reordered
            or any(new != old for new, old in (*self.names.items(), *self.keys.items()))
        )

    def apply(
        self, frame: pl.DataFrame, layout: TableLayout, initial: pl.DataFrame
    ) -> pl.DataFrame:
        """The rows with the columns of the new layout, and those of which no layout speaks behind them. initial: one
        row with the value of each added column."""
        columns = {}
        for key in () if layout.of_rows else layout.keys:
            columns[key] = pl.col(self.keys.get(key, key)).alias(key)
        for name in layout.columns:
            if name in self.added:
                columns[name] = pl.lit(initial[name]).first().alias(name)
            else:
                columns[name] = pl.col(self.names[name]).alias(name)
        others = [n for n in frame.columns if n not in self.former and n not in columns]
        return frame.select(*columns.values(), *others)


def moved(old: TableLayout, new: TableLayout) -> Moved | str:
    """How a table's columns go from `old` to `new`, or why they cannot."""
    keys = _moved_keys(old, new)
    if keys is None:
        return f"its keys were {_listed(old)}, and are {_listed(new)}"
    if old.rule != new.rule:
        return f"its rule was '{old.rule}', and is '{new.rule}'"
    by_meaning = {meaning: name for name, meaning in old.columns.items()}
    names = {
        name: name if old.columns.get(name) == text else by_meaning[text]
        for name, text in new.columns.items()
        if text in by_meaning
    }
    added = tuple(name for name, text in new.columns.items() if text not in by_meaning)
    kept = set(new.columns.values())
    lost = tuple(text for text in old.columns.values() if text not in kept)
    if new.of_rows:
        for name in added:
            if name in old.columns:
                return f"column '{name}' of the rows that it keeps was {_type(old, name)}, and is {_type(new, name)}"
    reordered = bool(old.order) and [keys[key] for key in new.keys] != [*old.keys]
    return Moved(names, added, lost, keys, reordered, frozenset([*old.keys, *old.columns]))


def difference(old: Layout, new: Layout, tables: Iterable[str]) -> str | None:
    """Why state with one layout cannot be used as it is by a step with another one; None if it can. tables: those
    that have rows."""
    for name in {entry_of(old, table) for table in tables} | ({STEP} & old.keys()):
        before, now = old.get(name, TableLayout()), new.get(name, TableLayout())
        move = moved(before, now)
        if isinstance(move, str):
            return move
        if move.changes or (before.settings and before.settings != now.settings):
            return "the step was another one when it was made"
    return None


def as_json(layout: Layout) -> dict[str, Any]:
    return {name: table.to_json() for name, table in layout.items()}


def _moved_keys(old: TableLayout, new: TableLayout) -> dict[str, str] | None:
    """The old name of each key column. None if they are others."""
    by_content = {_content(old, key): key for key in old.keys}
    if not (old.key_meanings and new.key_meanings):
        same = dict(old.keys) == dict(new.keys)
        return {key: key for key in new.keys} if same else None
    found = {
        key: by_content[_content(new, key)] for key in new.keys if _content(new, key) in by_content
    }
    return found if len(found) == len(new.keys) == len(old.keys) else None


def _content(layout: TableLayout, key: str) -> tuple[str, str]:
    return layout.key_meanings.get(key, key), layout.keys[key]


def _listed(layout: TableLayout) -> str:
    shown = []
    for key, type_ in layout.keys.items():
        meaning = readable(layout.key_meanings.get(key, key))
        name = (
            key
            if meaning == key
            else meaning
            if key.startswith("__dataflare")
            else f"{key}: {meaning}"
        )
        shown.append(f"{name} ({type_})")
    return ", ".join(shown) or "none"


def _type(layout: TableLayout, column: str) -> str:
    """Of a column of rows, whose meaning is its name and type."""
    return layout.columns[column].removeprefix(f"{column}: ")


def columns_of(schema: Schema) -> dict[str, str]:
    """The columns of rows, for the layout of a table that keeps them."""
    return {each.name: f"{each.name}: {each.type}" for each in schema}
