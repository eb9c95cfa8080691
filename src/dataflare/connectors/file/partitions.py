"""Hive-style folders: `country=DE/day=2024-01-01/` says the value of columns for all rows below.

Always true: a value written into a folder's name is read back as the same text; a column that the
file itself has wins over the folder's name.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from dataflare.connectors.file.listing import FoundFile
from dataflare.model.types import STRING, DataType

NULL_NAME = "__HIVE_DEFAULT_PARTITION__"
_FOLDER = re.compile(r"([^=]+)=(.*)")


def partition_values(file: FoundFile) -> dict[str, tuple[Any, DataType]]:
    """The columns that the folders between the listed folder and the file say, as text."""
    if file.root is None:
        return {}
    found: dict[str, tuple[Any, DataType]] = {}
    for part in file.path.parent.relative_to(file.root).parts:
        match = _FOLDER.fullmatch(part)
        if match is not None:
            value = match.group(2)
            text = None if value == NULL_NAME else unquote(value)
            found[unquote(match.group(1))] = (text, STRING)
    return found


def folder_name(column: str, value: str | None) -> str:
    """One level of the path for a value: characters that a file system may refuse are escaped."""
    shown = NULL_NAME if value is None else quote(value, safe=" +-,:@!$()'~")
    return f"{quote(column, safe=' ')}={shown}"
