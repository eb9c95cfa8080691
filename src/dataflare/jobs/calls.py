"""What becomes of the calls of a run's steps: those made again, and the circuit breakers; told to the user."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dataflare.errors import from_here
from dataflare.jobs.breakers import circuit_breakers, fallbacks
from dataflare.jobs.closing import RetriedCalls
from dataflare.planner.dead_letters import error_handling
from dataflare.planner.retries import retry_policies
from dataflare.resilience.breaker import CircuitBreaker, Opened
from dataflare.resilience.retry import Retried, Retries

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch
    from dataflare.workflow.model import Workflow

_SILENT_S, _TOLD_AGAIN_S = 5.0, 30.0
"""When it is told that a call before the first row has no answer, and told again."""


class Calls:
    """Of one run. retries: the policies of its steps. retried: by step, the calls that were made again. held_back: by step,
    how often its breaker opened."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.retried: dict[str, RetriedCalls] = {}
        self.held_back: dict[str, int] = {}

    def use(self, workflow: Workflow) -> None:
        """The workflow as it will run. Called before anything of it runs."""
        self._workflow = workflow
        self._systems: dict[tuple[str, str], CircuitBreaker] = {}
        self._breakers = self._breakers_of(workflow)
        self.retries = Retries(
            retry_policies(workflow),
            self._retried,
            breakers=self._breakers,
            fallbacks=fallbacks(workflow),
            waiting=self._waiting,
        )

    def grow(self, workflow: Workflow) -> None:
        """The same workflow with more tables. Their steps share the breakers of systems that have one."""
        self._workflow = workflow
        self._breakers = self._breakers_of(workflow)
        self.retries.add(retry_policies(workflow), self._breakers, fallbacks(workflow))

    def _breakers_of(self, workflow: Workflow) -> dict[str, CircuitBreaker]:
        return circuit_breakers(workflow, self._held_back, self._let_through, self._systems)

    def is_held_back(self, step: str) -> bool:
        """Whether its breaker is open, in any process of the run."""
        if step in self._breakers and self._breakers[step].is_open:
            return True
        return any(step in each.held_back for each in self._watch.metrics.workers.values())

    def told_by_worker(self, what: str, arguments: tuple[Any, ...]) -> None:
        """A worker in another process says what happened to its calls."""
        hears: dict[str, Callable[..., None]] = {
            "retried": self._retried,
            "opened": self._held_back,
            "closed": self._let_through,
        }
        hears[what](*arguments)

    def _retried(self, retried: Retried) -> None:
        before = self.retried.get(retried.step)
        calls = before.calls + 1 if before is not None else 1
        self.retried[retried.step] = RetriedCalls(calls, retried.error)
        message = from_here(f"step '{retried.step}': {retried}")
        self._watch.say(message, level="warning", component="calls", step=retried.step)

    def _waiting(self, step: str) -> AbstractContextManager[None] | None:
        """Tells for whom the run waits while it begins; None: it has begun."""
        if (attempt := self._watch.attempt) is not None and attempt.coordinator is not None:
            return None
        return self._telling(step)

    @contextlib.contextmanager
    def _telling(self, step: str) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []

        def tell(silent_s: float) -> None:
            message = f"step '{step}': no answer for {silent_s:.0f} s; the run waits for it"
            self._watch.say(message, level="warning", component="calls", step=step)
            timers[:] = [loop.call_later(_TOLD_AGAIN_S, tell, silent_s + _TOLD_AGAIN_S)]

        timers.append(loop.call_later(_SILENT_S, tell, _SILENT_S))
        try:
            yield
        finally:
            timers[0].cancel()

    def _held_back(self, system: str, opened: Opened) -> None:
        """The breaker of a system has opened."""
        step = opened.step
        self.held_back[step] = self.held_back.get(step, 0) + 1
        breaker = error_handling(self._workflow, step).circuit_breaker
        assert breaker is not None
        shared = self._breakers[step]
        others = [f"'{n}'" for n, each in self._breakers.items() if each is shared and n != step]
        message = (
            f"step '{step}': {opened.reason} at {system}: none is made for {breaker.recovery:g} s"
        )
        if others:
            message += f"; {' and '.join(others)} must wait too"
        facts = {"event": "breaker_opened", "system": system, "calls": opened.calls}
        facts |= {"failed": opened.failed, "slow": opened.slow}
        self._watch.say(message, level="warning", component="calls", step=step, **facts)
        self.retries.on_opened(step)

    def _let_through(self, system: str) -> None:
        """The breaker of a system has closed."""
        facts = {"event": "breaker_closed", "system": system}
        self._watch.say(
            f"calls to {system} succeed again: all are made", component="calls", **facts
        )
