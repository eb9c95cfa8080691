"""Ask a run for a savepoint, through files in the workflow's folder.

    <home>/<workflow>/asked/<name>            an empty file: please take this savepoint
    <home>/<workflow>/asked/<name>.refused    why it was not taken

The request is removed when the savepoint is there. A run looks at least once a second, and less often where more than a
hundred share a process. The code blocks.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from dataflare.checkpoint import files
from dataflare.checkpoint.lock import RunLock, lock_state
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.opening import savepoints_of, store_of
from dataflare.checkpoint.runs import Current, RunLog, utc_text
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import Blame, DataFlareError, RunError, SystemError_

_FOLDER, _REFUSED = "asked", ".refused"
_PAUSE_S, _PATIENCE_S = 0.05, 120.0


def savepoint(folder: Path, name: str, *, patience_s: float = _PATIENCE_S) -> Manifest:
    """Keep the last checkpoint of a workflow under a name; a run that is active takes one now. folder: the
    workflow's. Raises RunError (E0809) if that is not possible."""
    current = RunLog(folder).current()
    if current is None:
        raise _impossible(folder, "it has no state yet")
    savepoints = savepoints_of(folder, current)
    savepoints.check_free(name)
    if lock_state(folder).held:
        return _ask(folder, name, savepoints, patience_s)
    with RunLock(folder, f"savepoint {name}", utc_text(time.time())):
        return _of_stopped(folder, name, savepoints)


def _of_stopped(folder: Path, name: str, savepoints: Savepoints) -> Manifest:
    current = RunLog(folder).current()
    assert current is not None
    if current.finished:
        raise _impossible(
            folder, "its last run finished, and the next one begins with what sources carry over"
        )
    store = store_of(folder, current)
    facts = [fact for fact in store.list_manifests() if fact.epoch > current.base_epoch]
    manifest = next((fact.manifest for fact in facts if fact.usable), None)
    if manifest is None:
        raise _impossible(folder, "its last run has no checkpoint that can be used")
    if manifest.final:
        raise _impossible(folder, "its last run has read everything; run it once more to end it")
    savepoints.take(name, manifest, store, current)
    return manifest


def _ask(folder: Path, name: str, savepoints: Savepoints, patience_s: float) -> Manifest:
    """Ask the run that is active."""
    with files.writing("the request for a savepoint"):
        request = files.make_folder(folder / _FOLDER) / name
        refused = request.with_name(name + _REFUSED)
        refused.unlink(missing_ok=True)
        files.write_whole(request, b"")
    ends_at = time.monotonic() + patience_s
    try:
        while time.monotonic() < ends_at:
            if refused.exists():
                raise _impossible(folder, refused.read_text())
            if not request.exists() and name in savepoints.names():
                return savepoints.read(name).manifest
            if not lock_state(folder).held:
                # The run ended before it saw the request.
                with RunLock(folder, f"savepoint {name}", utc_text(time.time())):
                    if name in savepoints.names():
                        return savepoints.read(name).manifest
                    return _of_stopped(folder, name, savepoints)
            time.sleep(_PAUSE_S)
    finally:
        request.unlink(missing_ok=True)
        refused.unlink(missing_ok=True)
    raise SystemError_(
        f"the run of '{folder.name}' did not take the savepoint within {patience_s:g} s",
        code="E0610",
        help="look at what is slow, or stop the run and take the savepoint then",
    )


def may_be_asked(folder: Path) -> bool:
    """Whether a savepoint was ever asked for. One look at the folder, which takes less time than a thread to make it."""
    return os.path.exists(folder / _FOLDER)


def asked_names(folder: Path) -> list[str]:
    """The savepoints that were asked for and not answered."""
    try:
        names = os.listdir(folder / _FOLDER)
    except OSError:
        return []
    refused = {name.removesuffix(_REFUSED) for name in names if name.endswith(_REFUSED)}
    plain = (n for n in names if not n.endswith(_REFUSED) and not n.startswith(files.TEMPORARY))
    return [name for name in plain if name not in refused]


def answer(
    folder: Path,
    name: str,
    savepoints: Savepoints,
    manifest: Manifest | None,
    store: LocalStore,
    current: Current,
) -> None:
    """Take the savepoint that was asked for, or say why not. manifest: a checkpoint of the run."""
    request = folder / _FOLDER / name
    try:
        if manifest is None:
            raise _impossible(
                folder, "it commits all rows at its end, and takes no checkpoint before"
            )
        savepoints.take(name, manifest, store, current)
    except DataFlareError as error:
        files.write_whole(request.with_name(name + _REFUSED), error.message.encode())
    request.unlink(missing_ok=True)


def _impossible(folder: Path, reason: str) -> RunError:
    return RunError(
        f"no savepoint of '{folder.name}' can be taken: {reason}",
        code="E0809",
        blame=Blame.USER,
        help="take it while the workflow runs, or after a run that was stopped by --for or Ctrl-C",
    )
