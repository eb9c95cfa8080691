"""How the rows of one growing file are written: its columns and its format.

A resumed run may have other columns or options than the run before it. Rows of both in one file would
have values under wrong columns, so a layout is kept with what is staged, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from dataflare.errors import Blame, RunError
from dataflare.model.types import Schema


class Layout(Struct, frozen=True):
    """schema: of the rows. options: those of the file format. names_values: whether each row names its
    values, as in JSON; then the rows of one file may have different columns."""

    schema: Schema
    options: Mapping[str, Any]
    names_values: bool

    def to_json(self) -> dict[str, Any]:
        columns = [[field.name, str(field.type)] for field in self.schema]
        return {"columns": columns, "options": dict(self.options)}

    def refuse_other(self, staged: Mapping[str, Any] | None, target: Path | str, step: str) -> None:
        """Raise RunError (E0803) if the rows staged for `target` have another layout. staged: that
        layout as JSON; None if an earlier version staged them, which did not keep it."""
        if staged is None:
            return
        now = self.to_json()
        if not self.names_values and staged["columns"] != now["columns"]:
            what = "have other columns than the rows to come"
            notes = [
                f"they have: {_listed(staged['columns'])}",
                f"to come: {_listed(now['columns'])}",
            ]
        elif staged["options"] != now["options"]:
            changed = [
                name for name, value in self.options.items() if staged["options"].get(name) != value
            ]
            what = "were written with other options"
            notes = [
                f"{name}: it was {staged['options'].get(name)!r}, it is {self.options[name]!r}"
                for name in changed
            ]
        else:
            return
        raise RunError(
            f"the run cannot go on with {target}: the rows that it has so far {what}",
            code="E0803",
            blame=Blame.USER,
            step=step,
            notes=notes,
            help="undo the change, and the run goes on; or start over with --fresh, and all rows are "
            "written in the new way",
        )


def _listed(columns: list[list[str]]) -> str:
    return ", ".join(f"{name} ({type_})" for name, type_ in columns)
