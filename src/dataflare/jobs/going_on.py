"""The state with which a new run goes on from the one that finished before it.

Sources that carry a position give only rows that earlier runs have not read. A step that gives changes
or remembers keys (`StatefulOperator.goes_on`) then needs what it kept of those, or its results would be of the new rows
alone. Its tables are in the last checkpoint of the run before.

Always true: a step has either all of its state or none, and the user is told of a step that has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot
from dataflare.checkpoint.store import Storage
from dataflare.engine.deploy import layout_of
from dataflare.engine.operating import layout_before, share_of
from dataflare.planner import Plan
from dataflare.planner.physical import Stage
from dataflare.planner.written_as import going_on
from dataflare.state.layout import difference

StateByStep = Mapping[str, Sequence[OperatorSnapshot]]


def state_before(
    plan: Plan, store: Storage, base_epoch: int, carried: Mapping[str, object]
) -> tuple[StateByStep, list[str]]:
    """The state of each step that goes on, and what to tell of steps that begin anew. base_epoch: the last epoch of
    the finished run; carried: by source, where this run begins. Blocking."""
    steps = {
        name: sources
        for name, sources in going_on(plan.graph).items()
        if any(carried.get(source) for source in sources)
    }
    stages = [stage for stage in plan.stages.stages if stage.operator and stage.name in steps]
    if not stages or not base_epoch:
        return {}, []
    before = _manifest(store, base_epoch)
    found: dict[str, Sequence[OperatorSnapshot]] = {}
    told = []
    for stage in stages:
        shares = before.operators.get(stage.name, ()) if before is not None else ()
        reason = _unusable(plan, stage, shares, before)
        if reason is None:
            found[stage.name] = shares
        else:
            told.append(
                f"step '{stage.name}' begins anew, because {reason}: its results are those of the rows that this run "
                "reads; --fresh reads all rows again"
            )
    return found, told


def _manifest(store: Storage, epoch: int) -> Manifest | None:
    for fact in store.list_manifests(thorough=True):
        if fact.epoch == epoch:
            return fact.manifest
    return None


def _unusable(
    plan: Plan, stage: Stage, shares: Sequence[OperatorSnapshot], before: Manifest | None
) -> str | None:
    """Why a step cannot go on; None if it can."""
    if before is None:
        return "the last checkpoint of the run before is missing or damaged"
    if not shares:
        return "the run before had no state of it"
    old, new = layout_before(shares), layout_of(plan.stages, stage)
    if old is None or new is None:
        return "the state in the last checkpoint does not say what it means"
    tables = {name for share in shares for name, chunks in share_of(share).chunks.items() if chunks}
    reason = difference(old, new, tables)
    return None if reason is None else f"it has changed since the run before ({reason})"
