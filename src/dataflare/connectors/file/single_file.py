"""One file as a destination: it grows in staging and is published once, by a rename.

Always true: until the last epoch is committed the file under the published name does not change;
after a crash, rows beyond the committed length are cut off. A second commit of the last epoch finds
no staging file and the published content, and does nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.file.buffering import EncodeBuffer
from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.growing import (
    Encoder,
    GrowingFile,
    GrowingParquet,
)
from dataflare.connectors.file.layout import Layout
from dataflare.connectors.file.marker import FileMarker, NoMarker
from dataflare.connectors.file.names import UNPUBLISHED
from dataflare.connectors.file.staged import StagedContent, content_of, looks
from dataflare.errors import CheckpointError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Epoch,
    Marker,
    Owner,
    Writer,
    WriteStats,
    fenced_by_other,
)
from dataflare.sdk.durable_files import sync_folder
from dataflare.sdk.threads import in_thread

Grow = Callable[[Path, Path, Mapping[str, Any]], GrowingFile]
"""Opens the staging file (path, sidecar) in the state that a committable's data describes."""


class Staging(Struct, frozen=True):
    """The names of the staging files beside a target."""

    target: Path
    lineage8: str

    @property
    def path(self) -> Path:
        return self.target.parent / f".{self.target.name}.{self.lineage8}{UNPUBLISHED}"

    @property
    def sidecar(self) -> Path:
        return self.target.parent / f".{self.target.name}.{self.lineage8}.groups{UNPUBLISHED}"

    def without(self, data: Mapping[str, Any]) -> str | None:
        """Why the rows that a committable describes are neither staged nor published; None where they are."""
        if self.path.exists() or content_of(data).is_in(self.target):
            return None
        if self.target.exists():
            return f"its staged rows are gone, because a run has published {self.target} since, or someone removed them"
        return f"its staged rows are gone: {self.path}"

    def others(self) -> list[Path]:
        """Staging files of this target from other lineages."""
        pattern = re.compile(
            rf"\.{re.escape(self.target.name)}\.[0-9a-f]{{8}}(\.groups)?{re.escape(UNPUBLISHED)}"
        )
        if not self.target.parent.is_dir():
            return []
        ours = (self.path, self.sidecar)
        paths = [p for p in self.target.parent.iterdir() if pattern.fullmatch(p.name)]
        return sorted(p for p in paths if p not in ours)


class SingleFileWriter(Writer):
    """The only writer of a file. It opens the staging file when the first rows arrive or the first
    epoch ends, so a run that finds everything committed creates no file."""

    takes_at_once = True

    as_written: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    """Makes the rows that are written of changes."""
    """Whether the files have the kinds of rows, in a column."""

    def __init__(
        self,
        staging: Staging,
        encoder: Encoder,
        grow: Grow,
        restored: Committable | None,
        rows_max: int,
        bytes_max: int,
        step: str,
        layout: Layout,
        *,
        check: Callable[[Path, int], int] | None = None,
        before: frozenset[str] = frozenset(),
    ) -> None:
        """check: of a mirror: raises when the whole file must not be published; given how many rows of
        the steps `before` failed; returns how many rows are deleted."""
        self._step, self._check, self._before = step, check, before
        self._left_out = 0
        self._staging, self._encoder, self._grow = staging, encoder, grow
        self._restored = dict(restored.data) if restored is not None else {}
        self._layout = layout
        layout.refuse_other(self._restored.get("layout"), staging.target, step)
        self._file: GrowingFile | None = None
        self._hold: IO[bytes] | None = None
        self._buffer = EncodeBuffer(self._encode, self._append, rows_max, bytes_max)

    def _opened(self) -> GrowingFile:
        if self._file is None:
            staging = self._staging
            if self._restored and not staging.path.exists():
                raise _gone(staging.path)
            self._file = self._grow(staging.path, staging.sidecar, self._restored)
            self._hold = _hold(staging.path, self._step)
        return self._file

    def _encode(self, frame: pl.DataFrame) -> tuple[Any, int]:
        return self._encoder.encode(frame), frame.height

    def _append(self, piece: tuple[Any, int]) -> None:
        with file_errors(self._staging.target, "writing"):
            self._opened().add(*piece)

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        frame = batch.frame if self.as_written is None else self.as_written(batch.frame)
        await self._buffer.add(frame, batch.num_bytes)
        return WriteStats(batch.num_rows, batch.num_bytes)

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        self._left_out = sum(rows.get(step, 0) for step in self._before)

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        return await self._buffer.call(lambda: self._prepare(final))

    def _prepare(self, final: bool) -> Committable:
        with file_errors(self._staging.target, "writing"):
            file = self._opened()
            deletes: dict[str, Any] = {}
            if final:
                file.finish()
                if self._check is not None:
                    deletes = {"deleted": self._check(self._staging.path, self._left_out)}
            else:
                file.end_epoch()
            crash_point("file.prepare.before_fsync")
            file.sync()
            sync_folder(self._staging.path.parent)
            crash_point("file.prepare.after_fsync")
            data: dict[str, Any] = {
                "staged": self._staging.path.name,
                "length": file.length,
                "rows": file.rows,
                "digest": file.digest,
                "seen": looks(file.path),
                "layout": self._layout.to_json(),
                **deletes,
            }
        if isinstance(file, GrowingParquet):
            data["sidecar_length"] = file.sidecar_length
            data["sidecar_digest"] = file.sidecar_digest
        return Committable(0, data)

    async def aclose(self) -> None:
        await self._buffer.aclose()
        if self._file is not None and self._hold is not None:
            self._file.close()
            self._hold.close()


