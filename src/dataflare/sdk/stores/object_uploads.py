"""Small objects of a bucket or a container: read, deleted, and written where they still have a version."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dataflare.sdk.stores.objects import ObjectPlace
from dataflare.sdk.stores.store import Store
from dataflare.sdk.stores.uploads import Uploads


class ObjectUploads(Uploads):
    """What the writing sides of all object stores have in common."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        assert isinstance(store, ObjectPlace)
        self._place = store

    def delete(self, paths: Collection[str]) -> None:
        with self._place.errors("deleting", next(iter(paths), "")):
            for path in paths:
                try:
                    self._place.library.delete(self._place.client, path)
                except FileNotFoundError:
                    continue

    def get(self, path: str) -> tuple[bytes, Any] | None:
        with self._place.errors("reading", path):
            try:
                answer = self._place.library.get(self._place.client, path)
                data = bytes(answer.bytes())
            except FileNotFoundError:
                return None
            version = {name: answer.meta.get(name) for name in ("e_tag", "version")}
            return data, {name: value for name, value in version.items() if value is not None}

    def put(self, path: str, data: bytes, version: Any = None) -> bool:
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        mode = "create" if version is None else version
        with self._place.errors("writing", path):
            try:
                self._place.library.put(self._place.client, path, data, mode=mode)
            except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError):
                return False
        return True
