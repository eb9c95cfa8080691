"""Tables that come while a run reads many."""

from __future__ import annotations

from collections.abc import Sequence


class TablesAppeared(Exception):
    """Ends an attempt so that the workflow is planned again with more tables. Not a failure.

    step: the source that reads many. tables: the names of their streams, to show to the user.
    """

    def __init__(self, step: str, tables: Sequence[str]) -> None:
        super().__init__(step, tables)
        self.step, self.tables = step, tables

    @property
    def told(self) -> str:
        names = ", ".join(f"'{table}'" for table in self.tables)
        are = "is new and is" if len(self.tables) == 1 else "are new and are"
        return f"step '{self.step}': {names} {are} taken in"
