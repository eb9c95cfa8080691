"""What every format's survey uses: its result, and the checks of names against files and contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from dataflare.connectors.file.listing import FoundFile
from dataflare.errors import DataError, did_you_mean
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import Schema

Facts = dict[str, Any]
"""What `open` must know about a file: JSON, part of its split."""


class Survey(Struct, frozen=True):
    """schema: the columns of the source. facts: for each file, by its id; `own` names the columns that a
    file has itself, where it names them once for all rows. findings and doubts: of the source."""

    files: list[FoundFile]
    format: str
    schema: Schema
    facts: dict[str, Facts] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def common_names(
    places: Sequence[Path],
    names: Sequence[Sequence[str]],
    contract: Schema | None,
    *,
    adds: bool,
) -> list[str]:
    """The columns of a source whose files (or sheets) have these: those of the first file, and of the others what
    the contract names; all of theirs too, where files may add columns.

    Raises DataError (E0508) for a file that shares no column with the first: it is of another kind, or
    has no line with names.
    """
    wanted = dict.fromkeys(names[0])
    for place, own in zip(places[1:], names[1:], strict=True):
        if own and wanted and not any(name in wanted for name in own):
            raise DataError(
                f"{place} has none of the columns of {places[0]}",
                code="E0508",
                notes=[f"it has: {', '.join(own[:12])}", f"expected: {', '.join(names[0][:12])}"],
                help="read it in a source of its own; a CSV file without a line of names needs "
                "has_header: false",
            )
        if adds or contract is not None:
            wanted |= dict.fromkeys(n for n in own if adds or (contract and n in contract))
    return [*wanted]


def check_contract(names: Sequence[str], contract: Schema, path: Path) -> None:
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
