"""One file in a store: it grows in the state folder, and is uploaded before the last epoch and published with it.

Always true: until then the name holds what it held before; uploads of this name that no checkpoint names are removed by the
next attempt.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.marker import FileMarker
from dataflare.connectors.file.single_file import SingleFileCommitter, SingleFileWriter, Staging
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Epoch
from dataflare.sdk.stores.uploads import Uploads


class StoredFileWriter(SingleFileWriter):
    """The only writer of a file."""

    def __init__(self, uploads: Uploads, path: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._uploads, self._path = uploads, path

    def _prepare(self, final: bool) -> Committable:
        prepared = super()._prepare(final)
        if not final:
            return prepared
        crash_point("store.prepare.before_upload")
        with file_errors(self._staging.path, "reading"):
            staged = self._uploads.stage(self._staging.path, self._path, secrets.token_hex(8))
        crash_point("store.prepare.after_upload")
        return Committable(prepared.subtask, {**prepared.data, "upload": dict(staged)})


class StoredFileCommitter(SingleFileCommitter):
    """Publishes the file in the last epoch."""

    def __init__(
        self, uploads: Uploads, path: str, staging: Staging, fence: Fence, marker: FileMarker
    ) -> None:
        super().__init__(staging, fence, marker)
        self._uploads, self._path = uploads, path
        self._bytes = 0

    async def is_empty(self) -> bool:
        return False

    def _recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        kept = [c.data["upload"]["upload"] for c in committables if "upload" in c.data]
        for each in self._uploads.unfinished(self._path):
            if each.path == self._path and each.staged["upload"] not in kept:
                self._uploads.discard(each.path, each.staged)
        if kept:
            with self._fence.lock(begins=True):
                return
        super()._recover(epoch, committables)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if committables:
            self._bytes = committables[0].data["length"]
        await super().commit(epoch, committables)

    def _publish(self, data: Mapping[str, Any]) -> None:
        crash_point("store.commit.before_publish")
        self._uploads.publish(self._path, data["upload"])
        crash_point("store.commit.after_publish")
        self._staging.path.unlink(missing_ok=True)
        self._staging.sidecar.unlink(missing_ok=True)

    async def published(self) -> Mapping[str, Any]:
        if self._rows is None:
            return {}
        url = self._uploads.store.url(self._path)
        return {"path": url, "rows": self._rows, "bytes": self._bytes, "files": 1}
