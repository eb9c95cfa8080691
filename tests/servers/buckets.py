"""An object store that tests write to: how to reach it, and its empty bucket or container `lake`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Buckets:
    """A server. scheme: of its URLs. environment: what the clients read."""

    scheme: str
    environment: Mapping[str, str]

    @property
    def store(self) -> Any:
        """An obstore client of the bucket `lake`. The environment must be that of the server."""
        from obstore.store import from_url

        options: Any = {"allow_http": True}
        return from_url(f"{self.scheme}://lake", client_options=options)

    def empty(self) -> None:
        import obstore

        store = self.store
        names = [each["path"] for part in obstore.list(store) for each in part]
        if names:
            obstore.delete(store, names)
