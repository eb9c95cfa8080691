"""Folders that are tables of Delta or Iceberg. Their files hold rows that were deleted or replaced: only the table's log
says which of them count, so they are not read as files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from dataflare.errors import ConfigError

if TYPE_CHECKING:
    from dataflare.connectors.file.names import FoundFile
    from dataflare.sdk.stores.store import Store

_DELTA_LOG = "_delta_log"
_IN_TABLE = re.compile(r"(?:(.*)/)?(?:(_delta_log)/.*|metadata/[^/]*\.metadata\.json)")
"""The path of a file that only a table has, and the table's folder."""


class LakeTable(Struct, frozen=True):
    """place: the folder, as files are named."""

    kind: Literal["delta", "iceberg"]
    place: str

    @property
    def label(self) -> str:
        return f"{self.kind.capitalize()} table"


def refuse_tables(files: Iterable[FoundFile], step: str | None = None) -> None:
    """Raise ConfigError (E0403) for a file that belongs to a table."""
    table = next((file.table for file in files if file.table is not None), None)
    if table is None:
        return
    needs = "path" if table.kind == "delta" else "catalog and table"
    raise ConfigError(
        f"{table.place} is a {table.label}: its Parquet files also hold rows that were deleted or replaced",
        code="E0403",
        step=step,
        help=f"read it with type: {table.kind} ({needs}); to read single files all the same, name them in 'path'",
    )


class LocalTables:
    """Finds the table of a file by the folders above it, each of which is checked once."""

    def __init__(self) -> None:
        self._kinds: dict[Path, Literal["delta", "iceberg"] | None] = {}

    def above(self, file: Path, root: Path) -> tuple[Literal["delta", "iceberg"], Path] | None:
        """root: the folder that was listed. Above it only folders of partitions are left."""
        folder, is_below = file.parent, True
        while True:
            kind = self._kind(folder)
            if kind is not None:
                return kind, folder
            is_below = is_below and folder != root
            if folder == folder.parent or not (is_below or _is_part(folder.name)):
                return None
            folder = folder.parent

    def _kind(self, folder: Path) -> Literal["delta", "iceberg"] | None:
        if folder not in self._kinds:
            is_iceberg = any(islice((folder / "metadata").glob("*.metadata.json"), 1))
            has_log = (folder / _DELTA_LOG).is_dir()
            self._kinds[folder] = "delta" if has_log else "iceberg" if is_iceberg else None
        return self._kinds[folder]


class StoredTables:
    """The tables of a store, by their folders. listed: the paths of files below `root`."""

    def __init__(self, store: Store, root: str, listed: Sequence[str]) -> None:
        parts = root.rstrip("/").split("/")
        while len(parts) > 1 and _is_part(parts[-1]):
            parts.pop()
        above = "/".join(parts)
        paths = list(listed)
        if above != root.rstrip("/"):
            for folder in (_DELTA_LOG, "metadata"):
                paths += [info.path for info in islice(store.list(f"{above}/{folder}/"), 100)]
        self._store = store
        self._kinds: dict[str, Literal["delta", "iceberg"]] = {}
        for path in paths:
            match = _IN_TABLE.fullmatch(path)
            if match is not None:
                self._kinds[match[1] or ""] = "delta" if match[2] else "iceberg"

    def of(self, path: str) -> LakeTable | None:
        """The table that a file belongs to."""
        folder = path if self._kinds else ""
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self._kinds:
                return LakeTable(self._kinds[folder], self._store.url(folder))
        return None


def _is_part(folder: str) -> bool:
    """Whether it is a folder inside of a table, by its name."""
    return "=" in folder or folder == "data"
