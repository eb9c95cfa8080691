"""Shared by the surveys of all formats: the result, and the checks of column names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field

from dataflare.connectors.file.names import FoundFile
from dataflare.errors import DataError, did_you_mean
from dataflare.formats.any_file import AnyFile
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import Schema

Facts = dict[str, Any]
"""The facts about a file that `open` needs: JSON, part of its split."""


class Survey(Struct, frozen=True):
    """schema: the columns of the source. facts: of each file, by its id; `own` has the names of the
    file's columns, if the file names them once for all rows. findings and doubts: of the source."""

    files: list[FoundFile]
    format: str
    schema: Schema
    facts: dict[str, Facts] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def common_names(
    places: Sequence[AnyFile],
    names: Sequence[Sequence[str]],
    contract: Schema | None,
    *,
    adds: bool,
) -> list[str]:
    """The columns of a source, from the names in each file (or sheet): those of the first file, and
    of later files those in the contract. With `adds`, all columns of later files.

    Raises DataError (E0508) for a file that has no column in common with the first: it has another
    content, or no line with names.
    """
    columns = dict.fromkeys(names[0])
    for place, own in zip(places[1:], names[1:], strict=True):
        if own and columns and not any(name in columns for name in own):
            raise DataError(
                f"{place} has none of the columns of {places[0]}",
                code="E0508",
                notes=[f"it has: {', '.join(own[:12])}", f"expected: {', '.join(names[0][:12])}"],
                help="read it in a source of its own; a CSV file without a line of names needs "
                "has_header: false",
            )
        if adds or contract is not None:
            columns |= dict.fromkeys(n for n in own if adds or (contract and n in contract))
    return [*columns]


def check_contract(names: Sequence[str], contract: Schema, path: AnyFile) -> None:
    for field_ in contract:
        if field_.name not in names:
            raise DataError(
                f"{path} has no column '{field_.name}', which 'schema' names",
                code="E0508",
                notes=[f"it has: {', '.join(names)}"],
                help=did_you_mean(field_.name, names),
            )


def schema_of(columns: Sequence[TextColumn]) -> Schema:
    return Schema.of([(column.name, column.type) for column in columns])