_held_here: set[Path] = set()
"""The staging files that this process has locked, now or earlier."""


def _hold(path: Path, step: str) -> IO[bytes]:
    """Lock the staging file, so that no other run removes it as a leftover or writes to it."""
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held_here.add(path)
    except BlockingIOError:
        if path not in _held_here:  # otherwise a failed writer of this process has the lock
            file.close()
            raise fenced_by_other(step, str(path)) from None
    return file


def _refuse_held(path: Path, step: str) -> None:
    """Raise RunError (E0804) if a run with a copy of this state folder writes to the staging
    file."""
    with suppress(FileNotFoundError):
        _hold(path, step).close()


class SingleFileCommitter(Committer):
    """Cuts the staging file back after a crash; renames it in the last epoch."""

    def __init__(self, staging: Staging, fence: Fence, marker: FileMarker) -> None:
        self._staging, self._fence, self._marker = staging, fence, marker
        self._rows: int | None = None
        self._deletes: Mapping[str, Any] = {}

    async def marker(self) -> Marker | None:
        own = await in_thread(self._marker.own_record)
        if own is None or own.manifest is None:
            return None
        return Marker(own.epoch, own.attempt, own.manifest, can_rewind=False)

    async def owner(self) -> Owner | None:
        # Also if the file does not exist: it may have been moved with its rows.
        return await in_thread(self._marker.owner, replaces=False)

    async def supersede(self, epoch: int) -> None:
        await in_thread(self._marker.write, epoch, 0, None)

    async def is_empty(self) -> bool:
        keeps = not isinstance(self._marker, NoMarker)
        return keeps and not await in_thread(self._staging.target.exists)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await in_thread(self._recover, epoch, committables)

    def _recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        staging = self._staging
        with (
            file_errors(staging.target, "writing"),
            self._fence.lock(begins=True),
            self._marker.lock(),
        ):
            own = self._marker.own_record()
            is_published = own is not None and own.manifest is not None and own.epoch >= epoch > 0
            self._marker.begin(epoch)
            _refuse_held(staging.path, self._fence.step)
            if is_published and committables:
                return
            if not epoch or not committables:
                staging.path.unlink(missing_ok=True)
                staging.sidecar.unlink(missing_ok=True)
                for leftover in staging.others():
                    _remove_unless_held(leftover)
                return
            data = committables[0].data
            content = content_of(data)
            if not staging.path.exists():
                if not content.is_in(staging.target):
                    raise _gone(staging.path)
                return
            content.check(staging.path, thorough=True, whole=False)
            os.truncate(staging.path, content.length)
            if "sidecar_length" in data:
                if not staging.sidecar.exists():
                    raise _gone(staging.sidecar)
                sidecar = StagedContent(data["sidecar_length"], data.get("sidecar_digest"))
                sidecar.check(staging.sidecar, thorough=True, whole=False)
                os.truncate(staging.sidecar, sidecar.length)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if committables:
            data = committables[0].data
            self._rows = data["rows"]
            self._deletes = {name: data[name] for name in ("deleted",) if name in data}
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        with self._fence.lock(), self._marker.lock():
            if epoch.final and committables:
                own = self._marker.own_record()
                if own is not None and own.manifest is not None and own.epoch >= epoch.number:
                    return
                self._publish(committables[0].data)
                self._marker.write(epoch.number, committables[0].data["rows"], epoch.manifest)

    def _publish(self, data: Mapping[str, Any]) -> None:
        staging = self._staging
        with file_errors(staging.target, "writing"):
            crash_point("file.commit.before_publish")
            content = content_of(data)
            if staging.path.exists():
                content.check(staging.path, thorough=False)
                os.replace(staging.path, staging.target)
                sync_folder(staging.target.parent)
            elif not content.is_in(staging.target):
                raise _gone(staging.path)
            crash_point("file.commit.after_publish")
            staging.sidecar.unlink(missing_ok=True)

    async def published(self) -> Mapping[str, Any]:
        if self._rows is None:
            return {}
        path = self._staging.target
        size = path.stat().st_size if path.exists() else 0
        return {"path": str(path), "rows": self._rows, "bytes": size, "files": 1, **self._deletes}


def _gone(path: Path) -> CheckpointError:
    return CheckpointError(
        f"the staged rows are gone: {path}",
        code="E0704",
        help="someone removed them; start over with --fresh",
    )


def _remove_unless_held(path: Path) -> None:
    """Remove the file of a dead run; a running one has a lock on its file."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def copy_to_stage(source: Path, staged: Path, *, text: bool) -> int:
    """Start a staging file with the rows of the target, ending in a line end. Returns its
    length."""
    shutil.copyfile(source, staged)
    with staged.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if text and size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
                size += 1
    return size
