"""The runs of this machine that are active now, as the commands that look at them need them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.cli import common
from dataflare.errors import Blame, RunError, SystemError_
from dataflare.model.run_status import UnknownStatus

if TYPE_CHECKING:
    from dataflare.observability.view import RunView

NOT_RUNNING = "E0814"
OTHER: UnknownStatus = "of another version of DataFlare"
SILENT: UnknownStatus = "does not answer"
"""The status of a run whose process does not answer."""
_PATIENCE_S = 6.0


def view_of(folder: Path, patience_s: float = _PATIENCE_S) -> RunView | None:
    """The run of a workflow's folder at this moment; with the status SILENT if its process does not answer. None if none is
    active."""
    from dataflare.observability.door import NotRunning, ask
    from dataflare.observability.view import ProcessView, RunView

    try:
        return RunView.from_json(next(ask(folder, "view", patience_s=patience_s)))
    except (TimeoutError, RunError):
        now = time.time()
        return RunView(folder.name, "", SILENT, now, now, 0.0, ProcessView(0, 0.0))
    except ValueError:
        # It is of another version, whose views are others.
        now = time.time()
        return RunView(folder.name, "", OTHER, now, now, 0.0, ProcessView(0, 0.0))
    except (NotRunning, StopIteration, OSError):
        return None


def views(workflow: str | None, file: Path | None, cluster: str | None = None) -> list[RunView]:
    """The runs that are active now: of this machine, or of a cluster."""
    if cluster is None:
        return [view for folder in folders(workflow, file) if (view := view_of(folder))]
    from dataflare.jobs.whole_cluster import run_views

    if workflow is None and file is not None:
        workflow = common.read_workflow(file).name
    return [*run_views(cluster, workflow)]


def folders(workflow: str | None, file: Path | None) -> list[Path]:
    """The folder of a workflow, or those of all workflows of this home."""
    if workflow is None and file is not None:
        workflow = common.read_workflow(file).name
    if workflow is not None:
        return [common.workflow_folder(workflow, file)]
    return [common.home() / name for name in common.known_workflows()]


def not_running(workflow: str) -> RunError:
    return RunError(
        f"no run of '{workflow}' is active here",
        code=NOT_RUNNING,
        blame=Blame.USER,
        help=f"see dataflare runs {workflow}; only runs that 'dataflare run' began answer commands, not those that a Python program began",
    )


def answers_of(folder: Path, what: str, **more: Any) -> Iterator[dict[str, Any]]:
    """As `ask`. Raises RunError (E0814) if no run is active."""
    from dataflare.observability.door import NotRunning, ask

    try:
        yield from ask(folder, what, **more)
    except NotRunning:
        raise not_running(folder.name) from None
    except TimeoutError:
        raise SystemError_(
            f"the run of '{folder.name}' does not answer",
            code="E0607",
            help="see what its process does",
        ) from None
