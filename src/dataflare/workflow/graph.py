"""Check that the graph of steps can run. Pure: takes a workflow, adds errors.

It checks that the step of each input exists. The planner checks that this step has the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataflare.errors import DataFlareError, PlanError, WorkflowError, did_you_mean
from dataflare.workflow.nodes import key_spot_of, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import AnyStep, InputRef, Workflow


def check_graph(workflow: Workflow, errors: list[DataFlareError], *, whole: bool) -> None:
    """Add the errors of the graph. whole: every step could be read. If not, unused steps are not reported."""
    steps = {step.name: step for step in workflow.steps()}
    for section in ("sources", "destinations"):
        if not getattr(workflow, section):
            whole = False
            errors.append(
                WorkflowError(
                    f"the workflow has no {section}",
                    code="E0104",
                    spot=key_spot_of(workflow.node, section) or workflow.spot,
                    help="a workflow has at least one source and one destination",
                )
            )
    if not workflow.sources:
        return
    unknown = _unknown_inputs(workflow, steps) + _unknown_lookups(workflow)
    unknown += _unknown_in_tests(workflow, steps)
    errors.extend(unknown)
    cycles = _cycles(steps)
    errors.extend(cycles)
    if whole and not unknown and not cycles:
        errors.extend(_unused(workflow, steps))


def looked_up(step: AnyStep) -> str | None:
    """The name of the source of this file that a `lookup` reads, or None."""
    source = step.config.get("source") if step.type == "lookup" else None
    return str(source) if isinstance(source, str) else None


def _unknown_inputs(workflow: Workflow, steps: dict[str, AnyStep]) -> list[DataFlareError]:
    errors: list[DataFlareError] = []
    readable = [name for name in steps if name not in workflow.destinations]
    for step in steps.values():
        for ref in step.inputs:
            if ref.step in readable or _falls_back(workflow, ref, step):
                continue
            names = [name for name in readable if name != step.name]
            is_destination = ref.step in workflow.destinations
            errors.append(
                WorkflowError(
                    f"step '{step.name}' reads '{ref}', which is a destination"
                    if is_destination
                    else f"step '{step.name}' reads '{ref}', but there is no step '{ref.step}'",
                    code="E0108",
                    step=step.name,
                    spot=ref.spot,
                    notes=[f"it can read: {', '.join(names)}"],
                    help=_of_a_destination(step, ref)
                    if is_destination
                    else did_you_mean(ref.step, names),
                )
            )
    return errors


def _falls_back(workflow: Workflow, ref: InputRef, step: AnyStep) -> bool:
    """Whether a step is the destination to which rows of another one go while that one's circuit breaker is open."""
    first = workflow.destinations.get(ref.step)
    handling = first.error_handling if first is not None else None
    breaker = handling.circuit_breaker if handling is not None else None
    is_destination = step.name in workflow.destinations
    return is_destination and breaker is not None and breaker.fallback == step.name


def _of_a_destination(step: AnyStep, ref: InputRef) -> str | None:
    if step.kind != "destination" or step.name == ref.step:
        return None
    return (
        f"to get its rows while its system is away, '{ref.step}' needs "
        f"error_handling: {{circuit_breaker: {{fallback: {step.name}}}}}"
    )


def _unknown_lookups(workflow: Workflow) -> list[DataFlareError]:
    errors: list[DataFlareError] = []
    for step in workflow.transformations.values():
        name = looked_up(step)
        if name is None or name in workflow.sources:
            continue
        errors.append(
            WorkflowError(
                f"step '{step.name}' looks up in '{name}', which is not a source of this workflow",
                code="E0108",
                step=step.name,
                spot=step.spot_of("config", "source"),
                notes=[f"its sources: {', '.join(workflow.sources)}"],
                help=did_you_mean(name, workflow.sources),
            )
        )
    return errors


def _unknown_in_tests(workflow: Workflow, steps: dict[str, Any]) -> list[DataFlareError]:
    errors: list[DataFlareError] = []
    for test in workflow.tests:
        for key, names, noun in (
            ("given", {**workflow.sources, **workflow.transformations}, "step"),
            ("expect", steps, "step"),
        ):
            part = getattr(test, key)
            for name in part:
                if name.partition(".")[0] not in names:
                    errors.append(
                        WorkflowError(
                            f"test '{test.name}' names '{name}', which is not a {noun} of this workflow",
                            code="E0108",
                            spot=key_spot_of(part, name) or spot_of(test.node, key),
                            notes=[f"its {noun}s: {', '.join(names)}"],
                            help=did_you_mean(name, names),
                        )
                    )
    return errors


def _cycles(steps: dict[str, AnyStep]) -> list[DataFlareError]:
    """One error for each cycle. The inputs are walked without recursion."""
    errors: list[DataFlareError] = []
    visited: set[str] = set()
    for first in steps:
        path: list[str] = []
        work = [(first, 0)]
        while work:
            name, turn = work.pop()
            if turn == 0:
                if name in visited:
                    continue
                path.append(name)
            inputs = steps[name].inputs
            if turn == len(inputs):
                path.pop()
                visited.add(name)
                continue
            work.append((name, turn + 1))
            ref = inputs[turn]
            if ref.step in path:
                circle = [ref.step, *reversed(path[path.index(ref.step) :])]
                errors.append(
                    PlanError(
                        "the steps form a circle: " + " -> ".join(circle),
                        code="E0301",
                        step=name,
                        spot=ref.spot,
                        help="remove one of these inputs: rows must come from a source",
                    )
                )
            elif ref.step in steps and ref.step not in visited:
                work.append((ref.step, 0))
    return errors


def _unused(workflow: Workflow, steps: dict[str, AnyStep]) -> list[DataFlareError]:
    used: set[str] = set()
    work = list(workflow.destinations)
    while work:
        name = work.pop()
        if name in used:
            continue
        used.add(name)
        step = steps[name]
        work.extend(ref.step for ref in step.inputs)
        lookup = looked_up(step)
        if lookup is not None:
            work.append(lookup)
    errors: list[DataFlareError] = []
    for step in steps.values():
        if step.name not in used:
            is_source = step.kind == "source"
            errors.append(
                PlanError(
                    f"the {step.kind} '{step.name}' leads to no destination",
                    code="E0302",
                    step=step.name,
                    spot=step.spot,
                    help="name it in the 'inputs' of another step"
                    + (", or in the 'source' of a lookup," if is_source else "")
                    + " or remove it",
                )
            )
    return errors
