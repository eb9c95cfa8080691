"""A hidden file beside what a step writes: which lineage of which workflow wrote it last.

Beside a folder of parts and not in it, because Polars and others read every file of a folder.

Always true:
- it is written after the rows of its epoch are in place, so what it says is there;
- who publishes holds a lock on the folder and has looked at it: of two homes that write to one place
  the older is fenced.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from msgspec import Struct
from msgspec.structs import asdict

from dataflare.checkpoint.files import write_whole
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Owner, fenced_by_other, refuse_older

_VERSION = 1


class Written(Struct, frozen=True):
    """What the file says. rows: that the lineage has written so far."""

    workflow: str
    step: str
    lineage: str
    attempt: int
    token: str
    epoch: int
    rows: int
    manifest: str | None = None


class FileMarker:
    """Of one step at one place. folder: of parts, or that of the single file whose name is `beside`.
    Blocking."""

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
        # The folder may be a mounted disk, whose parent cannot be written.
        if inside.exists() or not os.access(self._folder.parent, os.W_OK):
            return inside
        return self._folder.parent / f".{self._folder.name}.{self._name}"

    def read(self) -> Written | None:
        """What it says; None where it is missing or damaged, or the folder is gone."""
        if not self._folder.is_dir():
            return None
        try:
            value = json.loads(self._path.read_bytes())
            if value["version"] != _VERSION or value["checksum"] != _checksum(value["marker"]):
                return None
            found = Written(**value["marker"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        same = (found.workflow, found.step) == (self._context.workflow, self._context.step)
        return found if same else None

    def own(self) -> Written | None:
        """What it says of this lineage."""
        found = self.read()
        return found if found is not None and found.lineage == self._context.lineage else None

    def owner(self, *, replaces: bool) -> Owner | None:
        """The other lineage that wrote there last. replaces: the next run replaces its rows."""
        found = self.read()
        if found is None or found.lineage == self._context.lineage:
            return None
        rows = 0 if replaces else found.rows
        return Owner(found.lineage, found.attempt, found.epoch, rows, found.manifest)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Publish inside. Raises RunError (E0804) for an attempt that another one has taken over from."""
        folder = self._folder
        if not folder.is_dir():
            yield
            return
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(number, fcntl.LOCK_EX)
            except OSError:  # some network file systems lock no folders
                pass
            self._refuse_fenced()
            yield
        finally:
            os.close(number)

    def _refuse_fenced(self) -> None:
        context, found = self._context, self.read()
        if found is None:
            return
        if found.lineage != context.lineage:
            raise fenced_by_other(context.step, str(self._folder))
        refuse_older(context.step, (context.attempt, context.token), (found.attempt, found.token))

    def begin(self, epoch: int) -> None:
        """An attempt begins from `epoch`: older ones are fenced."""
        own = self.own()
        if own is not None:
            back = min(own.epoch, epoch)
            self.write(back, own.rows, own.manifest if back == own.epoch else None)
        elif self._folder.is_dir():
            self.write(epoch, 0, None)
        else:
            # The folder is gone, and so are the rows that a marker beside it tells of.
            self._path.unlink(missing_ok=True)

    def write(self, epoch: int, rows: int, manifest: str | None) -> None:
        """Say, durably, what is there now."""
        context = self._context
        marker: dict[str, Any] = asdict(
            Written(
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
        value = {"version": _VERSION, "checksum": _checksum(marker), "marker": marker}
        write_whole(self._path, json.dumps(value, sort_keys=True).encode(), mode=0o644)


class NoMarker(FileMarker):
    """For previews, tests and the state folder's own files."""

    def read(self) -> Written | None:
        return None

    def begin(self, epoch: int) -> None:
        return

    def write(self, epoch: int, rows: int, manifest: str | None) -> None:
        return


def _checksum(marker: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(marker, sort_keys=True).encode())
