"""The logs that servers keep for the sources of a workflow: shown, and dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import RunLog
from dataflare.checkpoint.source_record import SourceRecord
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import DataFlareError, WorkflowError, did_you_mean
from dataflare.jobs.lineage import newest_of, storage_of
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.logs import KeptLog, SupportsLog
from dataflare.workflow.load import bind as bind_config

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

T = TypeVar("T")


def kept_logs(workflow: Workflow, home: Path) -> dict[str, KeptLog]:
    """By source that follows a log, what its server keeps."""
    positions = _positions(workflow, home)
    found = _kept(workflow, home, positions)
    # A run that has moved on meanwhile has let the server forget the log behind these positions.
    if any(log.lost for log in found.values()) and (now := _positions(workflow, home)) != positions:
        found = _kept(workflow, home, now)
    return found


def _kept(
    workflow: Workflow, home: Path, positions: Mapping[str, Mapping[str, Any]]
) -> dict[str, KeptLog]:
    found = _asked(
        workflow,
        home,
        [*workflow.sources],
        lambda step, source: source.kept_log(positions.get(step, {})),
    )
    return {step: log for step, log in found.items() if log is not None}


def _positions(workflow: Workflow, home: Path) -> Mapping[str, Mapping[str, Any]]:
    """By source that goes on where the last run ended, where that is, as JSON."""
    current = RunLog(workflow_folder(home, workflow.name)).current()
    if current is None:
        return {}
    manifest = None if current.finished else newest_of(workflow, home, current.lineage)
    if manifest is None or manifest.epoch <= current.base_epoch:
        return current.carried
    store = LocalStore(storage_of(workflow, home), current.lineage)
    found: dict[str, Mapping[str, Any]] = dict(current.carried)
    for name, snapshot in manifest.sources.items():
        # A source that follows a log has one split.
        for position in SourceRecord.read(store, snapshot).positions(store).values():
            found[name] = position.value
    return found


def drop_logs(workflow: Workflow, home: Path, step: str | None) -> dict[str, list[str]]:
    """Let the servers forget them, and say what was dropped, by source. step: only of this source."""
    if step is not None and step not in workflow.sources:
        raise WorkflowError(
            f"there is no source '{step}' in the workflow '{workflow.name}'",
            code="E0108",
            help=did_you_mean(step, workflow.sources),
        )
    steps = [*workflow.sources] if step is None else [step]
    return _asked(workflow, home, steps, lambda _, source: source.drop_log())


def _asked(
    workflow: Workflow,
    home: Path,
    steps: Sequence[str],
    ask: Callable[[str, SupportsLog], Awaitable[T]],
) -> dict[str, T]:
    folder = workflow_folder(home, workflow.name)
    found: dict[str, T] = {}
    for name in steps:
        step = workflow.sources[name]
        try:
            class_ = registry.source(step.type)
            if not issubclass(class_, SupportsLog):
                continue
            config = bind_config(class_.Config, step.config, step=name)
            source = class_(config, ConnectorContext(name, workflow.base, folder=folder))
            found[name] = asyncio.run(ask(name, source))  # type: ignore[arg-type]
        except DataFlareError as error:
            raise error.at(step=name, spot=step.place_of(error)) from None
    return found
