"""The circuit breakers of a run, from its workflow: one for each outside system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dataflare.planner.dead_letters import error_handling
from dataflare.resilience.breaker import CircuitBreaker, Opened
from dataflare.resilience.retry import Fallback
from dataflare.sdk.places import system_of

if TYPE_CHECKING:
    from pathlib import Path

    from dataflare.workflow.model import AnyStep, Workflow
    from dataflare.workflow.settings import CircuitBreaker as Settings


def circuit_breakers(
    workflow: Workflow,
    opened: Callable[[str, Opened], None],
    closed: Callable[[str], None],
    shared: dict[tuple[str, str], CircuitBreaker] | None = None,
) -> dict[str, CircuitBreaker]:
    """By step, the breaker of its system, where the step's config has one. Steps whose systems have one address share it,
    if their settings are the same. opened and closed: called with the system, in words.
    shared: the breakers that there are; new ones are added to it."""
    breakers: dict[str, CircuitBreaker] = {}
    shared = {} if shared is None else shared
    for step in workflow.steps():
        settings = error_handling(workflow, step.name).circuit_breaker
        if settings is None:
            continue
        system = _system(step, workflow.base)
        key = system or f"step {step.name}", settings.model_dump_json(exclude={"fallback"})
        if key not in shared:
            shared[key] = _made(settings, system or "its system", opened, closed)
        breakers[step.name] = shared[key]
    return breakers


def fallbacks(workflow: Workflow) -> dict[str, Fallback]:
    """By step, what it does while its breaker is open, where it does not wait."""
    found = {}
    for step in workflow.steps():
        breaker = error_handling(workflow, step.name).circuit_breaker
        if breaker is not None and breaker.fallback is not None:
            found[step.name] = breaker.fallback
    return found


def _system(step: AnyStep, base: Path) -> str | None:
    config: Mapping[str, Any] = step.config
    table = config.get("source")
    if step.type == "lookup" and isinstance(table, Mapping):
        return system_of(str(table.get("type")), table, base)
    return system_of(step.type, config, base)


def _made(
    settings: Settings,
    system: str,
    opened: Callable[[str, Opened], None],
    closed: Callable[[str], None],
) -> CircuitBreaker:
    return CircuitBreaker(
        failure_rate=settings.failure_rate,
        window_s=settings.window,
        recovery_s=settings.recovery,
        slow_s=settings.slow_call,
        slow_rate=settings.slow_call_rate,
        trials=settings.trial_calls,
        opened=lambda event: opened(system, event),
        closed=lambda: closed(system),
    )
