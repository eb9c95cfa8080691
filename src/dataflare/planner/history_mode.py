"""`mode: history` of a destination: a `history` step in front of it, and `mode: upsert`. Pure.

Always true: what is left of the workflow has no destination of this mode; doing it again changes nothing.
"""

from __future__ import annotations

from typing import Any, get_args

from msgspec.structs import replace

from dataflare.errors import DataFlareError, PlanError
from dataflare.sdk import registry
from dataflare.workflow.model import DestinationStep, InputRef, TransformationStep, Workflow
from dataflare.workflow.nodes import SpotMap, spot_of

MODE = "history"
STEP = "--history"
"""Ends the name of the step that stands before such a destination; of one of many tables, the part before its dot."""


def with_histories(workflow: Workflow) -> Workflow:
    """The workflow with a step for each destination that keeps a history. Raises PlanError (E0318) for one with
    several inputs."""
    if all(step.config.get("mode") != MODE for step in workflow.destinations.values()):
        return workflow
    transformations = dict(workflow.transformations)
    destinations: dict[str, DestinationStep] = {}
    for name, step in workflow.destinations.items():
        if step.config.get("mode") == MODE and _has_mode(step):
            versions = _versions(step)
            transformations[versions.name] = versions
            step = _behind(step, versions.name)
        destinations[name] = step
    return replace(workflow, transformations=transformations, destinations=destinations)


def _has_mode(step: DestinationStep) -> bool:
    """Whether the connector has this mode. What it has not is reported when the step is bound."""
    try:
        options: Any = registry.destination(step.type).Config.model_fields
    except DataFlareError:
        return False
    return "mode" in options and MODE in get_args(options["mode"].annotation)


def _versions(step: DestinationStep) -> TransformationStep:
    if len(step.inputs) > 1:
        raise PlanError(
            f"destination '{step.name}' keeps the history of one input, and has {len(step.inputs)}",
            code="E0318",
            step=step.name,
            spot=step.inputs[1].spot,
            help="join them first in a step of type union",
        )
    config = SpotMap(spot=step.config.spot)
    for option, of_step in (("key", "key"), ("sequence", "time")):
        if step.config.get(option):
            config.put(of_step, step.config[option], None, spot_of(step.config, option))
    config.put("snapshot", True, None, spot_of(step.config, "mode"))
    return TransformationStep(
        name=_named(step.name),
        type="history",
        config=config,
        was=None if step.was is None else _named(step.was),
        error_handling=step.error_handling,
        spot=step.spot,
        node=step.node,
        inputs=step.inputs,
    )


def _named(name: str) -> str:
    family, dot, table = name.partition(".")
    return f"{family}{STEP}{dot}{table}"


def _behind(step: DestinationStep, versions: str) -> DestinationStep:
    """The destination, which gets the versions by their key: that of the rows, and the beginning."""
    config = step.config.without("key").without("sequence").without("mode")
    config.put("mode", "upsert", None, spot_of(step.config, "mode"))
    return replace(step, config=config, inputs=(InputRef(versions, None, step.inputs[0].spot),))
