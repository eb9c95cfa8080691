"""The history of a workflow's runs, and the lineage of its next run.

Always true:
- `current.json` decides what a run continues, and whether the last run finished. It has a checksum and
  the workflow's name, so a damaged or foreign file is an error and never read as "no run yet";
- the records in `runs/` are only shown to users; a record that cannot be read is left out;
- the status "running" in a record is trusted only while its run holds the lock;
- a record has no secret that this process knows.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash
from msgspec import Struct, field
from msgspec.structs import asdict, replace

from dataflare.checkpoint import files, lock
from dataflare.errors import CheckpointError, DataFlareError
from dataflare.model.new_fields import Columns
from dataflare.model.run_status import RecordedStatus
from dataflare.security.redact import redact_all

KEEP_RUNS = 500
_BLOCK = 4096
"""So many bytes of a file can be written over on a full disk, whatever the file had before."""
_CURRENT_VERSION = 2
_UNCHECKED_VERSION = 1
"""The version of files without a checksum."""
_UNREPORTED = b'\n "reported": 0'
"""How it stands in a record's file: a value of another key is indented deeper."""
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class RunFailure(Struct, frozen=True):
    """Why a run failed."""

    code: str
    message: str
    step: str | None = None

    @classmethod
    def of(cls, error: DataFlareError) -> RunFailure:
        return cls(error.code, error.message, error.step)


class RunRecord(Struct, frozen=True):
    """One run. status: see `model.run_status`.

    file: the workflow's file; times: RFC 3339, UTC. resumed_from: an epoch, or None for a run from
    the beginning. counts, settings, fingerprints: by step or name. carried: by source, the value that
    the next run starts from. reported: the user was told how it ended. kind: run, or replay: of dead letters.
    """

    run_id: str
    workflow: str
    lineage: str
    attempt: int
    started_at: str
    file: str | None = None
    status: RecordedStatus = "running"
    ended_at: str | None = None
    resumed_from: int | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    error: RunFailure | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reported: bool = True
    kind: str = "run"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        field_names = cls.__struct_fields__
        record = cls(**{name: each for name, each in value.items() if name in field_names})
        failure = value.get("error")
        return replace(
            record,
            error=RunFailure(**failure) if failure else None,
            reported=bool(record.reported),
        )

    def to_json(self) -> dict[str, Any]:
        """What users see of it."""
        value = {**asdict(self), "error": asdict(self.error) if self.error else None}
        del value["reported"]
        return value


class Current(Struct, frozen=True):
    """The state that the next run continues.

    attempt: the last one that began. finished: the last run of this lineage finished. carried: by
    source, from the last finished run. base_epoch: the last epoch of that run; later epochs belong to
    the unfinished run. last_epoch: that of the newest published checkpoint, to detect that it is
    missing. learned: by source, the columns that are in its rows and not in its schema. starts_over:
    the unfinished run starts from the beginning, because the rows it wrote lack learned columns.
    targets: by destination, the place it writes to. storage: the folder or URL of the checkpoints, ""
    for the workflow's folder.
    """

    lineage: str
    attempt: int
    run_id: str
    finished: bool = False
    carried: Mapping[str, Any] = field(default_factory=dict)
    base_epoch: int = 0
    last_epoch: int = 0
    learned: Mapping[str, Any] = field(default_factory=dict)
    starts_over: bool = False
    targets: Mapping[str, str] = field(default_factory=dict)
    storage: str = ""


