"""A folder of parts in a store: parts are uploaded where no reader sees them, and published when their epoch is
committed.

Always true: a part's name contains lineage, subtask and a number which is greater than every epoch before it and at most its
own epoch, so a part whose number is above an epoch holds no rows of that epoch. What an attempt uploaded and no checkpoint
names is removed by the next attempt. Under `overwrite` each epoch leaves a list of its parts; the last one publishes all
of them, and removes the old files after that.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct

from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.folder import FolderWriter, Part
from dataflare.connectors.file.stored_marker import StoredMarker
from dataflare.errors import CheckpointError
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker, Owner
from dataflare.sdk.stores.uploads import Staged, Unfinished, Uploads
from dataflare.sdk.threads import in_thread

_WAITING_MAX = 3
"""So many finished parts wait for their upload before the writer does."""
_UPLOADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="dataflare-parts")


class StoredFolder(Struct, frozen=True):
    """Where the parts are. prefix: "" or a path that ends in a slash. extension: of parts, with its dot."""

    uploads: Uploads
    prefix: str
    lineage8: str
    extension: str
    overwrite: bool

    @property
    def url(self) -> str:
        return self.uploads.store.url(self.prefix)

    def number_of(self, path: str) -> int | None:
        """The number in the name of a part of this lineage; None for other files."""
        match = re.match(rf"part-{self.lineage8}-(\d+)-\d+-\d+\.", path.rpartition("/")[2])
        return int(match[1]) if match else None

    def data_files(self) -> list[str]:
        """The published files of this extension, of all lineages and programs."""
        listed = (each.path for each in self.uploads.store.list(self.prefix))
        return [path for path in listed if self._is_data(path)]

    def _is_data(self, path: str) -> bool:
        names = path[len(self.prefix) :].split("/")
        hidden = any(name.startswith((".", "_")) for name in names)
        return path.endswith(self.extension) and not hidden

    def unfinished(self, lineage8: str | None = None) -> list[Unfinished]:
        """What a lineage has uploaded and not published."""
        name = re.compile(rf"part-{lineage8 or self.lineage8}-\d+-\d+-\d+\.")
        found = self.uploads.unfinished(self.prefix)
        return [each for each in found if name.match(each.path.rpartition("/")[2])]


class _Upload(Struct):
    """A part that is on its way. path: where it will be."""

    path: str
    part: Part
    staged: Future[Staged]


class StoredFolderWriter(FolderWriter):
    """One subtask's parts. Each grows in a file of this machine; its upload begins when it is full."""

    def __init__(self, there: StoredFolder, epoch: int, *args: Any, **options: Any) -> None:
        """epoch: the last one before."""
        super().__init__(*args, **options)
        self._there, self._number, self._count = there, epoch + 1, 0
        self._uploads: list[_Upload] = []

    def _finish(self, part: Part) -> None:
        part.file.finish()
        part.file.close()
        name = f"part-{self._there.lineage8}-{self._number}-{self._subtask}-{self._count}"
        self._count += 1
        folder = f"{part.partition}/" if part.partition else ""
        path = f"{self._there.prefix}{folder}{name}{self._there.extension}"
        staged = _UPLOADS.submit(self._stage, part.file.path, path)
        self._uploads.append(_Upload(path, part, staged))
        waiting = [each for each in self._uploads if not each.staged.done()]
        if len(waiting) > _WAITING_MAX:
            waiting[0].staged.result()

    def _stage(self, local: Path, path: str) -> Staged:
        staged = self._there.uploads.stage(local, path, secrets.token_hex(8))
        local.unlink()
        return staged

    def _prepare(self, epoch: int) -> Committable:
        for partition in list(self._open):
            self._finish(self._open.pop(partition))
        crash_point("store.prepare.before_upload")
        parts: list[list[Any]] = [
            [each.path, each.part.file.length, each.part.file.rows, dict(each.staged.result())]
            for each in self._uploads
        ]
        crash_point("store.prepare.after_upload")
        self._uploads, self._number, self._count = [], epoch + 1, 0
        self._total_parts += len(parts)
        self._total_rows += sum(part[2] for part in parts)
        return Committable(
            self._subtask,
            {"parts": parts, "total_parts": self._total_parts, "total_rows": self._total_rows},
        )


