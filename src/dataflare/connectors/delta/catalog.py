"""The Delta tables below a folder of this machine or of an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dataflare.connectors.delta.config import DeltaPlace
from dataflare.sdk.catalog import Entry, named_below
from dataflare.sdk.context import ConnectorContext, has_scheme
from dataflare.sdk.stores.options import StorageOptions

_LOG = "_delta_log"


def tables_below(place: DeltaPlace, context: ConnectorContext) -> list[Entry]:
    """The tables, by their paths as the config has the place's. Raises SystemError_ for a store that is away."""
    listed = (
        _stored(place.path, place.storage, context)
        if has_scheme(place.path)
        else _local(place.path, context)
    )
    return [
        Entry(path, "table", {"path": path}, None, *named_below(path, [place.path]))
        for path in sorted(set(listed))
    ]


def _local(path: str, context: ConnectorContext) -> Iterator[str]:
    top = context.path(path)
    context.policy.check_path(top, context.step)
    for folder, names, _ in os.walk(top):
        if _LOG in names:
            names.clear()
            yield (Path(path) / Path(folder).relative_to(top)).as_posix()
        names[:] = [name for name in names if not name.startswith((".", "_"))]


def _stored(url: str, storage: StorageOptions, context: ConnectorContext) -> Iterator[str]:
    from dataflare.sdk.stores.store import open_store

    store, path = open_store(url, storage, context.step)
    root = f"{path.rstrip('/')}/" if path else ""
    for file in store.list(root):
        table, mark, _ = f"/{file.path}".partition(f"/{_LOG}/")
        if mark:
            yield store.url(table.removeprefix("/"))
