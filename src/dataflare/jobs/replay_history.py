"""The runs of replays: kept beside the workflow's own, because the folder of a batch goes when all of it is replayed.

Always true: a run that began is kept before its folder goes; the workflow's own history, by which its next run goes on,
has only its own runs.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from dataflare.checkpoint import files
from dataflare.checkpoint.runs import RunLog, RunRecord
from dataflare.jobs.letters import REPLAY_FOLDER
from dataflare.jobs.recording import FOLDER as COURSES
from dataflare.observability.logs import FOLDER as LOGS

_KEPT = 100
"""So many logs and courses of replays are kept."""


def with_replays(folder: Path, limit: int | None = None) -> Sequence[RunRecord]:
    """The runs of a workflow and of its replays, newest first. folder: the workflow's."""
    both = [*RunLog(folder).list(limit), *RunLog(folder / REPLAY_FOLDER).list(limit)]
    return sorted(both, key=lambda record: record.run_id, reverse=True)[:limit]


def folder_of_run(folder: Path, run_id: str) -> Path | None:
    """Where the record, the log and the course of a run or of a replay are; None: there is no such run."""
    places = (folder, folder / REPLAY_FOLDER)
    return next((place for place in places if RunLog(place).read(run_id) is not None), None)


def keep_runs(batch: Path, workflow: str) -> None:
    """Keep what the folder of a batch knows of its runs, under the name of the workflow."""
    state = batch.parent
    for record in RunLog(batch).list():
        kept = replace(record, workflow=workflow, kind="replay", reported=True)
        RunLog(state).start(kept)
        with suppress(OSError):  # a replay does not fail for its log
            _keep(state, record.run_id, batch, workflow)


def _keep(state: Path, run_id: str, batch: Path, workflow: str) -> None:
    named, renamed = f'"{batch.name}"'.encode(), f'"{workflow}"'.encode()
    for name in (f"{run_id}.ndjson.1", f"{run_id}.ndjson"):
        if (batch / LOGS / name).exists():
            text = (batch / LOGS / name).read_bytes()
            _put(state / LOGS, name, text.replace(named, renamed))
    course = batch / COURSES / f"{run_id}.json.gz"
    if course.exists():
        text = gzip.decompress(course.read_bytes()).replace(named, renamed)
        _put(state / COURSES, course.name, gzip.compress(text, 5))


def _put(folder: Path, name: str, data: bytes) -> None:
    """Write a file that its user alone may read, and delete the oldest ones."""
    files.make_folder(folder)
    temporary = folder / f"{files.TEMPORARY}{name}"
    with files.open_private(temporary) as file:
        file.write(data)
    temporary.replace(folder / name)
    for old in sorted(folder.glob("[0-9A-Z]*"))[:-_KEPT]:
        old.unlink(missing_ok=True)