class StoredFolderCommitter(Committer):
    """Publishes parts; under overwrite only in the last epoch."""

    def __init__(self, folder: StoredFolder, fence: Fence, marker: StoredMarker) -> None:
        self._folder, self._fence, self._marker = folder, fence, marker
        self._files = self._rows = self._bytes = 0
        self._notes = f"{marker.hidden}{folder.lineage8}-"

    async def marker(self) -> Marker | None:
        own = None if self._folder.overwrite else await in_thread(self._marker.own_record)
        if own is None or own.manifest is None:
            return None
        return Marker(own.epoch, own.attempt, own.manifest, can_rewind=True)

    async def owner(self) -> Owner | None:
        return await in_thread(self._marker.owner, replaces=self._folder.overwrite)

    async def supersede(self, epoch: int) -> None:
        await in_thread(self._supersede, epoch)

    def _supersede(self, epoch: int) -> None:
        before = self._marker.read()
        self._marker.write(epoch, 0, None)
        if before is not None and before.lineage != self._marker.lineage:
            # Its uploads can never be published any more.
            for each in self._folder.unfinished(before.lineage.replace("-", "")[:8]):
                self._folder.uploads.discard(each.path, each.staged)

    async def is_empty(self) -> bool:
        return not self._folder.overwrite and await in_thread(self._is_empty)

    def _is_empty(self) -> bool:
        own = self._marker.own_record()
        if own is not None and not own.rows:
            return False
        return all(self._folder.number_of(path) is None for path in self._folder.data_files())

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await in_thread(self._recover, epoch, committables)

    def _recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        """The marker is written first: an older attempt that reads it stops. What such an attempt had uploaded
        before is removed here, so it can publish nothing after this."""
        folder = self._folder
        with self._fence.lock(begins=True), self._marker.lock():
            self._marker.begin(epoch)
            crash_point("store.recover.after_marker")
            for each in folder.unfinished():
                if (folder.number_of(each.path) or 0) > epoch or not committables:
                    folder.uploads.discard(each.path, each.staged)
            later = [path for path in folder.data_files() if (folder.number_of(path) or 0) > epoch]
            folder.uploads.delete(later)
            notes = self._list_notes()
            keep = {path for path in notes if committables and (_epoch_in(path) or 0) <= epoch}
            folder.uploads.delete([path for path in notes if path not in keep])

    async def begin(self, epoch: int) -> None:
        if self._folder.overwrite:
            name = f"{self._notes}base-{epoch}.json"
            await in_thread(self._folder.uploads.put, name, b"{}")

    def _list_notes(self) -> list[str]:
        """The hidden objects of this lineage beside the folder: the epoch before the run, and lists of parts."""
        listed = self._folder.uploads.store.beside(self._notes[: self._notes.rfind("/") + 1])
        return [each.path for each in listed if each.path.startswith(self._notes)]

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        folder = self._folder
        with self._fence.lock(), self._marker.lock():
            own = self._marker.own_record()
            if own is not None and own.manifest is not None and own.epoch >= epoch.number:
                self._rows = own.rows
                self._clean_up(epoch)
                return
            parts = [part for c in committables for part in c.data["parts"]]
            if not folder.overwrite:
                self._publish(parts)
            else:
                self._note(epoch.number, parts)
                if epoch.final:
                    self._replace_all(epoch.number, committables)
            rows = sum(c.data["total_rows"] for c in committables)
            rows = max(rows, own.rows if own is not None else 0)
            self._marker.write(epoch.number, rows, epoch.manifest)
            crash_point("store.commit.after_marker")
            self._clean_up(epoch)

    def _clean_up(self, epoch: Epoch) -> None:
        """Remove what a run needs until its end."""
        if epoch.final:
            for each in self._folder.unfinished():
                self._folder.uploads.discard(each.path, each.staged)
            self._folder.uploads.delete(self._list_notes())

    def _note(self, epoch: int, parts: Sequence[Any]) -> None:
        name = f"{self._notes}parts-{epoch}.json"
        if parts:
            # It is there already if the same epoch was committed before.
            self._folder.uploads.put(name, json.dumps(parts).encode())

    def _publish(self, parts: Sequence[Sequence[Any]]) -> None:
        """Publish parts; those that were published already are skipped by the store."""
        crash_point("store.commit.before_publish")

        def publish(part: Sequence[Any]) -> None:
            self._folder.uploads.publish(part[0], part[3])
            crash_point("store.commit.between_parts")

        for done in [_UPLOADS.submit(publish, part) for part in parts]:
            done.result()
        crash_point("store.commit.after_publish")
        self._files += len(parts)
        self._rows += sum(part[2] for part in parts)
        self._bytes += sum(part[1] for part in parts)

    def _replace_all(self, epoch: int, committables: Sequence[Committable]) -> None:
        folder = self._folder
        notes = self._list_notes()
        bases = [path for path in notes if path.startswith(f"{self._notes}base-")]
        base = _epoch_in(bases[0]) if bases else None
        lists = [path for path in notes if path.startswith(f"{self._notes}parts-")]
        parts: list[Any] = []
        for path in lists:
            found = folder.uploads.get(path)
            if found is not None and (_epoch_in(path) or 0) <= epoch:
                parts += json.loads(found[0])
        expected = sum(c.data["total_parts"] for c in committables)
        if len(parts) < expected or (base is None and expected):
            raise CheckpointError(
                f"lists of the staged parts of {folder.url} are gone: {len(parts)} of {expected} parts",
                code="E0704",
                help="another program removed them; start over with --fresh",
            )
        self._files = self._rows = self._bytes = 0
        self._publish(parts)
        new = {part[0] for part in parts}
        folder.uploads.delete([path for path in folder.data_files() if path not in new])

    async def published(self) -> dict[str, Any]:
        return {
            "path": self._folder.url,
            "rows": self._rows,
            "bytes": self._bytes,
            "files": self._files,
        }


def _epoch_in(path: str) -> int | None:
    """The epoch in the name of a hidden object."""
    match = re.search(r"-(\d+)\.json$", path)
    return int(match[1]) if match else None
