"""A folder of parts as a destination: parts are staged in a hidden folder; renames publish them.

Always true: a published name says lineage, epoch, subtask and number, so the same rows never
appear under two names; staged names never end in a data extension. Under `overwrite` nothing is
renamed before the last epoch: then the new parts come in first and the old files go after, so for
a moment both are there, and at no moment neither.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.file.buffering import EncodeBuffer
from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.growing import Encoder, GrowingFile, sync_folder
from dataflare.connectors.file.listing import UNPUBLISHED
from dataflare.connectors.file.partitions import folder_name
from dataflare.errors import CheckpointError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker, Writer, WriteStats

Grow = Callable[[Path], GrowingFile]


class PartsFolder(Struct, frozen=True):
    """Names in the folder. extension: of published parts, with its dot. private: folders made here
    are for their owner alone."""

    path: Path
    lineage8: str
    extension: str
    overwrite: bool
    private: bool = False

    def make(self, folder: Path) -> None:
        """Make a folder, with its parents."""
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.private:
            folder.chmod(0o700)

    @property
    def staging(self) -> Path:
        return self.path / f".dataflare-{self.lineage8}"

    def part_name(self, epoch: int, subtask: int, number: int) -> str:
        return f"part-{self.lineage8}-{epoch}-{subtask}-{number}{self.extension}"

    def staged(self, name: str) -> Path:
        """Where a part waits. name: relative to the folder, with its partition."""
        return self.staging / (name.replace("/", "\x1f") + UNPUBLISHED)

    def waiting(self) -> list[str]:
        """The published names of all parts that wait, in order of epoch."""
        if not self.staging.is_dir():
            return []
        names = [
            file.name.removesuffix(UNPUBLISHED).replace("\x1f", "/")
            for file in self.staging.iterdir()
        ]
        return sorted((n for n in names if self.epoch_of(n) is not None), key=self._order)

    def note_base(self, epoch: int) -> None:
        """Remember, durably, the last epoch before this run: what overwrite replaces at its end."""
        self.make(self.staging)
        (self.staging / f"base-{epoch}").touch()
        sync_folder(self.staging)

    def base(self) -> int | None:
        """The last epoch before this run; None once the run has been published."""
        names = [f.name for f in self.staging.glob("base-*")] if self.staging.is_dir() else []
        return int(names[0].removeprefix("base-")) if names else None

    def _order(self, name: str) -> tuple[int, str]:
        return self.epoch_of(name) or 0, name

    def epoch_of(self, name: str) -> int | None:
        """The epoch in a part's name, None if it is no part of this lineage."""
        match = re.match(rf"part-{self.lineage8}-(\d+)-\d+-\d+\.", name.rpartition("/")[2])
        return int(match.group(1)) if match else None

    def data_files(self) -> Iterator[Path]:
        """Every published file of this extension, whoever made it."""
        for parent, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
            for name in sorted(names):
                if name.endswith(self.extension) and not name.startswith((".", "_")):
                    yield Path(parent, name)


class _Part(Struct):
    """A part being written. partition: its folder's relative name, "" for none."""

    partition: str
    file: GrowingFile


