"""What the commit protocol needs of a lake: one version of a table, its files, and a commit that succeeds
only on top of that version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.errors import DataError, Retry, SystemError_
from dataflare.model.types import Schema


class Bounds(Struct, frozen=True):
    """The least and the greatest value of a column in a file. A text may be cut: then it is not less
    than the cut value, or not greater than every text that begins with it."""

    low: Any
    high: Any


class DataFile(Struct, frozen=True):
    """A data file of a version. path: unique in the table. rows: None if the table does not say. bounds: by
    column, where they are known. handle: the library's object, or JSON that makes it again."""

    path: str
    rows: int | None
    handle: Any
    num_bytes: int = 0
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Change(Struct):
    """What one commit does. markers: the text of each marker by its slot; None removes it. label: for the
    table's history, by name. counters: epochs by the name of their writer. replaces_all: whether all older rows
    go. may_move: whether it may be made on a later version, whatever other writers did."""

    adds: Sequence[DataFile]
    removes: Sequence[DataFile]
    markers: Mapping[str, str | None]
    label: Mapping[str, str]
    counters: Mapping[str, int]
    replaces_all: bool = False
    may_move: bool = False


class Conflict(SystemError_):
    """Another writer has committed since the version was loaded. Nothing of the change is in the table."""

    def __init__(self, label: str, detail: str) -> None:
        super().__init__(
            f"another writer changed {label} in the same moment: {detail}",
            code="E0605",
            retry=Retry.LATER,
            help="run again: the run continues from the last checkpoint",
        )
        self.retry_after_s = 0.0


class FileWriter(ABC):
    """Writes rows to new data files of a table. Blocking."""

    @abstractmethod
    def add(self, frame: pl.DataFrame) -> None:
        """Add rows that have the table's columns and types, in its order."""

    @abstractmethod
    def finish(self) -> list[DataFile]:
        """End the files, and return them."""

    @abstractmethod
    def discard(self) -> None:
        """Remove all that was written. Never raises."""


class LakeTable(ABC):
    """A version of a table, loaded. Blocking; one thread at a time."""

    label: str
    """For messages."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The columns, as rows are written and read."""

    @property
    def required(self) -> Sequence[str]:
        """The columns that take no NULL."""
        return ()

    @abstractmethod
    def files(self) -> Sequence[DataFile]:
        """The data files of this version, in an order that is the same each time."""

    @abstractmethod
    def read(self, file: DataFile, columns: Sequence[str], skip: int = 0) -> Iterator[pl.DataFrame]:
        """The rows of a file behind the first `skip`, in their order, in frames of a bounded size."""

    @abstractmethod
    def writer(self, prefix: str) -> FileWriter:
        """A writer of files whose names begin with the prefix."""

    @abstractmethod
    def marker(self, slot: str) -> str | None:
        """The text of a marker in this version."""

    @abstractmethod
    def commit(self, change: Change) -> None:
        """Make the next version. Raises Conflict if this one is not the last any more."""

    @abstractmethod
    def refuse_mode(self, mode: str) -> None:
        """Raise an error if rows cannot be written so, because of a feature of the table."""

    @abstractmethod
    def evolve(self, schema: Schema) -> LakeTable:
        """Add the columns that the table lacks, and widen types. In a commit of its own: no row has
        another value after it. Returns the new version."""

    def unfit(self, frame: pl.DataFrame) -> Mapping[int, DataError]:
        """The rows that the table cannot hold although their types fit, by their number."""
        return {}

    def remove(self, files: Sequence[DataFile]) -> None:
        """Remove files that no version has. Never raises."""
        return

    @abstractmethod
    def file_to_json(self, file: DataFile) -> Any:
        """A file that is written and not in the table yet, for a marker."""

    @abstractmethod
    def file_from_json(self, value: Any) -> DataFile:
        """See `file_to_json`. Raises an error if the file is gone."""
