"""The state with which a new run goes on from the one that finished before it.

Sources that carry a position give only rows that earlier runs have not read. A step that gives changes
or remembers keys (`StatefulOperator.goes_on`) then needs what it kept of those, or its results would be of the new rows
alone. Its tables are in the last checkpoint of the run before.

Always true: a step has either all of its state or none. A run that has a step with none is refused, or the user has
accepted it and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot
from dataflare.checkpoint.store import Storage
from dataflare.engine.deploy import layout_of
from dataflare.engine.operating import layout_before, share_of
from dataflare.errors import RunError
from dataflare.jobs.options import RunOptions
from dataflare.operators.whole_changes import WholeChanges
from dataflare.planner import Plan
from dataflare.planner.physical import Stage
from dataflare.planner.written_as import going_on
from dataflare.state.layout import difference

_KEPT_THERE = (
    "what its destination has from earlier runs stays there, and the versions that are current there stay so; empty "
    "the table where it should hold those of this run alone"
)
StateByStep = Mapping[str, Sequence[OperatorSnapshot]]


def state_before(
    plan: Plan,
    store: Storage,
    base_epoch: int,
    carried: Mapping[str, object],
    options: RunOptions,
    resumed: Manifest | None = None,
) -> tuple[StateByStep, list[str]]:
    """The state of each step that goes on, and what to tell of steps that begin anew. base_epoch: the last epoch of
    the finished run; carried: by source, where this run begins. resumed: the checkpoint of an unfinished run that goes
    on instead, which has the state itself. Blocking. Raises RunError (E0812) for a step that may not begin anew."""
    if resumed is not None:
        _refuse_unknown_rows(plan, resumed)
        return {}, []
    steps = going_on(plan.graph)
    reads_new = {
        name for name, sources in steps.items() if any(carried.get(source) for source in sources)
    }
    stages = [
        stage
        for stage in plan.stages.stages
        if (operator := stage.operator) is not None
        and stage.name in steps
        and (operator.goes_on_always or stage.name in reads_new)
    ]
    if not stages or not base_epoch:
        anew = [s.name for s in stages if options.fresh and s.name not in reads_new]
        return {}, [f"step '{name}' begins anew: {_KEPT_THERE}" for name in anew]
    before = _manifest(store, base_epoch)
    found: dict[str, Sequence[OperatorSnapshot]] = {}
    told = []
    for stage in stages:
        if before is not None and stage.name not in {*before.fingerprints, *reads_new}:
            continue  # the run before did not have it, and it gets all rows
        shares = before.operators.get(stage.name, ()) if before is not None else ()
        reason = _unusable(plan, stage, shares, before)
        if reason is None:
            found[stage.name] = shares
        elif isinstance(stage.operator, WholeChanges):
            raise _unknown_rows(plan, stage.operator, reason)
        elif options.accept_changes:
            of_new = "its results are those of the rows that this run reads; --fresh reads all rows again"
            what = of_new if stage.name in reads_new else _KEPT_THERE
            told.append(f"step '{stage.name}' begins anew, because {reason}: {what}")
        elif stage.name not in reads_new:
            raise RunError(
                f"step '{stage.name}' cannot go on where the run before ended, because {reason}: it would give "
                "versions that are there once more",
                code="E0812",
                step=stage.name,
                spot=plan.workflow.step(stage.name).spot,
                help="empty its table and use --fresh, or use --accept-changes to keep the versions that are there and "
                "begin anew",
            )
        else:
            raise RunError(
                f"step '{stage.name}' cannot go on where the run before ended, because {reason}: its results would be "
                "those of new rows alone, and its sources do not give the others again",
                code="E0812",
                step=stage.name,
                spot=plan.workflow.step(stage.name).spot,
                help="use --fresh to read all rows again, or --accept-changes to let the step begin anew with the new "
                "rows",
            )
    return found, told


def _refuse_unknown_rows(plan: Plan, resumed: Manifest) -> None:
    """The rows of a source that was read before must be known where a stage keeps the newest row of each key. Such a stage is
    not a step of the workflow: it comes and changes with the key of the source's table."""
    for stage in plan.stages.stages:
        operator = stage.operator
        if not isinstance(operator, WholeChanges) or operator.source not in resumed.fingerprints:
            continue
        reason = _unusable(plan, stage, resumed.operators.get(stage.name, ()), resumed)
        if reason is not None:
            raise _unknown_rows(plan, operator, reason)


def _unknown_rows(plan: Plan, operator: WholeChanges, reason: str) -> RunError:
    key = ", ".join(operator.keys)
    return RunError(
        f"the rows that '{operator.source}' has given are not known by its key ({key}), because {reason}: what is changed or "
        "deleted could not be taken back",
        code="E0812",
        step=operator.source,
        spot=plan.workflow.step(operator.source).spot,
        notes=["a step behind it needs the rows, or a destination has another key"],
        help=f"if the table's key has changed, set key: [{key}] in the destinations that have another one, and use "
        "--accept-changes; or empty the destinations, and read all rows again with --fresh",
    )


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