class FolderWriter(Writer):
    """One subtask's parts. A part ends with its epoch, or when it is large enough."""

    def __init__(
        self,
        folder: PartsFolder,
        encoder: Encoder,
        grow: Grow,
        subtask: int,
        attempt: int,
        *,
        partition_by: Sequence[str],
        rows_max: int,
        part_rows_max: int | None,
        part_bytes_max: int | None,
        total_parts: int,
        total_rows: int,
    ) -> None:
        self._folder, self._encoder, self._grow = folder, encoder, grow
        self._subtask, self._attempt = subtask, attempt
        self._partition_by = list(partition_by)
        self._part_rows_max, self._part_bytes_max = part_rows_max, part_bytes_max
        self._total_parts, self._total_rows = total_parts, total_rows
        self._open: dict[str, _Part] = {}
        self._done: list[_Part] = []
        self._opened = 0
        rows_max = min(rows_max, part_rows_max or rows_max)
        self._buffer = EncodeBuffer(self._encode, self._append, rows_max)

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        await self._buffer.add(batch.frame, batch.num_bytes)
        return WriteStats(batch.num_rows, batch.num_bytes)

    def _encode(self, frame: pl.DataFrame) -> list[tuple[str, Any, int]]:
        """By partition: what is to be appended, and how many rows that is."""
        return [
            (partition, self._encoder.encode(rows), rows.height)
            for partition, rows in self._divided(frame)
        ]

    def _append(self, pieces: list[tuple[str, Any, int]]) -> None:
        with file_errors(self._folder.path, "writing"):
            for partition, encoded, rows in pieces:
                part = self._open.get(partition)
                if part is None:
                    part = self._open[partition] = self._new_part(partition)
                part.file.add(encoded, rows)
                if self._is_full(part.file):
                    part.file.finish()
                    part.file.sync()
                    part.file.close()
                    self._done.append(self._open.pop(partition))

    def _is_full(self, file: GrowingFile) -> bool:
        return (self._part_rows_max is not None and file.rows >= self._part_rows_max) or (
            self._part_bytes_max is not None and file.length >= self._part_bytes_max
        )

    def _divided(self, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        if not self._partition_by:
            yield "", frame
            return
        keys = [
            pl.col(name).cast(pl.String).alias(f"__dataflare_{name}") for name in self._partition_by
        ]
        names = [f"__dataflare_{name}" for name in self._partition_by]
        keyed = frame.with_columns(keys).drop(self._partition_by)
        groups = keyed.partition_by(names, as_dict=True, include_key=False, maintain_order=True)
        for values, rows in groups.items():
            folders = [
                folder_name(column, None if value is None else str(value))
                for column, value in zip(self._partition_by, values, strict=True)
            ]
            yield "/".join(folders), rows

    def _new_part(self, partition: str) -> _Part:
        self._opened += 1
        for each in (self._folder.path, self._folder.staging):
            self._folder.make(each)
        name = f"open-{self._attempt}-{self._subtask}-{self._opened}{UNPUBLISHED}"
        return _Part(partition, self._grow(self._folder.staging / name))

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        return await self._buffer.call(lambda: self._prepare(epoch))

    def _prepare(self, epoch: int) -> Committable:
        parts: list[list[Any]] = []
        with file_errors(self._folder.path, "writing"):
            for part in self._open.values():
                part.file.finish()
            crash_point("file.prepare.before_fsync")
            for part in self._open.values():
                part.file.sync()
                part.file.close()
            done = [*self._done, *self._open.values()]
            for number, part in enumerate(done):
                name = self._folder.part_name(epoch, self._subtask, number)
                name = f"{part.partition}/{name}" if part.partition else name
                os.replace(part.file.path, self._folder.staged(name))
                parts.append([name, part.file.length, part.file.rows])
            if done:
                sync_folder(self._folder.staging)
            crash_point("file.prepare.after_fsync")
        self._open, self._done = {}, []
        self._total_parts += len(parts)
        self._total_rows += sum(rows for _, _, rows in parts)
        return Committable(
            self._subtask,
            {"parts": parts, "total_parts": self._total_parts, "total_rows": self._total_rows},
        )

    async def aclose(self) -> None:
        await self._buffer.aclose()
        for part in self._open.values():
            part.file.close()


class FolderCommitter(Committer):
    """Publishes parts by renaming them; under overwrite in the last epoch only."""

    def __init__(self, folder: PartsFolder, fence: Fence) -> None:
        self._folder, self._fence = folder, fence
        self._files = self._rows = self._bytes = 0

    async def marker(self) -> Marker | None:
        return None

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await asyncio.to_thread(self._recover, epoch, not committables)

    def _recover(self, epoch: int, begins: bool) -> None:
        folder = self._folder
        with file_errors(folder.path, "writing"), self._fence.held():
            if folder.staging.is_dir():
                kept = {folder.staged(n) for n in folder.waiting() if _upto(folder, n, epoch)}
                kept |= set() if begins else set(folder.staging.glob("base-*"))
                for file in folder.staging.iterdir():
                    if file not in kept:
                        file.unlink()
                if not kept:
                    _remove_if_empty(folder.staging)
            if folder.path.is_dir():
                for file in list(folder.data_files()):
                    number = folder.epoch_of(file.name)
                    if number is not None and number > epoch:
                        file.unlink()

    async def begin(self, epoch: int) -> None:
        if self._folder.overwrite:
            with file_errors(self._folder.path, "writing"):
                await asyncio.to_thread(self._folder.note_base, epoch)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await asyncio.to_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        folder = self._folder
        with file_errors(folder.path, "writing"), self._fence.held():
            if not folder.overwrite:
                self._publish([part for c in committables for part in c.data["parts"]])
            elif epoch.final:
                self._replace_all(epoch, committables)
            if epoch.final:
                folder.make(folder.path)
                for left in folder.staging.iterdir() if folder.staging.is_dir() else ():
                    left.unlink()
                _remove_if_empty(folder.staging)

    def _publish(self, parts: Sequence[Sequence[Any]]) -> None:
        """Rename each part to its name. One that has been renamed already is left as it is."""
        folder = self._folder
        changed: set[Path] = set()
        crash_point("file.commit.before_publish")
        for number, (name, length, rows) in enumerate(parts):
            if number:
                crash_point("file.commit.between_parts")
            staged, published = folder.staged(name), folder.path / name
            if staged.exists():
                folder.make(published.parent)
                os.replace(staged, published)
                changed.add(published.parent)
            elif not published.exists() or published.stat().st_size != length:
                raise CheckpointError(
                    f"the staged rows of {published} are gone",
                    code="E0704",
                    help="someone removed them; start over with --fresh",
                )
            self._files, self._rows = self._files + 1, self._rows + rows
            self._bytes += length
        for parent in changed:
            sync_folder(parent)
        crash_point("file.commit.after_publish")

    def _replace_all(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        folder = self._folder
        base = folder.base()
        old: list[Path] = []
        here: list[Path] = []
        for file in folder.data_files():
            number = folder.epoch_of(file.name)
            replaced = number is None or (base is not None and number <= base)
            (old if replaced and base is not None else here).append(file)
        waiting = [name for name in folder.waiting() if _upto(folder, name, epoch.number)]
        expected = sum(c.data["total_parts"] for c in committables)
        if len(waiting) + len(here) < expected:
            raise CheckpointError(
                f"staged parts of {folder.path} are gone: {len(waiting) + len(here)} of {expected}",
                code="E0704",
                help="someone removed them; start over with --fresh",
            )
        sizes = [[n, folder.staged(n).stat().st_size, 0] for n in waiting]
        self._files, self._rows, self._bytes = len(here), 0, sum(f.stat().st_size for f in here)
        self._publish(sizes)
        self._rows = sum(c.data["total_rows"] for c in committables)
        for file in old:
            file.unlink(missing_ok=True)

    async def published(self) -> Mapping[str, Any]:
        return {
            "path": str(self._folder.path),
            "rows": self._rows,
            "bytes": self._bytes,
            "files": self._files,
        }


def _upto(folder: PartsFolder, name: str, epoch: int) -> bool:
    number = folder.epoch_of(name)
    return number is not None and number <= epoch


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
