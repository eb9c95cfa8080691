"""Files are staged in Azure Blob and Google Cloud Storage as hidden objects, and published by a copy inside the store.

Neither shows an upload that was begun to another process, so there is nothing to complete later. A hidden object is
named `.NAME.TOKEN.inprogress` beside its future name; readers leave out names that begin with a dot.

Always true: a copy replaces an object whole; the hidden object is there until the copy is. Both have the token as
metadata, so an object tells which staged one it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataflare.errors import Retry, SystemError_
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.stores.object_uploads import ObjectUploads
from dataflare.sdk.stores.uploads import (
    Staged,
    Unfinished,
    hidden_below,
    hidden_path,
    staged_is_gone,
)

_TOKEN = "dataflare"
_PART = 16 << 20


class CopiedUploads(ObjectUploads):
    """The writing side of a container or a bucket."""

    def stage(self, local: Path, path: str, token: str) -> Staged:
        hidden = hidden_path(path, token)
        crash_point("store.upload.begun")
        with self._place.errors("writing", path):
            self._place.library.put(
                self._place.client, hidden, local, attributes={_TOKEN: token}, chunk_size=_PART
            )
        crash_point("store.upload.staged")
        return {"upload": hidden, "token": token, "size": local.stat().st_size}

    def publish(self, path: str, staged: Staged) -> None:
        with self._place.errors("writing", path):
            try:
                self._place.library.copy(self._place.client, staged["upload"], path, overwrite=True)
            except FileNotFoundError:
                if not self._is_published(path, staged):
                    raise staged_is_gone(self.store.url(path)) from None
                return
        crash_point("store.upload.copied")
        copied = self.store.look(path)
        if copied is None or copied.size != staged["size"]:
            raise SystemError_(
                f"the copy to {self.store.url(path)} is not ready",
                code="E0607",
                retry=Retry.LATER,
                help="the store copies it; run again later",
            )
        self.delete([staged["upload"]])

    def _is_published(self, path: str, staged: Staged) -> bool:
        try:
            answer: Any = self._place.library.get(self._place.client, path, options={"head": True})
        except FileNotFoundError:
            return False
        return bool(answer.attributes.get(_TOKEN) == staged["token"])

    def discard(self, path: str, staged: Staged) -> None:
        self.delete([staged["upload"]])

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        return hidden_below(self.store, prefix)
