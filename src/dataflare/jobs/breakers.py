"""The circuit breakers of a run, from its workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dataflare.planner.dead_letters import error_handling
from dataflare.resilience.breaker import CircuitBreaker

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow
    from dataflare.workflow.settings import CircuitBreaker as Settings


def circuit_breakers(
    workflow: Workflow, opened: Callable[[str, float], None]
) -> dict[str, CircuitBreaker]:
    """A breaker for each step whose config has one. opened: called with the step, and with the number of
    seconds during which its system is not called."""
    breakers = {}
    for step in workflow.steps():
        settings = error_handling(workflow, step.name).circuit_breaker
        if settings is not None:
            breakers[step.name] = _made(settings, step.name, opened)
    return breakers


def _made(settings: Settings, step: str, opened: Callable[[str, float], None]) -> CircuitBreaker:
    return CircuitBreaker(
        failure_rate=settings.failure_rate,
        window_s=settings.window,
        recovery_s=settings.recovery,
        slow_s=settings.slow_call,
        opened=lambda recovery_s: opened(step, recovery_s),
    )
