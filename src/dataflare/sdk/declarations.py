"""What a system's catalogue says of columns beyond their types: `uuid`, `varchar(20)`, NOT NULL, the key.

DataFlare's types do not have these, so they do not travel with rows. A source tells them once, the
planner hands them to the destinations that its columns reach unchanged, and a destination of the same
system may use them for a table that it makes.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field


class Declaration(Struct, frozen=True):
    """type: as the system declares it; None where DataFlare's type says it all, or where another system
    might not have it. not_null: the column holds no NULL. lost: what is not kept, in words."""

    type: str | None = None
    not_null: bool = False
    lost: str | None = None


class Declarations(Struct, frozen=True):
    """system: the connector's type. columns: by name. key: the columns of the primary key; empty where
    there is none, or where a row may come twice."""

    system: str
    columns: Mapping[str, Declaration] = field(default_factory=dict)
    key: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str]) -> Declarations:
        """What is left of them where only some columns go on. names: new name by the one that it has."""
        columns = {new: self.columns[old] for old, new in names.items() if old in self.columns}
        whole = all(name in names for name in self.key)
        return Declarations(
            self.system, columns, tuple(names[n] for n in self.key) if whole else ()
        )
