"""Where the job of a workflow runs: in its command's process, on its command's node, or anywhere. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from dataflare.errors import DataFlareError
from dataflare.planner.dead_letters import error_handling
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.workflow.load import bind

if TYPE_CHECKING:
    from dataflare.sdk.destination import DestinationConnector
    from dataflare.sdk.source import SourceConnector
    from dataflare.workflow.model import Workflow

    End = type[SourceConnector] | type[DestinationConnector]

Where = Literal["command", "node", "anywhere"]


def job_place(workflow: Workflow) -> Where:
    """command: it has connectors of the command's process, such as its standard output. node: it has files that
    processes of one machine may open. A workflow that cannot be understood fails where its job
    runs, which is anywhere."""
    places: set[Where] = set()
    for name, end, config in _ends(workflow):
        if end.of_command:
            places.add("command")
        elif _is_of_machine(workflow, name, end, config):
            places.add("node")
    return "command" if "command" in places else "node" if "node" in places else "anywhere"


def has_own_code(workflow: Workflow) -> bool:
    """Whether it runs Python of its user, which a process loads once: no other job may run in the same process."""
    return any(step.type == "python" or ":" in step.type for step in workflow.steps())


def _ends(workflow: Workflow) -> Iterator[tuple[str, End, Mapping[str, Any]]]:
    for step in workflow.sources.values():
        with suppress(DataFlareError):
            yield step.name, registry.source(step.type), step.config
    written: list[tuple[str, str, Mapping[str, Any]]] = [
        (step.name, step.type, step.config) for step in workflow.destinations.values()
    ]
    for each in workflow.steps():
        letters = error_handling(workflow, each.name).dead_letter
        if letters is not None and letters.type is not None:
            written.append((each.name, letters.type, letters.config))
    for name, type_, config in written:
        with suppress(DataFlareError):
            yield name, registry.destination(type_), config


def _is_of_machine(workflow: Workflow, name: str, end: End, config: Mapping[str, Any]) -> bool:
    always: Any = end.of_machine
    if isinstance(always, bool):
        return always
    try:
        context = ConnectorContext(name, workflow.base)
        return end(bind(end.Config, config, step=name), context).of_machine
    except DataFlareError:
        return False
