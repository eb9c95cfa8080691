"""A hidden file beside a step's output that records which lineage of which workflow wrote it last.
It is beside a folder of parts and not in it, because Polars and others read every file of a folder.

Always true:
- it is written after the rows of its epoch are in place;
- a committer publishes only while it holds a lock on the folder, and reads the marker first: if two state folders write to one place, the older one is fenced.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import xxhash
from msgspec import Struct
from msgspec.structs import asdict

from dataflare.checkpoint.files import TEMPORARY, write_whole
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Owner, fenced_by_other, refuse_older

VERSION = 1


class MarkerRecord(Struct, frozen=True):
    """The content of the file. rows: how many the lineage has written so far."""

    workflow: str
    step: str
    lineage: str
    attempt: int
    token: str
    epoch: int
    rows: int
    manifest: str | None = None


class FileMarker:
    """The marker of one step at one place. folder: of the parts, or of the single file with the
    name `beside`. Blocking."""

    def __init__(self, folder: Path, context: DestinationContext, beside: str = "") -> None:
        name = xxhash.xxh3_64_hexdigest(f"{context.workflow}/{context.step}".encode())[:8]
        self._folder = folder
        self._beside = beside
        self._name = f"dataflare-{name}.json"
        self._context = context

    @property
    def _path(self) -> Path:
        if self._beside:
            return self._folder / f".{self._beside}.{self._name}"
        inside = self._folder / f".{self._name}"
        # The folder may be a mounted disk, and its parent may be read-only.
        if inside.exists() or not os.access(self._folder.parent, os.W_OK):
            return inside
        return self._folder.parent / f".{self._folder.name}.{self._name}"

    @property
    def lineage(self) -> str:
        return self._context.lineage

    def read(self) -> MarkerRecord | None:
        """The record in the file; None if it is missing or damaged, or the folder is missing."""
        if not self._folder.is_dir():
            return None
        try:
            value = json.loads(self._path.read_bytes())
            if value["version"] != VERSION or value["checksum"] != checksum_of(value["marker"]):
                return None
            record = MarkerRecord(**value["marker"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        same = (record.workflow, record.step) == (self._context.workflow, self._context.step)
        return record if same else None

    def own_record(self) -> MarkerRecord | None:
        """The record if this lineage wrote it, else None."""
        record = self.read()
        return record if record is not None and record.lineage == self._context.lineage else None

    def owner(self, *, replaces: bool) -> Owner | None:
        """The other lineage that wrote there last. replaces: the next run replaces its rows."""
        record = self.read()
        if record is None or record.lineage == self._context.lineage:
            return None
        rows = 0 if replaces else record.rows
        return Owner(record.lineage, record.attempt, record.epoch, rows, record.manifest)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock on the folder; the caller publishes inside. Raises RunError (E0804) if
        another attempt has taken over."""
        folder = self._folder
        if not folder.is_dir():
            yield
            return
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(number, fcntl.LOCK_EX)
            except OSError:  # some network file systems cannot lock folders
                pass
            self._refuse_fenced()
            yield
        finally:
            os.close(number)

    def _refuse_fenced(self) -> None:
        context, record = self._context, self.read()
        if record is None:
            return
        if record.lineage != context.lineage:
            raise fenced_by_other(context.step, str(self._folder))
        refuse_older(context.step, (context.attempt, context.token), (record.attempt, record.token))

    def begin(self, epoch: int) -> None:
        """An attempt begins from `epoch`: older ones are fenced, and what a killed one was writing is removed."""
        for partial in self._path.parent.glob(f"{TEMPORARY}*-{escape(self._path.name)}"):
            partial.unlink(missing_ok=True)
        own = self.own_record()
        if own is not None:
            back = min(own.epoch, epoch)
            self.write(back, own.rows, own.manifest if back == own.epoch else None)
        elif self._folder.is_dir():
            self.write(epoch, 0, None)
        else:
            # The folder was removed, so the rows in the record of the marker beside it were removed
            # too.
            self._path.unlink(missing_ok=True)

    def write(self, epoch: int, rows: int, manifest: str | None) -> None:
        """Write the record durably."""
        context = self._context
        marker: dict[str, Any] = asdict(
            MarkerRecord(
                context.workflow,
                context.step,
                context.lineage,
                context.attempt,
                context.token,
                epoch,
                rows,
                manifest,
            )
        )
        value = {"version": VERSION, "checksum": checksum_of(marker), "marker": marker}
        data = json.dumps(value, sort_keys=True).encode()
        write_whole(self._path, data, crash="file.marker", mode=0o644)


class NoMarker(FileMarker):
    """For previews, tests and the state folder's own files."""

    def read(self) -> MarkerRecord | None:
        return None

    def begin(self, epoch: int) -> None:
        return

    def write(self, epoch: int, rows: int, manifest: str | None) -> None:
        return


def checksum_of(marker: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(marker, sort_keys=True).encode())
