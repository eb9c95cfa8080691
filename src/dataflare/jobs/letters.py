"""The dead letters of a workflow on this machine: find, read and delete them.

Always true:
- a letter is identified by its id; the ledger has the replayed ones, which are never replayed again;
- a file keeps its length when letters are deleted, so that a resumed run recognises it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Struct
from msgspec.structs import asdict

from dataflare.checkpoint import files
from dataflare.checkpoint.home import BACKFILLS, shards_of
from dataflare.checkpoint.lock import RunLock, lock_state
from dataflare.checkpoint.runs import RunLog, new_run_id, utc_text
from dataflare.planner.dead_letters import STEP, error_handling, may_fail_there

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

REPLAY_FOLDER = "replay"
"""The folder of replays, inside the workflow's folder."""
_LEDGER = "replayed.json"
_KEYS = {"id", "step", "code", "message", "failed_at", "row"}


class Letter(Struct, frozen=True):
    """One dead letter. failed_at: RFC 3339, UTC. row: the original row. position: its place in the source.
    neighbours: hashes of the rows beside it, by which its place in a file is found again."""

    id: str
    step: str
    code: str
    message: str
    attempts: int
    failed_at: str
    run_id: str
    position: str | None
    row: Mapping[str, Any]
    neighbours: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Wanted(Struct, frozen=True):
    """A condition for letters; None matches all. before: RFC 3339, UTC."""

    step: str | None = None
    code: str | None = None
    before: str | None = None

    def __call__(self, letter: Letter) -> bool:
        return (
            self.step in (None, letter.step)
            and self.code in (None, letter.code)
            and (self.before is None or letter.failed_at < self.before)
        )


class LetterBox:
    """The dead letters of a workflow, with those of its backfills' shards that do not run now. folder: the workflow's; places: more
    folders or files with letters."""

    def __init__(self, folder: Path, places: Iterable[Path] = ()) -> None:
        self.folder = folder
        shards = (shard / STEP for shard in shards_of(folder) if not lock_state(shard).held)
        self.places = list(dict.fromkeys((folder / STEP, *places, *shards)))

    def letters(self) -> list[Letter]:
        """All letters, oldest first, with replayed ones."""
        letters = {
            letter.id: letter
            for file in self._files()
            for line in file.read_bytes().split(b"\n")
            if (letter := _letter(line)) is not None
        }
        return sorted(letters.values(), key=lambda letter: letter.failed_at)

    def waiting(self) -> list[Letter]:
        """The letters that have not been replayed."""
        replayed = self.replayed()
        return [letter for letter in self.letters() if letter.id not in replayed]

    def replayed(self) -> set[str]:
        """The ids of replayed letters."""
        try:
            return set(json.loads((self.folder / REPLAY_FOLDER / _LEDGER).read_bytes())["ids"])
        except FileNotFoundError:
            return set()

    def mark_replayed(self, ids: Iterable[str]) -> None:
        """Record durably that these letters were replayed."""
        self._write_ledger(self.replayed().union(ids))

    def purge(self, matches: Callable[[Letter], bool]) -> int:
        """Delete letters from their files. Returns how many were deleted."""
        deleted = 0
        for file in self._files():
            lines = file.read_bytes().split(b"\n")
            new_lines = [line if _stays(line, matches) else b" " * len(line) for line in lines]
            if new_lines == lines:
                continue
            deleted += sum(
                old_line != new_line for old_line, new_line in zip(lines, new_lines, strict=True)
            )
            with files.writing("dead letters"):
                # The next attempt of an unfinished run checks its files by their length.
                if self._ended(file) and not any(line.strip() for line in new_lines):
                    file.unlink()
                    files.sync_folder(file.parent)
                else:
                    files.write_whole(
                        file, b"\n".join(new_lines), mode=S_IMODE(file.stat().st_mode)
                    )
        replayed = self.replayed()
        if replayed:
            self._write_ledger(replayed & {letter.id for letter in self.letters()})
        return deleted

    def _ended(self, file: Path) -> bool:
        """Whether the run that has written a file has finished."""
        of_shard = file.parents[1].is_relative_to(self.folder / BACKFILLS)
        current = RunLog(file.parents[1] if of_shard else self.folder).current()
        return current is None or current.finished

    def _write_ledger(self, ids: set[str]) -> None:
        with files.writing("the ledger of replayed letters"):
            files.make_folder(self.folder / REPLAY_FOLDER)
            data = json.dumps({"version": 1, "ids": sorted(ids)}).encode()
            files.write_whole(self.folder / REPLAY_FOLDER / _LEDGER, data)

    def _files(self) -> Iterator[Path]:
        for place in self.places:
            if place.is_file():
                yield place
            elif place.is_dir():
                yield from sorted(place.glob("*.ndjson"))

    @property
    def has_single_file(self) -> bool:
        """Whether letters are written to one file, which each run rewrites."""
        return any(place.is_file() for place in self.places)


def local_place(workflow: Workflow, path: str) -> Path:
    """Where a path that the workflow names for its letters is on this machine."""
    return (workflow.base / Path(path).expanduser()).absolute()


def letter_places(workflow: Workflow) -> tuple[list[Path], set[str]]:
    """The paths that the workflow names for its letters, and the types of other destinations for them."""
    places, elsewhere = [], set()
    for step in workflow.steps():
        spec = error_handling(workflow, step.name).dead_letter
        if spec is None or not may_fail_there(workflow, step.name):
            continue
        if spec.path is not None:
            places.append(local_place(workflow, spec.path))
        else:
            elsewhere.add(str(spec.type))
    return places, elsewhere


def _stays(line: bytes, matches: Callable[[Letter], bool]) -> bool:
    letter = _letter(line)
    return letter is None or not matches(letter)


def _letter(line: bytes) -> Letter | None:
    """The letter in a line of NDJSON, or None."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        value = orjson.loads(line)
        if value.keys() >= _KEYS:
            row = orjson.loads(value["row"])
            return Letter(
                value["id"],
                value["step"],
                value["code"],
                value["message"],
                value.get("attempts") or 1,
                value["failed_at"],
                value.get("run_id") or "",
                value.get("position"),
                row,
                value.get("neighbours"),
            )
    return None


def purge(box: LetterBox, matches: Callable[[Letter], bool]) -> int:
    """Delete letters. Raises RunError (E0801) while letters are replayed and, if letters are in one
    file that a run rewrites, while the workflow runs."""
    run_id, now = new_run_id(), utc_text(time.time())
    with contextlib.ExitStack() as locks:
        locks.enter_context(RunLock(box.folder / REPLAY_FOLDER, run_id, now))
        if box.has_single_file:
            locks.enter_context(RunLock(box.folder, run_id, now))
        return box.purge(matches)
