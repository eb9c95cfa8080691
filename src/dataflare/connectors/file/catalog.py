"""What there is to read in a folder, as entries: a file, files whose names differ in numbers alone, or the folder of a
table that is divided by `name=value` folders."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataflare.connectors.file.listing import list_files
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.sdk.catalog import Entry
from dataflare.sdk.context import ConnectorContext

_NUMBERS = re.compile(r"\d+")


def catalog_of(config: FileSourceConfig, context: ConnectorContext) -> list[Entry]:
    """What a source with this config would read, if it read all of it."""
    return entries_of(list_files(config.paths, context, config.format, config.storage))


def entries_of(files: Iterable[FoundFile]) -> list[Entry]:
    """The entries of files, sorted by name."""
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(_pattern(file.id), []).append(file.id)
    entries = []
    for pattern, ids in groups.items():
        is_folder = not pattern.endswith(ids[0].rpartition(".")[2])
        path = pattern if is_folder or len(ids) > 1 else ids[0]
        kind = "folder" if is_folder else "files" if len(ids) > 1 else "file"
        entries.append(Entry(path, kind, {"path": path}))
    return sorted(entries, key=lambda entry: entry.name)


def _pattern(id_: str) -> str:
    """What files that belong together share: the folder above `name=value`, or the name with * for numbers."""
    folder, slash, name = id_.rpartition("/")
    parts = folder.split("/")
    divided = next((at for at, part in enumerate(parts) if "=" in part and at), None)
    if divided is not None:
        return "/".join(parts[:divided])
    return f"{folder}{slash}{_NUMBERS.sub('*', name)}"
