"""What the columns of an operator's tables mean, so that state of another version of its step can be used.

A checkpoint has a layout beside the state of each operator. A table of a changed step gets the columns of
the same meaning, under their names of now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from msgspec import Struct, field


class TableLayout(Struct, frozen=True):
    """keys: the key columns with their types; state is found by them, so they must be the same. columns: by
    name, what each other column means; two columns with one text hold the same. rule: what the rows mean as
    a whole, such as "keep last"."""

    keys: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"keys": dict(self.keys), "columns": dict(self.columns), "rule": self.rule}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TableLayout:
        return cls(value["keys"], value["columns"], value["rule"])


Layout = Mapping[str, TableLayout]
"""By table."""


class Moved(Struct, frozen=True):
    """How the columns of a table go from one layout to another. names: the old name of each new column;
    added: new columns without an old one; lost: meanings that no new column has."""

    names: Mapping[str, str]
    added: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.added or self.lost or any(new != old for new, old in self.names.items()))

    def apply(
        self, frame: pl.DataFrame, layout: TableLayout, initial: pl.DataFrame
    ) -> pl.DataFrame:
        """The rows with the columns of the new layout. initial: one row with the value of each added column."""
        columns = [pl.col(key) for key in layout.keys]
        for name in layout.columns:
            if name in self.added:
                value = pl.lit(initial[name]).first()
                columns.append(value.alias(name))
            else:
                columns.append(pl.col(self.names[name]).alias(name))
        return frame.select(columns)


def moved(old: TableLayout, new: TableLayout) -> Moved | str:
    """How a table's columns go from `old` to `new`, or why they cannot."""
    if dict(old.keys) != dict(new.keys):
        return f"its keys were {_listed(old.keys)}, and are {_listed(new.keys)}"
    if old.rule != new.rule:
        return f"its rule was '{old.rule}', and is '{new.rule}'"
    by_meaning = {meaning: name for name, meaning in old.columns.items()}
    names = {n: by_meaning[text] for n, text in new.columns.items() if text in by_meaning}
    added = tuple(name for name, text in new.columns.items() if text not in by_meaning)
    kept = set(new.columns.values())
    lost = tuple(text for text in old.columns.values() if text not in kept)
    return Moved(names, added, lost)


def _listed(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({type_})" for name, type_ in keys.items()) or "none"
