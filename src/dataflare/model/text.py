"""Strings of a workflow file that carry their place in the file and their variables.

Always true: `template` is as long as the text in the file, so that each character of it has a place.
In it, an identifier of the same length (`__00______`) replaces each variable.
"""

from __future__ import annotations

from typing import Any, Self

from dataflare.errors import Spot
from dataflare.model.record import Discreet
from dataflare.model.types import DataType


class Variable(Discreet, frozen=True):
    """A `${...}` in a string. placeholder: the identifier that replaces it in the template. shown: the
    variable as the user wrote it."""

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

    starts: for each line of the template, the offset of its first character and the place of that
    character. It is empty when the place is unknown (text from Python).
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
        instance = super().__new__(cls, text)
        instance.template = text if template is None else template
        instance.variables = variables
        instance.starts = starts
        return instance

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
        place: Spot | None = None
        for offset, spot in self.starts:
            if offset > start and place is not None:
                break
            place = spot.shifted(max(0, start - offset), max(1, end - start))
        return place


class BoundInt(int):
    """A number that was written as one variable. source: the variable with its place and type."""

    source: SourceText


class BoundFloat(float):
    """A float that was written as one variable. source: as in BoundInt."""

    source: SourceText


def bound(value: int | float, source: SourceText) -> BoundInt | BoundFloat:
    """The number with the variable that it was written as, for fields that are expressions."""
    number = BoundInt(value) if isinstance(value, int) else BoundFloat(value)
    number.source = source
    return number
