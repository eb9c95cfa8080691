"""Hive-style folders: `country=DE/day=2024-01-01/` gives the values of columns for all rows below.

Always true: a value written into a folder's name is read back as the same text, or as an integer or
a date if all values of the column are such; a column inside the files has precedence over the
folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

import polars as pl

from dataflare.connectors.file.names import FoundFile
from dataflare.errors import SystemError_
from dataflare.formats.text_types import infer
from dataflare.model.types import STRING, Schema

NULL_NAME = "__HIVE_DEFAULT_PARTITION__"
_NAME_BYTES_MAX = 255
_FOLDER = re.compile(r"([^=]+)=(.*)")


def partition_values(file: FoundFile) -> dict[str, str | None]:
    """The values in the names of the folders between the listed folder and the file, as text."""
    values: dict[str, str | None] = {}
    for part in file.folders:
        match = _FOLDER.fullmatch(part)
        if match is not None:
            value = match.group(2)
            values[unquote(match.group(1))] = None if value == NULL_NAME else unquote(value)
    return values


def partition_schema(files: Sequence[FoundFile]) -> Schema:
    """The columns from folder names, in order of appearance, and their types."""
    values = [partition_values(file) for file in files]
    names = list(dict.fromkeys(name for each in values for name in each))
    texts = {name: [each.get(name) for each in values] for name in names}
    columns = infer(pl.DataFrame(texts, schema=dict.fromkeys(names, pl.String)))
    type_names = ("int64", "date")
    return Schema.of([(c.name, c.type if c.type.name in type_names else STRING) for c in columns])


def folder_name(column: str, value: str | None) -> str:
    """One level of the path for a value: characters that a file system may refuse are escaped.
    Raises SystemError_ (E0605) if the name is too long."""
    text = NULL_NAME if value is None else quote(value, safe=" +-,@!$()~")
    if value == NULL_NAME:
        text = text.replace("_", "%5F", 1)  # a text, so not the folder of NULL
    name = f"{quote(column, safe=' ')}={text}"
    if len(name) > _NAME_BYTES_MAX:
        raise SystemError_(
            f"the folder of partition_by '{column}' for the value {_short(value)} would have a name of "
            f"{len(name):,} bytes, and file systems take {_NAME_BYTES_MAX}",
            code="E0605",
            help="divide the rows by a shorter column, or shorten the value (left(...), hash) in a map",
        )
    return name


def _short(value: str | None) -> str:
    return repr(value if value is None or len(value) <= 40 else f"{value[:37]}...")
