"""What a step may do while its circuit breaker is open. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dataflare.errors import ConfigError, PlanError, did_you_mean
from dataflare.model.batch import INSERTS
from dataflare.planner.changelog import row_kinds
from dataflare.planner.dead_letters import error_handling
from dataflare.planner.graph import DestinationNode, Graph
from dataflare.sdk import registry
from dataflare.workflow.model import AnyStep, Workflow

if TYPE_CHECKING:
    from dataflare.workflow.model import DestinationStep

_SENDS = "a destination that sends rows as they come, such as 'http' without 'guarantee: effectively_once'"
_CACHED = "a lookup that is asked key by key and has a 'cache' with a 'ttl'"
_WORDS = ("dead_letter", "stale")


def fallback_of(workflow: Workflow, step: str) -> str | None:
    """What a step does while its breaker is open, where it does not wait: a word, or the name of a destination."""
    breaker = error_handling(workflow, step).circuit_breaker
    return None if breaker is None else breaker.fallback


def diverted_to(workflow: Workflow, step: str) -> str | None:
    """The destination that gets the rows of another one while the breaker of that is open."""
    fallback = fallback_of(workflow, step)
    return None if fallback in _WORDS else fallback


def check_fallback(workflow: Workflow, step: AnyStep, *, hands_back: bool = False) -> None:
    """Raise ConfigError (E0430) for a fallback that the step does not have. hands_back: it is a destination that can give
    back rows."""
    fallback = fallback_of(workflow, step.name)
    if fallback is None or (fallback == "dead_letter" and hands_back):
        return
    if fallback == "stale" and step.type == "lookup" and _is_cached(step.config):
        return
    if fallback in _WORDS or not hands_back:
        raise _refusal(
            step,
            f"it is for {_CACHED if fallback == 'stale' else _SENDS}",
            "leave 'fallback' out: the step then waits until its system answers again",
        )
    if fallback not in workflow.destinations:
        names = [name for name in workflow.destinations if name != step.name]
        raise _refusal(
            step,
            "it is neither dead_letter nor another destination of this workflow",
            did_you_mean(fallback, [*_WORDS, *names]) or "name a destination, or dead_letter",
        )
    if all(ref.step != step.name for ref in workflow.destinations[fallback].inputs):
        raise _refusal(
            step,
            f"'{fallback}' does not read it",
            f"add '{step.name}' to the 'inputs' of '{fallback}'",
        )


def in_divert_order(workflow: Workflow) -> Iterator[tuple[str, DestinationStep]]:
    """The destinations in the order of the file, but each one behind those whose rows it gets."""
    waiting = dict(workflow.destinations)
    while waiting:
        # The loader refuses circles, so one of them always reads nothing that waits.
        for name, step in waiting.items():
            if not any(ref.step in waiting for ref in step.inputs):
                del waiting[name]
                yield name, step
                break


def check_diverted(graph: Graph, workflow: Workflow) -> None:
    """Raise ConfigError (E0430) for a destination with a fallback whose rows are changes: those that go elsewhere would be
    missing in the state that the others make. Raise PlanError (E0430) for a fallback that takes other columns."""
    kinds = row_kinds(graph)
    for node in graph:
        if not isinstance(node, DestinationNode):
            continue
        step = workflow.step(node.step)
        if fallback_of(workflow, node.step) is not None and kinds[node.id] != INSERTS:
            raise _refusal(
                step,
                "its rows are changes, which belong together",
                "leave 'fallback' out: the step then waits until its system answers again",
            )
        for port, conform in zip(node.ports, node.conform, strict=True):
            if conform and isinstance(graph.nodes[port.node], DestinationNode):
                raise PlanError(
                    f"destination '{node.step}' takes other columns than '{port.node}', whose rows it gets while the circuit "
                    "breaker of that is open",
                    code="E0430",
                    step=node.step,
                    spot=step.spot,
                    notes=[
                        f"'{port.node}': {_columns(graph.nodes[port.node].schema.to_json())}",
                        f"'{node.step}': {_columns(node.schema.to_json())}",
                    ],
                    help="give both the same columns, or the fallback a destination of its own",
                )


def _columns(schema: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {type_}" for name, type_ in schema.items())


def _refusal(step: AnyStep, why: str, help: str) -> ConfigError:
    assert step.error_handling is not None
    assert step.error_handling.circuit_breaker is not None
    fallback = step.error_handling.circuit_breaker.fallback
    return ConfigError(
        f"step '{step.name}' cannot have 'fallback: {fallback}': {why}",
        code="E0430",
        step=step.name,
        spot=step.spot_of("error_handling", "circuit_breaker", "fallback"),
        help=help,
    )


def _is_cached(config: Mapping[str, Any]) -> bool:
    source, cache = config.get("source"), config.get("cache")
    if not isinstance(source, Mapping) or not isinstance(cache, Mapping) or "ttl" not in cache:
        return False
    table = {name: value for name, value in source.items() if name != "type"}
    return registry.asked_by_key(str(source.get("type")), table) is not None
