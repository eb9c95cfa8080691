"""The checks that `validate` could not make, and why. Pure.

Always true: the list names a step at most once for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.errors import DataFlareError, from_here

if TYPE_CHECKING:
    from dataflare.model.types import Schema
    from dataflare.sdk.source import SourceConnector
    from dataflare.workflow.model import DestinationStep, SourceStep, TransformationStep

_ASK = "--connect asks it"


class Unchecked(Struct, frozen=True):
    """step: its name. what: the fact that was not checked. why: the reason, and what the user can do."""

    step: str
    what: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "what": self.what, "why": self.why}


def unasked_source(step: SourceStep, *, more: bool) -> Unchecked:
    """A source on another machine. more: its rows may have more columns than its `schema` names."""
    if step.schema is not None:
        others = ", and which others" if more else ""
        return Unchecked(
            step.name,
            f"whether '{step.name}' ({step.type}) has the columns of its 'schema'{others}",
            f"it is known only when it runs; {_ASK}",
        )
    return Unchecked(
        step.name,
        f"the schema of '{step.name}' ({step.type})",
        f"it is known only when it runs; {_ASK}",
    )


def unasked_tables(step: SourceStep) -> Unchecked:
    """A source of many tables on another machine."""
    return Unchecked(
        step.name,
        f"the tables of '{step.name}' ({step.type}), and the steps that read them",
        f"they are known only when it runs; {_ASK}",
    )


def unread_source(step: SourceStep, error: DataFlareError) -> Unchecked:
    """A source on this machine that cannot be read now."""
    return Unchecked(step.name, f"the schema of '{step.name}'", from_here(error.message))


def unasked_destination(step: DestinationStep) -> Unchecked:
    """A destination on another machine."""
    return Unchecked(
        step.name,
        f"whether '{step.name}' ({step.type}) can be reached and takes these columns",
        f"it is known only when it runs; {_ASK}",
    )


def unasked_table(step: TransformationStep, type_: str) -> Unchecked:
    """The table of a lookup on another machine."""
    return Unchecked(
        step.name,
        f"the table of the lookup '{step.name}' ({type_})",
        f"it is known only when it runs; {_ASK}",
    )


def unknown_columns(step: str, kind: str) -> Unchecked:
    """A step whose input schema is unknown."""
    if kind == "destination":
        return Unchecked(step, f"the columns that reach '{step}'", "what it reads is not known")
    return Unchecked(
        step,
        f"names and types of columns in '{step}'",
        "what it reads is not known; syntax and functions were checked",
    )


def each_once(listed: Iterable[Unchecked]) -> list[Unchecked]:
    """The entries without repetitions of the same step and check."""
    return list({(each.step, each.what): each for each in listed}.values())


def whole_schema(connector: SourceConnector, step: SourceStep) -> Schema | None:
    """The columns of a source that was not asked, None if unknown: rows of a source that finds fields in
    them (`http`) may have more than its `schema` names."""
    return None if connector.finds_new_fields else step.schema