class RunLog:
    """The run history in a workflow's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, record: RunRecord) -> None:
        """Record that a run began. Call it while the run holds the lock. It is durable before the run counts as finished."""
        with files.writing("the run history"):
            files.make_folder(self._runs)
            for folder in (self.folder, self._runs):
                files.remove_temporaries(folder)
            for name in self._names()[KEEP_RUNS - 1 :]:
                (self._runs / name).unlink(missing_ok=True)
        self._write(record, durable=False)

    def finish(self, record: RunRecord, end: Callable[[], None] = lambda: None) -> None:
        """Record how a run ended, and that the user was told; then call `end`, which may end the process.

        A process that is killed before the record says "reported" leaves the report to the next command;
        one that is killed after that, and before its end, would be started again and run again. So
        nothing lies between the two: "reported" is one byte of memory that the file shares. Losing it in
        a power cut is harmless.
        """
        try:
            path = self._write(replace(record, reported=False))
        except DataFlareError:
            path = self._written_over(replace(record, reported=False))
        try:
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
                content[content.find(_UNREPORTED) + len(_UNREPORTED) - 1] = ord("1")
                end()
        except OSError:
            # The file system cannot map files.
            self._write(record)
            end()

    def list(self, limit: int | None = None) -> Sequence[RunRecord]:
        """The runs, newest first."""
        state, finished = lock.lock_state(self.folder), self._last_finished()
        readable = (record for record in map(self._read, self._names()) if record)
        return tuple(
            _with_true_status(record, state, finished) for record in islice(readable, limit)
        )

    def last(self) -> RunRecord | None:
        """The newest run."""
        return next(iter(self.list(1)), None)

    def find(self, run_id: str) -> RunRecord | None:
        """The run with this id."""
        record = self.read(run_id)
        if record is None:
            return None
        return _with_true_status(record, lock.lock_state(self.folder), self._last_finished())

    def read(self, run_id: str) -> RunRecord | None:
        """The record of the run with this id, as it was written."""
        name = f"{run_id}.json"
        return self._read(name) if name in self._names() else None

    def _last_finished(self) -> str | None:
        """The id of the last run, if it finished."""
        try:
            current = self.current()
        except CheckpointError:
            return None
        return current.run_id if current is not None and current.finished else None

    def current(self) -> Current | None:
        """The state that the next run continues, None before the first run. Raises CheckpointError
        (E0701) if it cannot be read."""
        return read_current(self.folder / "current.json", self.folder.name)

    def set_current(self, current: Current) -> None:
        """Store durably what the next run continues."""
        with files.writing("the run's lineage"):
            files.make_folder(self.folder)
            if current.finished:
                self._settle(current.run_id)
            write_current(self.folder / "current.json", current, self.folder.name)

    def _settle(self, run_id: str) -> None:
        """Make the record of a run durable before it counts as finished: without it, the next command would not know that the
        end was not reported, and would run again."""
        try:
            with (self._runs / f"{run_id}.json").open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        files.sync_folder(self._runs)

    @property
    def _runs(self) -> Path:
        return self.folder / "runs"

    def _names(self) -> Sequence[str]:
        try:
            names = os.listdir(self._runs)
        except FileNotFoundError:
            return []
        record_names = (
            n for n in names if n.endswith(".json") and not n.startswith(files.TEMPORARY)
        )
        return sorted(record_names, reverse=True)

    def _read(self, name: str) -> RunRecord | None:
        try:
            return RunRecord.from_json(json.loads((self._runs / name).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, record: RunRecord, *, durable: bool = True) -> Path:
        path = self._path(record)
        with files.writing("the run history"):
            files.write_whole(path, _bytes(record), durable=durable)
        return path

    def _written_over(self, record: RunRecord) -> Path:
        """The record in the place that its beginning has on the disk, because the disk has no room for another: what filled
        the disk is then known. A power cut in this moment loses the record."""
        path, data = self._path(record), _bytes(record)
        if len(data) > _BLOCK:
            data = _bytes(replace(record, counts={}, carried={}))
        with files.writing("the run history"), path.open("r+b") as file:
            file.write(data)
            file.truncate()
        return path

    def _path(self, record: RunRecord) -> Path:
        return self._runs / f"{record.run_id}.json"


def _bytes(record: RunRecord) -> bytes:
    return _json({**redact_all(record.to_json()), "reported": int(record.reported)})


def read_current(path: Path, owner: str) -> Current | None:
    """The state in a file, None if there is none. owner: the workflow or savepoint that it belongs to. Raises
    CheckpointError (E0701) if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
        if value["version"] == _CURRENT_VERSION:
            if value["checksum"] != _checksum(value["state"]):
                raise ValueError("its checksum does not match its content")
            if value["workflow"] != owner:
                raise ValueError(f"it belongs to workflow '{value['workflow']}'")
            value = value["state"]
        elif value["version"] != _UNCHECKED_VERSION:
            raise ValueError(f"its version is {value['version']}, not {_CURRENT_VERSION}")
        return Current(
            value["lineage"],
            value["attempt"],
            value["run_id"],
            value["finished"],
            value["carried"],
            value["base_epoch"],
            value.get("last_epoch", 0),
            value.get("learned", {}),
            value.get("starts_over", False),
            value.get("targets", {}),
            value.get("storage", ""),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the state of the last run cannot be read: current.json: {error}",
            code="E0701",
            help="restore the checkpoint folder from a backup, or start over with --fresh",
        ) from error


def write_current(path: Path, current: Current, owner: str) -> None:
    """Write the state to a file, durably. owner: as in `read_current`. Raises OSError."""
    files.write_whole(
        path,
        _json(
            {
                "version": _CURRENT_VERSION,
                "workflow": owner,
                "checksum": _checksum(asdict(current)),
                "state": asdict(current),
            }
        ),
    )


def learned_by(home: Path, workflow: str) -> Mapping[str, Columns]:
    """By source, the columns that earlier runs found in its rows and that its schema lacks. Empty if
    the state cannot be read: the run then raises the error."""
    try:
        current = RunLog(files.workflow_folder(home, workflow)).current()
    except CheckpointError:
        return {}
    return {} if current is None else current.learned


def carried_by(home: Path, workflow: str) -> Mapping[str, Any]:
    """By source, the value that the next run of a workflow starts from. Empty if the state cannot be
    read, or if the run will resume from a checkpoint, which has the source's listing already."""
    try:
        current = RunLog(files.workflow_folder(home, workflow)).current()
    except CheckpointError:
        return {}
    if current is None or (not current.finished and current.last_epoch > current.base_epoch):
        return {}
    return current.carried


def new_run_id(
    clock: Callable[[], float] = time.time, entropy: Callable[[int], bytes] = os.urandom
) -> str:
    """A new id of 26 letters and digits. Ids sort by time (a ULID: 48 bits of milliseconds, 80 random
    bits)."""
    number = (int(clock() * 1000) << 80) | int.from_bytes(entropy(10), "big")
    return "".join(_DIGITS[(number >> shift) & 31] for shift in range(125, -1, -5))


def utc_text(seconds: float) -> str:
    """A time since 1970 as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _with_true_status(record: RunRecord, state: lock.LockState, finished: str | None) -> RunRecord:
    """The record with its true status. finished: the id of the last run, if it finished."""
    if record.status != "running":
        return record
    if record.run_id == finished:
        return replace(record, status="finished")
    runs = state.held and (state.holder is None or state.holder.run_id == record.run_id)
    return record if runs else replace(record, status="killed")


def _checksum(value: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(_json(value))


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")
