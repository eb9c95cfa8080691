"""The destinations of dead letters: rows that a step cannot process. They are committed like others.

Always true: dead letters of all steps have one schema, LETTERS, with the original row as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.model.types import INT64, STRING, TIMESTAMP_UTC, Field, Schema
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.workflow.load import bind

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow
    from dataflare.workflow.settings import DeadLetter, ErrorHandling

STEP = "dead_letters"
"""The name of the stage. It gets a number if there are several stages or a step of that name."""

LETTERS = Schema(
    (
        Field("id", STRING),
        Field("step", STRING),
        Field("code", STRING),
        Field("message", STRING),
        Field("attempts", INT64),
        Field("failed_at", TIMESTAMP_UTC),
        Field("run_id", STRING),
        Field("position", STRING),
        Field("row", STRING),
        Field("neighbours", STRING),
    )
)


def error_handling(workflow: Workflow, step: str) -> ErrorHandling:
    """The error handling of a step: its own, or that of the settings."""
    return workflow.step(step).error_handling or workflow.settings.error_handling


def may_fail_there(workflow: Workflow, step: str) -> bool:
    """Whether rows of the step may become dead letters."""
    handling = error_handling(workflow, step)
    if handling.on_error == "dead_letter":
        return True
    if handling.circuit_breaker and handling.circuit_breaker.fallback == "dead_letter":
        return True
    if workflow.settings.schema_change == "dead_letter" and (
        step in workflow.destinations
        or (
            step in workflow.sources
            and registry.source(workflow.sources[step].type).finds_new_fields
        )
    ):
        return True
    config: Mapping[str, Any] = workflow.step(step).config
    rules = config.get("rules") or ()
    return config.get("on_miss") == "dead_letter" or any(
        isinstance(rule, Mapping) and rule.get("on_fail") == "dead_letter" for rule in rules
    )


def letter_destinations(
    workflow: Workflow, folder: Path, policy: Policy | None = None
) -> dict[str, DestinationConnector]:
    """The dead-letter destination of each step that may need one; steps with the same share it.

    folder: the default place of dead letters.
    """
    by_config: dict[str, DestinationConnector] = {}
    by_step: dict[str, DestinationConnector] = {}
    step_names = {step.name for step in workflow.steps()}
    names = (n for i in count(1) if (n := STEP if i == 1 else f"{STEP}_{i}") not in step_names)
    for step in workflow.steps():
        if not may_fail_there(workflow, step.name):
            continue
        spec = error_handling(workflow, step.name).dead_letter
        key = spec.model_dump_json() if spec is not None else ""
        if key not in by_config:
            by_config[key] = _destination(spec, folder, workflow, next(names), policy or Policy())
        by_step[step.name] = by_config[key]
    return by_step


def _destination(
    spec: DeadLetter | None, folder: Path, workflow: Workflow, name: str, policy: Policy
) -> DestinationConnector:
    memory = workflow.settings.resources.memory
    context = ConnectorContext(name, workflow.base, policy, private=spec is None, memory=memory)
    if spec is None or spec.type is None:
        path = str(folder.absolute()) if spec is None else str(spec.path)
        class_ = registry.destination("file")
        config: Any = {"path": path, "format": "ndjson", "mode": "append"}
    else:
        class_, config = registry.destination(spec.type), spec.config
    return class_(bind(class_.Config, config, step=name), context)
