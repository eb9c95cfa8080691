"""Which tables a run reads: those that its sources have now, or those that the unfinished run began with.

Always true: an unfinished run goes on with its tables. One that has come since is read by the next run.
"""

from __future__ import annotations

from collections.abc import Set

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.runs import RunLog
from dataflare.errors import CheckpointError
from dataflare.jobs.lineage import newest_of
from dataflare.jobs.options import RunOptions
from dataflare.planner.families import expanded, reads_many
from dataflare.resilience.retry import Retries
from dataflare.sdk.threads import in_thread
from dataflare.workflow.model import Workflow


async def expanded_to_run(workflow: Workflow, options: RunOptions, retries: Retries) -> Workflow:
    """The workflow with a step for each table that the run reads, and for each history that it keeps."""
    if not any(reads_many(step) for step in workflow.sources.values()):
        return await expanded(workflow)
    manifest = await in_thread(_unfinished, workflow, options)
    only = {name: _tables(manifest, name) for name in workflow.sources} if manifest else None
    folder = workflow_folder(options.home, workflow.name)
    return await expanded(
        workflow, policy=options.policy, retries=retries, folder=folder, only=only
    )


def _unfinished(workflow: Workflow, options: RunOptions) -> Manifest | None:
    """The last checkpoint of a run that this one goes on from. Blocking."""
    if options.fresh or options.savepoint is not None or options.accept_changes:
        return None
    try:
        current = RunLog(workflow_folder(options.home, workflow.name)).current()
    except CheckpointError:  # told when the lineage is read
        return None
    if current is None or current.finished:
        return None
    manifest = newest_of(workflow, options.home, current.lineage)
    return manifest if manifest is not None and manifest.epoch > current.base_epoch else None


def _tables(manifest: Manifest, source: str) -> Set[str]:
    before = f"{source}."
    return {name.removeprefix(before) for name in manifest.fingerprints if name.startswith(before)}
