"""The marker of a step that writes to a store: a hidden object beside its files.

Always true: it is replaced only where it still is what was read (a conditional put), so of two attempts that begin at the
same time one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from msgspec.structs import asdict

from dataflare.connectors.file.marker import VERSION, FileMarker, MarkerRecord, checksum_of
from dataflare.errors import RunError
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.stores.uploads import Uploads

_TRIES = 5


class StoredMarker(FileMarker):
    """prefix: the path of the folder, without a slash at its end. hidden: the start of the paths of objects that
    a step keeps beside its files."""

    def __init__(self, uploads: Uploads, prefix: str, context: DestinationContext) -> None:
        super().__init__(Path(prefix), context)
        self._uploads = uploads
        parent, slash, name = prefix.rpartition("/")
        self.hidden = f"{parent}{slash}.{name}.dataflare-" if name else ".dataflare-"
        number = xxhash.xxh3_64_hexdigest(f"{context.workflow}/{context.step}".encode())[:8]
        self._path_there = f"{self.hidden}{number}.json"

    def read(self) -> MarkerRecord | None:
        return self._read()[0]

    def _read(self) -> tuple[MarkerRecord | None, Any]:
        """The record, and the version of the object that holds it."""
        found = self._uploads.get(self._path_there)
        if found is None:
            return None, None
        data, version = found
        try:
            value = json.loads(data)
            if value["version"] != VERSION or value["checksum"] != checksum_of(value["marker"]):
                return None, version
            record = MarkerRecord(**value["marker"])
        except (ValueError, KeyError, TypeError):
            return None, version
        same = (record.workflow, record.step) == (self._context.workflow, self._context.step)
        return (record if same else None), version

    @contextmanager
    def lock(self) -> Iterator[None]:
        """There are no locks; what makes files visible fails where a newer attempt has removed what was staged."""
        self._refuse_fenced()
        yield

    def begin(self, epoch: int) -> None:
        own = self.own_record()
        if own is None:
            self.write(epoch, 0, None)
            return
        back = min(own.epoch, epoch)
        self.write(back, own.rows, own.manifest if back == own.epoch else None)

    def write(self, epoch: int, rows: int, manifest: str | None) -> None:
        context = self._context
        if not context.workflow:
            return
        record = MarkerRecord(
            context.workflow,
            context.step,
            context.lineage,
            context.attempt,
            context.token,
            epoch,
            rows,
            manifest,
        )
        marker: dict[str, Any] = asdict(record)
        value = {"version": VERSION, "checksum": checksum_of(marker), "marker": marker}
        data = json.dumps(value, sort_keys=True).encode()
        for _ in range(_TRIES):
            before, version = self._read()
            if before is not None and before.lineage == context.lineage:
                self._refuse_fenced()
            if before == record or self._uploads.put(self._path_there, data, version):
                return
        raise RunError(
            f"step '{context.step}': other runs write {self._uploads.store.url(self._path_there)} all the time",
            code="E0804",
            step=context.step,
            help="let one state folder write there",
        )
