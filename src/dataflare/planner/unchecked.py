"""What `validate` could not check, and why. Pure.

Always true: a step is named at most once for the same reason, so that the list is no longer than the
workflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.errors import DataFlareError, from_here

if TYPE_CHECKING:
    from dataflare.workflow.model import DestinationStep, SourceStep, TransformationStep

_ASK = "--connect asks it"


class Unchecked(Struct, frozen=True):
    """step: whose. what: was not checked. why: so, with what can be done."""

    step: str
    what: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "what": self.what, "why": self.why}


def unasked_source(step: SourceStep) -> Unchecked:
    """A source of another machine."""
    if step.schema is not None:
        return Unchecked(
            step.name,
            f"whether '{step.name}' ({step.type}) has the columns of its 'schema'",
            f"it is known only when it runs; {_ASK}",
        )
    return Unchecked(
        step.name,
        f"the schema of '{step.name}' ({step.type})",
        f"it is known only when it runs; {_ASK}",
    )


def unread_source(step: SourceStep, error: DataFlareError) -> Unchecked:
    """A source on this machine that cannot be read now."""
    return Unchecked(step.name, f"the schema of '{step.name}'", from_here(error.message))


def unasked_destination(step: DestinationStep) -> Unchecked:
    """A destination of another machine."""
    return Unchecked(
        step.name,
        f"whether '{step.name}' ({step.type}) can be reached and takes these columns",
        f"it is known only when it runs; {_ASK}",
    )


def unasked_table(step: TransformationStep, type_: str) -> Unchecked:
    """The table of a lookup that lies on another machine."""
    return Unchecked(
        step.name,
        f"the table of the lookup '{step.name}' ({type_})",
        f"it is known only when it runs; {_ASK}",
    )


def unknown_columns(step: str, kind: str) -> Unchecked:
    """A step behind a schema that is not known."""
    if kind == "destination":
        return Unchecked(step, f"the columns that reach '{step}'", "what it reads is not known")
    return Unchecked(
        step,
        f"names and types of columns in '{step}'",
        "what it reads is not known; syntax and functions were checked",
    )


def each_once(listed: Iterable[Unchecked]) -> list[Unchecked]:
    """The first of each step and reason, in their order."""
    return list({(each.step, each.what): each for each in listed}.values())
