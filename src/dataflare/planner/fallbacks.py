"""What a step may do while its circuit breaker is open. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.errors import ConfigError
from dataflare.planner.dead_letters import error_handling
from dataflare.sdk import registry
from dataflare.workflow.model import AnyStep, Workflow

_FITS = {
    "dead_letter": "a destination that sends rows as they come, such as 'http' without 'guarantee: effectively_once'",
    "stale": "a lookup that is asked key by key and has a 'cache' with a 'ttl'",
}


def check_fallback(workflow: Workflow, step: AnyStep, *, hands_back: bool = False) -> None:
    """Raise ConfigError (E0430) for a fallback that the step does not have. hands_back: it is a destination that can give
    back rows."""
    breaker = error_handling(workflow, step.name).circuit_breaker
    fallback = None if breaker is None else breaker.fallback
    if fallback is None or (fallback == "dead_letter" and hands_back):
        return
    if fallback == "stale" and step.type == "lookup" and _is_cached(step.config):
        return
    raise ConfigError(
        f"step '{step.name}' cannot have 'fallback: {fallback}': it is for {_FITS[fallback]}",
        code="E0430",
        step=step.name,
        spot=step.spot_of("error_handling", "circuit_breaker", "fallback"),
        help="leave 'fallback' out: the step then waits until its system answers again",
    )


def _is_cached(config: Mapping[str, Any]) -> bool:
    source, cache = config.get("source"), config.get("cache")
    if not isinstance(source, Mapping) or not isinstance(cache, Mapping) or "ttl" not in cache:
        return False
    table = {name: value for name, value in source.items() if name != "type"}
    return registry.asked_by_key(str(source.get("type")), table) is not None
