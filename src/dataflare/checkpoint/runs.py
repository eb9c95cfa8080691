"""The history of a workflow's runs, and which lineage its next run belongs to.

Always true:
- `current.json` decides what a run continues, and whether the last one finished: it carries its
  checksum and its workflow's name, so a damaged or foreign one is an error, never "no run yet";
- the records in `runs/` are for people: one that cannot be read is left out;
- a record that says "running" is believed only while its run holds the lock;
- a record holds no secret that this process knows.
"""

from __future__ import annotations

import json
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
from dataflare.security.redact import redact_all

KEEP_RUNS = 500
_CURRENT_VERSION = 2
_UNCHECKED_VERSION = 1
"""The version before it carried a checksum."""
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
    """One run. status: running, finished, failed, stopped or killed (it ended without a word).

    file: the workflow's file; times: RFC 3339, UTC. resumed_from: an epoch, or None for a run from
    the beginning. counts, settings, fingerprints: by step or name. carried: by source, what the
    next run starts from.
    """

    run_id: str
    workflow: str
    lineage: str
    attempt: int
    started_at: str
    file: str | None = None
    status: str = "running"
    ended_at: str | None = None
    resumed_from: int | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    error: RunFailure | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        known = cls.__struct_fields__
        record = cls(**{name: each for name, each in value.items() if name in known})
        failure = value.get("error")
        return replace(record, error=RunFailure(**failure) if failure else None)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "error": asdict(self.error) if self.error else None}


class Current(Struct, frozen=True):
    """What the next run continues. finished: the last run of this lineage came to its end;
    attempt: the last one that began; carried: by source, from the last finished run; base_epoch:
    the last epoch of that run, so that later ones are the unfinished run's; last_epoch: of the newest
    checkpoint that was published, so that a missing one is noticed; learned: by source, the columns
    that its rows have and its schema lacks; starts_over: the unfinished run begins again, because
    what it wrote lacks columns that it has learned; targets: by destination, the place it writes to."""

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


class RunLog:
    """The run history in a workflow's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, record: RunRecord) -> None:
        """Note that a run began. Called while it holds the lock."""
        with files.writing("the run history"):
            files.make_folder(self._runs)
            for folder in (self.folder, self._runs):
                files.remove_temporaries(folder)
            for name in self._names()[KEEP_RUNS - 1 :]:
                (self._runs / name).unlink(missing_ok=True)
        self._write(record)

    def finish(self, record: RunRecord) -> None:
        """Note how a run ended: the record with its status, end, counts and error."""
        self._write(record)

    def list(self, limit: int | None = None) -> Sequence[RunRecord]:
        """The runs, newest first."""
        state, finished = lock.look(self.folder), self._last_finished()
        readable = (record for record in map(self._read, self._names()) if record)
        return tuple(_as_it_is(record, state, finished) for record in islice(readable, limit))

    def last(self) -> RunRecord | None:
        """The newest run."""
        return next(iter(self.list(1)), None)

    def find(self, run_id: str) -> RunRecord | None:
        """The run with this id."""
        record = self.read(run_id)
        if record is None:
            return None
        return _as_it_is(record, lock.look(self.folder), self._last_finished())

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
        """What the next run continues; None before the first run. Raises CheckpointError (E0701)."""
        path = self.folder / "current.json"
        try:
            value = json.loads(path.read_bytes())
            if value["version"] == _CURRENT_VERSION:
                if value["checksum"] != _checksum(value["state"]):
                    raise ValueError("its checksum does not match its content")
                if value["workflow"] != self.folder.name:
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
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"what the last run left cannot be read: current.json: {error}",
                code="E0701",
                help="restore the checkpoint folder from a backup, or start over with --fresh",
            ) from error

    def set_current(self, current: Current) -> None:
        """Decide, durably, what the next run continues."""
        with files.writing("the run's lineage"):
            files.make_folder(self.folder)
            files.write_whole(
                self.folder / "current.json",
                _json(
                    {
                        "version": _CURRENT_VERSION,
                        "workflow": self.folder.name,
                        "checksum": _checksum(asdict(current)),
                        "state": asdict(current),
                    }
                ),
            )

    @property
    def _runs(self) -> Path:
        return self.folder / "runs"

    def _names(self) -> Sequence[str]:
        try:
            names = os.listdir(self._runs)
        except FileNotFoundError:
            return []
        found = (n for n in names if n.endswith(".json") and not n.startswith(files.TEMPORARY))
        return sorted(found, reverse=True)

    def _read(self, name: str) -> RunRecord | None:
        try:
            return RunRecord.from_json(json.loads((self._runs / name).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, record: RunRecord) -> None:
        with files.writing("the run history"):
            shown = redact_all(record.to_json())
            files.write_whole(self._runs / f"{record.run_id}.json", _json(shown))


def learned_by(home: Path, workflow: str) -> Mapping[str, Columns]:
    """By source, the columns that earlier runs of a workflow found in its rows and its schema lacks.
    Nothing, where that cannot be read: the run itself says what is wrong there."""
    try:
        current = RunLog(files.workflow_folder(home, workflow)).current()
    except CheckpointError:
        return {}
    return {} if current is None else current.learned


def carried_by(home: Path, workflow: str) -> Mapping[str, Any]:
    """By source, what the next run of a workflow starts from. Nothing, where that cannot be read, and
    where a run is to be resumed from a checkpoint: that one has its listing already."""
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
    """26 letters and digits whose order is the order of time (a ULID: 48 bits of milliseconds, 80
    of chance)."""
    number = (int(clock() * 1000) << 80) | int.from_bytes(entropy(10), "big")
    return "".join(_DIGITS[(number >> shift) & 31] for shift in range(125, -1, -5))


def utc_text(seconds: float) -> str:
    """A time since 1970 as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _as_it_is(record: RunRecord, state: lock.LockState, finished: str | None) -> RunRecord:
    """finished: the id of the last run, if it finished."""
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
