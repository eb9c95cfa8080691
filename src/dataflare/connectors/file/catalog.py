"""What there is to read in a folder, as entries: a file, files whose names differ in numbers alone, the folder of a
table that is divided by `name=value` folders, or a table of Delta or Iceberg, which is read with its own type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dataflare.connectors.file.listing import list_files
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.sdk.catalog import Entry, named_below
from dataflare.sdk.context import ConnectorContext

_PART = "part-"
"""How the names of parts begin, of DataFlare and of others."""
_NUMBERS = re.compile(r"\d+")


def catalog_of(config: FileSourceConfig, context: ConnectorContext) -> list[Entry]:
    """What a source with this config would read, if it read all of it."""
    return entries_of(
        list_files(config.paths, context, config.format, config.storage), config.paths
    )


def entries_of(files: Iterable[FoundFile], tops: Sequence[str]) -> list[Entry]:
    """The entries of files, sorted by name. tops: what was listed."""
    groups: dict[str, list[str]] = {}
    tables: dict[str, str] = {}
    for file in files:
        if file.table is not None:
            tables[file.table.place] = file.table.label
            continue
        groups.setdefault(_pattern(file.id), []).append(file.id)
    entries = [
        Entry(place, label, {"path": place}, None, *named_below(place, tops))
        for place, label in tables.items()
    ]
    for pattern, ids in groups.items():
        is_folder = not pattern.endswith(ids[0].rpartition(".")[2])
        path = pattern if is_folder or len(ids) > 1 else ids[0]
        kind = "folder" if is_folder else "files" if len(ids) > 1 else "file"
        entries.append(Entry(path, kind, {"path": path}, None, *named_below(path, tops)))
    return sorted(entries, key=lambda entry: entry.name)


def _pattern(id_: str) -> str:
    """What files that belong together share: the folder above `name=value`, or of parts that a program has written, or the
    name with * for numbers."""
    folder, slash, name = id_.rpartition("/")
    parts = folder.split("/")
    divided = next((at for at, part in enumerate(parts) if "=" in part and at), None)
    if divided is not None:
        return "/".join(parts[:divided])
    if slash and name.startswith(_PART):
        return folder
    return f"{folder}{slash}{_NUMBERS.sub('*', name)}"
