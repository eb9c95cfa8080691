"""What a run from a savepoint does with the state of each step, decided before anything runs. Pure.

Always true: state is used only where it means the same as before. What has no place any more is said, and what
cannot be right is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot
from dataflare.engine.deploy import layout_of
from dataflare.engine.operating import layout_before
from dataflare.errors import Blame, RunError
from dataflare.planner.physical import PhysicalPlan, Stage
from dataflare.state.layout import Layout, Moved, TableLayout, moved
from dataflare.workflow.fingerprint import fingerprint
from dataflare.workflow.model import AnyStep, Workflow

Outcome = Literal["kept", "migrated", "dropped", "new", "impossible"]


class StepChange(Struct, frozen=True):
    """What becomes of the state of one step. was: its name in the savepoint, if that is another. detail: in
    words. tables: by table, how its columns move."""

    step: str
    outcome: Outcome
    detail: str
    was: str | None = None
    tables: Mapping[str, Moved] = {}

    def to_json(self) -> dict[str, Any]:
        facts = {"step": self.step, "state": self.outcome, "detail": self.detail}
        return facts if self.was is None else {**facts, "was": self.was}


def compare(workflow: Workflow, plan: PhysicalPlan, manifest: Manifest) -> list[StepChange]:
    """The steps of the workflow in order, then those of the savepoint that are gone."""
    names = former_names(workflow, manifest)
    stages = {stage.name: stage for stage in plan.stages}
    changes = [
        _change(step, names, manifest, plan, stages.get(step.name)) for step in workflow.steps()
    ]
    used = set(names.values())
    steps_before = [*manifest.fingerprints, *manifest.sources, *manifest.operators]
    for gone in dict.fromkeys(steps_before):
        if gone not in used:
            changes.append(StepChange(gone, "dropped", _gone(gone, manifest)))
    return changes


def former_names(workflow: Workflow, manifest: Manifest) -> dict[str, str]:
    """By step, its name in the savepoint, if it is there. A step that is there under its own name does not
    need `was` any more; a new step does not get the state of one that was renamed."""
    before = manifest.fingerprints
    steps = list(workflow.steps())
    names = {s.name: s.was for s in steps if s.was in before and s.name not in before}
    renamed = set(names.values())
    kept = {s.name: s.name for s in steps if s.name in before and s.name not in renamed}
    return {name: former for name, former in (names | kept).items() if former is not None}


def refuse_impossible(workflow: Workflow, place: str, changes: Sequence[StepChange]) -> None:
    """Raise RunError (E0810) if the state of a step cannot be used. place: where it is, in words."""
    impossible = [change for change in changes if change.outcome == "impossible"]
    if not impossible:
        return
    first = impossible[0]
    raise RunError(
        f"the state of step '{first.step}' in {place} cannot be used: {first.detail}",
        code="E0810",
        blame=Blame.USER,
        step=first.step,
        spot=workflow.step(first.step).spot,
        notes=[f"step '{each.step}': {each.detail}" for each in impossible[1:]],
        help="undo the change; or give the step a new name without 'was', so that it begins without state "
        "(`dataflare plan --against` shows what becomes of each step)",
    )


def types_of(workflow: Workflow) -> dict[str, str]:
    """The section and type of each step, as a manifest holds them."""
    return {step.name: f"{step.kind} {step.type}" for step in workflow.steps()}


def _same(step: AnyStep, former: str, names: Mapping[str, str], manifest: Manifest) -> bool:
    """Whether a step is written as it was, apart from names of steps."""
    inputs = tuple(replace(ref, step=names.get(ref.step, ref.step)) for ref in step.inputs)
    return fingerprint(replace(step, inputs=inputs)) == manifest.fingerprints[former]


def _change(
    step: AnyStep,
    names: Mapping[str, str],
    manifest: Manifest,
    plan: PhysicalPlan,
    stage: Stage | None,
) -> StepChange:
    former = names.get(step.name)
    if former is None:
        if step.was is not None:
            detail = f"the savepoint has no step '{step.was}'"
            return StepChange(step.name, "impossible", detail)
        return StepChange(step.name, "new", _new(step, stage))
    was = former if former != step.name else None
    kind = f"{step.kind} {step.type}"
    type_before = manifest.types.get(former, kind)
    if type_before != kind and (former in manifest.sources or former in manifest.operators):
        detail = f"it was a {type_before}, and is a {kind}"
        return StepChange(step.name, "impossible", detail, was)
    same = _same(step, former, names, manifest)
    if step.kind == "source":
        return _source(step, former, manifest, same, was)
    if step.kind == "destination":
        return _destination(step, former, manifest, same, was)
    return _transformation(step, former, manifest, plan, stage, same, was)


def _source(
    step: AnyStep, former: str, manifest: Manifest, same: bool, was: str | None
) -> StepChange:
    source = manifest.sources.get(former)
    if source is None:
        return StepChange(step.name, "kept", "it has no position: it is a table of a lookup", was)
    done, splits = source.counts()
    detail = f"goes on at its position: {done:,} of {splits:,} split{'s' * (splits != 1)} read"
    if same:
        return StepChange(step.name, "kept", detail, was)
    return StepChange(
        step.name, "migrated", f"{detail}; its config has changed, its list of splits stays", was
    )


def _destination(
    step: AnyStep, former: str, manifest: Manifest, same: bool, was: str | None
) -> StepChange:
    if was is not None:
        detail = f"what it has written is recorded there under the name '{former}': a destination keeps its name"
        return StepChange(step.name, "impossible", detail, was)
    if same:
        return StepChange(step.name, "kept", "goes on after the rows that it has", was)
    return StepChange(
        step.name, "migrated", "its config has changed: it gets the rows from here on"
    )


def _transformation(
    step: AnyStep,
    former: str,
    manifest: Manifest,
    plan: PhysicalPlan,
    stage: Stage | None,
    same: bool,
    was: str | None,
) -> StepChange:
    shares = manifest.operators.get(former, ())
    stateful = stage is not None and stage.operator is not None
    if not shares:
        if stateful and stage is not None:
            return StepChange(step.name, "new", _new(step, stage), was)
        return StepChange(
            step.name, "kept", "has no state" + ("" if same else ", has changed"), was
        )
    held = _held(shares)
    if stage is None or not stateful:
        detail = f"it has no state any more: {held} would be lost"
        return StepChange(step.name, "impossible", detail, was)
    old, new = layout_before(shares), layout_of(plan, stage)
    if old is None or new is None:
        if same:
            return StepChange(step.name, "kept", held, was)
        detail = "its config has changed, and its state does not say what it means"
        return StepChange(step.name, "impossible", detail, was)
    return _compared(step.name, held, old, new, was)


def _compared(step: str, held: str, old: Layout, new: Layout, was: str | None) -> StepChange:
    tables: dict[str, Moved] = {}
    added: list[str] = []
    lost: list[str] = []
    for name in old.keys() | new.keys():
        move = moved(old.get(name, TableLayout()), new.get(name, TableLayout()))
        if isinstance(move, str):
            return StepChange(step, "impossible", move, was)
        tables[name] = move
        columns = new.get(name, TableLayout()).columns
        added += [columns[column] for column in move.added]
        lost += move.lost
    parts = [held]
    if added:
        parts.append(f"{', '.join(added)} begins with the rows from here on")
    if lost:
        parts.append(f"{', '.join(lost)} is dropped")
    changes = any(move.changes for move in tables.values())
    return StepChange(step, "migrated" if changes else "kept", "; ".join(parts), was, tables)


def _new(step: AnyStep, stage: Stage | None) -> str:
    if step.kind == "source":
        return "is read from its beginning"
    if step.kind == "destination":
        return "gets the rows from here on"
    if stage is not None and stage.operator is not None:
        return "begins without state"
    return "has no state"


def _gone(step: str, manifest: Manifest) -> str:
    if step in manifest.sources:
        done, splits = manifest.sources[step].counts()
        return f"the step is gone, and its position with it ({done:,} of {splits:,} splits read)"
    if step in manifest.operators:
        return f"the step is gone, and its state with it ({_held(manifest.operators[step])})"
    return "the step is gone; it has no state"


def _held(shares: Sequence[OperatorSnapshot]) -> str:
    rows = sum(chunk.rows for share in shares for chunk in share.chunks)
    return f"{rows:,} rows of state" if rows != 1 else "1 row of state"
