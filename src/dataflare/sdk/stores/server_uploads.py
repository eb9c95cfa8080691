"""Write files to servers that can rename: under a hidden name beside the final one, to which they are renamed.

Always true: a name has the whole old file or the whole new one, where the server replaces a file by a rename; on another
server there is a moment without a file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.stores.uploads import (
    Staged,
    Unfinished,
    Uploads,
    hidden_below,
    hidden_path,
    staged_is_gone,
)

PIECE = 4 << 20


class ServerUploads(Uploads):
    """The writing side of a server."""

    @abstractmethod
    def send(self, local: Path, hidden: str) -> str:
        """Write a file, and its folders; gives its digest."""

    @abstractmethod
    def rename(self, hidden: str, path: str) -> bool:
        """Whether there was something to rename. It takes the place of what has the name."""

    @abstractmethod
    def digest(self, path: str) -> str | None:
        """Of a file that is there."""

    def stage(self, local: Path, path: str, token: str) -> Staged:
        hidden = hidden_path(path, token)
        crash_point("store.upload.begun")
        digest = self.send(local, hidden)
        crash_point("store.upload.staged")
        return {"upload": hidden, "token": token, "size": local.stat().st_size, "digest": digest}

    def publish(self, path: str, staged: Staged) -> None:
        renamed = self.rename(staged["upload"], path)
        if not renamed and self.digest(path) != staged["digest"]:
            raise staged_is_gone(self.store.url(path))
        crash_point("store.upload.renamed")

    def discard(self, path: str, staged: Staged) -> None:
        self.delete([staged["upload"]])

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        return hidden_below(self.store, prefix)
