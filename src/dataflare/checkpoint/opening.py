"""Open the store of what a workflow's next run continues, for commands that do not read the workflow's file."""

from __future__ import annotations

from pathlib import Path

from dataflare.checkpoint.object_store import Bucket, ObjectStore
from dataflare.checkpoint.runs import Current
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.checkpoint.store import LocalStore


def store_of(folder: Path, current: Current) -> LocalStore:
    """The checkpoints of the current lineage. folder: the workflow's."""
    if "://" in current.storage:
        return ObjectStore(Bucket(current.storage), folder, current.lineage)
    return LocalStore(_storage(folder, current), current.lineage)


def savepoints_of(folder: Path, current: Current) -> Savepoints:
    """The savepoints of a workflow; beside a bucket they are in the workflow's folder."""
    return Savepoints(_storage(folder, current))


def _storage(folder: Path, current: Current) -> Path:
    return folder if not current.storage or "://" in current.storage else Path(current.storage)
