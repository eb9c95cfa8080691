"""What a run from a savepoint does with the state of each step, decided before anything runs. Pure.

Always true: state is used only where it means the same as before. What has no place any more is said, and what
cannot be right is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, StateChunk
from dataflare.engine.deploy import layout_of
from dataflare.engine.operating import layout_before
from dataflare.errors import Blame, RunError
from dataflare.operators.base import StatefulOperator
from dataflare.planner.change_order import HELPER
from dataflare.planner.physical import PhysicalPlan, Stage
from dataflare.state.layout import (
    HIDDEN,
    STEP,
    Adaptation,
    Held,
    Layout,
    Moved,
    as_json,
    entry_of,
    moved,
)
from dataflare.state.meanings import readable
from dataflare.workflow.fingerprint import fingerprint
from dataflare.workflow.model import AnyStep, Workflow

Outcome = Literal["kept", "migrated", "dropped", "new", "impossible"]


class StepChange(Struct, frozen=True):
    """What becomes of the state of one step. was: its name in the savepoint, if that is another. detail: in
    words. tables: by entry of the layout, how the columns of its tables move; adaptation: what else is done with the
    state. relabelled: the layout in the checkpoint is not that of now."""

    step: str
    outcome: Outcome
    detail: str
    was: str | None = None
    tables: Mapping[str, Moved] = {}
    adaptation: Adaptation = Adaptation()
    relabelled: bool = False

    @property
    def moves(self) -> bool:
        """Whether the state is not used as it lies in the checkpoint, under the name of the step."""
        return self.outcome == "migrated" or self.relabelled or self.was is not None

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
    changes = _with_event_times(changes, workflow, plan, manifest)
    used = set(names.values())
    steps_before = [*manifest.fingerprints, *manifest.sources, *manifest.operators]
    for gone in dict.fromkeys(steps_before):
        if gone not in used and gone.removesuffix(HELPER) not in used:
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


def _same(
    step: AnyStep,
    former: str,
    names: Mapping[str, str],
    manifest: Manifest,
    run_column: str | None,
) -> bool:
    """Whether a step is written as it was, apart from names of steps. run_column: that it writes."""
    inputs = tuple(replace(ref, step=names.get(ref.step, ref.step)) for ref in step.inputs)
    return fingerprint(replace(step, inputs=inputs), run_column) == manifest.fingerprints[former]


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
    same = _same(step, former, names, manifest, stage.run_column if stage else None)
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


def _with_event_times(
    changes: Sequence[StepChange], workflow: Workflow, plan: PhysicalPlan, manifest: Manifest
) -> list[StepChange]:
    """The changes, where a source whose event time is another one is impossible, and so is the state of each step
    that works by it: watermarks, windows and timers would mix the times of both. A new source beside one that is gone
    may be the same one under another name."""
    others: dict[str, str] = {}
    replacing = _replacing(changes, plan, manifest)
    for change in changes:
        now = plan.event_times.get(change.step)
        former = change.was or change.step
        if now is None or former not in manifest.sources:
            continue
        if manifest.event_times is not None:
            before = manifest.event_times.get(former, now)
            if before != now:
                others[change.step] = f"its event time was {before}, and is {now}"
        elif change.outcome == "migrated":
            others[change.step] = (
                "it has changed, and an earlier version of DataFlare wrote the checkpoint, which does not say what its "
                "event time was"
            )
    timed = {stage.name for stage in plan.stages if stage.operator and stage.operator.timed}
    result = []
    for change in changes:
        detail = others.get(change.step)
        if change.step in timed and (change.was or change.step) in manifest.operators:
            before_it = _before(workflow, change.step)
            found = [name for name in others if name in before_it]
            new = [name for name in replacing if name in before_it]
            if found and change.outcome != "impossible":
                detail = (
                    f"its state is by the event time of source '{found[0]}'; {others[found[0]]}"
                )
            elif new and change.outcome != "impossible":
                detail = f"its state is by the event times of before; {replacing[new[0]]}"
        result.append(
            change if detail is None else StepChange(change.step, "impossible", detail, change.was)
        )
    return result


def _replacing(
    changes: Sequence[StepChange], plan: PhysicalPlan, manifest: Manifest
) -> dict[str, str]:
    """The new sources with an event time, where a source is gone that had another one."""
    kept = {change.was or change.step for change in changes}
    gone = [name for name in manifest.sources if name not in kept]
    if manifest.event_times is not None:
        gone = [name for name in gone if name in manifest.event_times]
    found = {}
    for name, time in plan.event_times.items():
        if name in manifest.sources or any(c.step == name and c.was for c in changes) or not gone:
            continue
        times = [(manifest.event_times or {}).get(each) for each in gone]
        if time in times:
            continue
        was = times[0] or "another one, for all that the checkpoint says"
        found[name] = (
            f"source '{name}' is new, and its event time is {time}; source '{gone[0]}' is gone, whose event time was {was}"
        )
    return found


def _before(workflow: Workflow, step: str) -> set[str]:
    """The steps in front of a step."""
    before: set[str] = set()
    ahead = [step]
    while ahead:
        inputs = {ref.step for ref in workflow.step(ahead.pop()).inputs}
        ahead += inputs - before
        before |= inputs
    return before


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
        detail = f"it has changed, and {_unsaid(old)}"
        return StepChange(step.name, "impossible", detail, was)
    assert stage.operator is not None
    return compared(step.name, shares, old, new, stage.operator, was)


def compared(
    step: str,
    held: Sequence[OperatorSnapshot],
    old: Layout,
    new: Layout,
    operator: StatefulOperator,
    was: str | None,
) -> StepChange:
    """How the tables of a step move. Those without rows do not matter."""
    rows = rows_by_entry(held, old)
    moves: dict[str, Moved] = {}
    words = [_held(held)]
    for name in sorted(old.keys() & new.keys()):
        if not rows.get(name, name == STEP):
            continue
        move = moved(old[name], new[name])
        if isinstance(move, str):
            return StepChange(step, "impossible", move, was)
        moves[name] = move
    values = [dict(share.facts["values"]) for share in held]
    before, now = (dict(layout[STEP].settings) if STEP in layout else {} for layout in (old, new))
    adaptation = operator.adapted(before, now, Held(values, rows, moves))
    if isinstance(adaptation, str):
        return StepChange(step, "impossible", adaptation, was)
    gone = [name for name in rows if rows[name] and name not in new]
    if unused := [name for name in gone if name not in adaptation.dropped]:
        kept = ", ".join(name for name in new if name != STEP)
        detail = f"it remembers other things now: it kept {', '.join(unused)}, and keeps {kept}"
        return StepChange(step, "impossible", detail, was)
    words += _words(moves, new, rows)
    words += adaptation.notes
    changes = (
        any(move.changes for move in moves.values()) or bool(gone) or adaptation != Adaptation()
    )
    outcome: Outcome = "migrated" if changes else "kept"
    detail = "; ".join(words)
    return StepChange(step, outcome, detail, was, moves, adaptation, as_json(old) != as_json(new))


def _words(moves: Mapping[str, Moved], new: Layout, rows: Mapping[str, int]) -> list[str]:
    """What becomes of the columns of the tables."""
    begun: dict[str, None] = {}
    lost: dict[str, None] = {}
    empty: dict[str, int] = {}
    for name, move in moves.items():
        columns = new[name].columns
        lost |= dict.fromkeys(_readable(t) for t in move.lost if not t.startswith(HIDDEN))
        if new[name].of_rows:
            for column in move.added:
                empty[column] = empty.get(column, 0) + rows[name]
            continue
        texts = (columns[column] for column in move.added)
        begun |= dict.fromkeys(_readable(t) for t in texts if not t.startswith(HIDDEN))
    words = [f"{', '.join(begun)} begins with the rows from here on"] if begun else []
    words += [f"{', '.join(lost)} is dropped"] if lost else []
    return words + [f"'{n}' is NULL in {_counted(m)} that it keeps" for n, m in empty.items()]


def _readable(meaning: str) -> str:
    """A state column as the aggregate that it is of."""
    return readable(meaning.partition(", part ")[0].replace("_in_time(", "("))


def rows_by_entry(shares: Sequence[OperatorSnapshot], layout: Layout) -> dict[str, int]:
    """How many rows of state there are, by entry of the layout."""
    rows: dict[str, int] = {}
    for share in shares:
        for name, chunks in chunks_by_table(share).items():
            entry = entry_of(layout, name)
            rows[entry] = rows.get(entry, 0) + sum(chunk.rows for chunk in chunks)
    return rows


def chunks_by_table(share: OperatorSnapshot) -> dict[str, tuple[StateChunk, ...]]:
    """The chunks of a share, by the name of their table."""
    by_table, place = {}, 0
    for name, count in sorted(share.facts["tables"].items()):
        by_table[name] = tuple(share.chunks[place : place + count])
        place += count
    return by_table


def _unsaid(old: Layout | None) -> str:
    if old is None:
        return "an earlier version of DataFlare wrote its state, which does not say what it means"
    return "a step of this type cannot use state that was made with another config"


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
    return f"{_counted(rows)} of state"


def _counted(rows: int) -> str:
    return f"{rows:,} rows" if rows != 1 else "1 row"
