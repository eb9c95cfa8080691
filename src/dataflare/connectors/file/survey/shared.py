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
    """schema: the columns of every file. facts: for each file, by its id."""

    files: list[FoundFile]
    format: str
    schema: Schema
    facts: dict[str, Facts] = field(default_factory=dict)


def check_same_columns(
    first: Sequence[str], names: Sequence[str], first_path: Path, path: Path
) -> None:
    if set(first) == set(names):
        return
    lacks = [name for name in first if name not in names]
    adds = [name for name in names if name not in first]
    parts = [f"lacks {', '.join(lacks)}"] if lacks else []
    parts += [f"has also {', '.join(adds)}"] if adds else []
    raise DataError(
        f"{path} {' and '.join(parts)}, unlike {first_path}",
        code="E0508",
        help="files of one source have the same columns; read them in a source each",
    )


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
