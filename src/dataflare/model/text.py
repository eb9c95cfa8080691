"""Strings that remember where in a workflow file they stand, and which variables they hold.

Always true: `template` has the length of the text as written in the file, so a character of it has a
place; each variable in it is replaced by an identifier of the same length (`__00______`).
"""

from __future__ import annotations

from typing import Any, Self

from dataflare.errors import Spot
from dataflare.model.record import Discreet
from dataflare.model.types import DataType


class Variable(Discreet, frozen=True):
    """A `${...}` in a string: what stands for it in the template, and its typed value."""

    hidden = ("placeholder", "value", "type", "secret")

    placeholder: str
    shown: str
    value: Any
    type: DataType
    secret: bool = False

    def __repr__(self) -> str:
        return f"Variable({self.shown})"


class SourceText(str):
    """A string of a workflow file after substitution, with its template, variables and place.

    `starts`: for each line of the template, the offset of its first character and that
    character's place; empty when the place is unknown (text from Python).
    """

    template: str
    variables: tuple[Variable, ...]
    starts: tuple[tuple[int, Spot], ...]

    def __new__(
        cls,
        text: str,
        *,
        template: str | None = None,
        variables: tuple[Variable, ...] = (),
        starts: tuple[tuple[int, Spot], ...] = (),
    ) -> Self:
        made = super().__new__(cls, text)
        made.template = text if template is None else template
        made.variables = variables
        made.starts = starts
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {
            "template": self.template,
            "variables": self.variables,
            "starts": self.starts,
        }

    @property
    def spot(self) -> Spot | None:
        """Where the text begins."""
        return self.starts[0][1] if self.starts else None

    @property
    def shown(self) -> str:
        """The text as the user wrote it: variables by name, never by value."""
        text = self.template
        for variable in self.variables:
            text = text.replace(variable.placeholder, variable.shown)
        return text

    def spot_of(self, start: int, end: int) -> Spot | None:
        """The place of characters `start` (included) to `end` (excluded) of the template."""
        found: Spot | None = None
        for offset, spot in self.starts:
            if offset > start and found is not None:
                break
            found = spot.shifted(max(0, start - offset), max(1, end - start))
        return found


class BoundInt(int):
    """A number that one whole variable stood for; source: the variable with its place and type."""

    source: SourceText


class BoundFloat(float):
    """Likewise, with a fraction."""

    source: SourceText


def bound(value: int | float, source: SourceText) -> BoundInt | BoundFloat:
    """A number that still knows which variable it was, for fields that are expressions."""
    made = BoundInt(value) if isinstance(value, int) else BoundFloat(value)
    made.source = source
    return made
