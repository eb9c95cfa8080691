"""The alerts of a run: each rule is quiet, pending, or firing. A function of views over time, without a clock.

Always true: a rule says that it fires once, until it has said that it is resolved; also across runs, since what fires at
the end of one is known to the next. A rule that comes and goes is resolved late, not told again and again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct, field

from dataflare.observability.conditions import Condition, Judge
from dataflare.observability.measures import shown
from dataflare.observability.usual import History, UsualJudge
from dataflare.observability.view import AlertView, RunView

_FLAPS, _FLAPPING_S, _QUIET_S = 3, 600.0, 300.0
"""A rule that fires so often within this time is resolved only after being quiet for so long."""
_CARRIED_S = 60.0
"""What fired in an earlier run is resolved when its condition is unmet for so long, or at the end of the run."""


class Rule(Struct, frozen=True):
    """for_s: how long its condition holds before it fires; keep_s: how long it does not before that is resolved. step:
    only of this one. notify: names of notifiers. fails: a run that meets it fails."""

    name: str
    condition: Condition
    for_s: float = 0.0
    keep_s: float = 0.0
    severity: str = "warning"
    step: str | None = None
    notify: tuple[str, ...] = ()
    fails: bool = False


class Event(Struct, frozen=True):
    """What notifiers tell. since: when it began to fire; at: when this happened; both in seconds since 1970. message:
    in words."""

    status: Literal["firing", "resolved"]
    rule: Rule
    message: str
    step: str
    value: float | None
    since: float
    at: float


class Fired(Struct):
    """An alert that fires, as it is kept from run to run. told: the notifiers that have taken it."""

    name: str
    severity: str
    message: str
    step: str
    value: float | None
    since: float
    told: list[str] = field(default_factory=list)


class _State:
    def __init__(self, rule: Rule, carried: Fired | None, history: History) -> None:
        self.rule = rule
        self.usual: UsualJudge | None = None
        if rule.condition.is_usual:
            self.usual = UsualJudge(rule.condition, rule.step, history)
        self.judge: Judge | UsualJudge = self.usual or Judge(rule.condition, rule.step)
        self.pending_s: float | None = None
        self.quiet_s: float | None = None
        self.fired = carried
        self.is_carried = carried is not None
        self.times: deque[float] = deque(maxlen=_FLAPS)
        self.is_flapping = False
        self.count = 0
        self.last = ""

    def look(self, run: RunView, *, is_end: bool) -> Event | None:
        judged, now_s = self.judge.look(run), run.elapsed_s
        if judged is None:
            self.pending_s = None
            return self._resolved(run) if is_end and self._ends_with_run() else None
        if judged.is_met:
            self.quiet_s = None
            self.last = self.rule.condition.in_words(
                judged.value, judged.step, run.failure, judged.usual
            )
            if self.fired is not None:
                self.is_carried = False
                self.fired.message, self.fired.value = self.last, judged.value
                return self._resolved(run) if is_end and self._ends_with_run() else None
            if self.pending_s is None:
                self.pending_s = now_s
            if now_s - self.pending_s < self.rule.for_s:
                return None
            return self._fires(run, judged.step, judged.value)
        self.pending_s = None
        if self.fired is None:
            return None
        if self.quiet_s is None:
            self.quiet_s = now_s
        if is_end or now_s - self.quiet_s >= self._keep_s():
            return self._resolved(run)
        return None

    def _fires(self, run: RunView, step: str, value: float) -> Event:
        self.pending_s = None
        self.times.append(run.elapsed_s)
        self.is_flapping = len(self.times) == _FLAPS and self.times[-1] - self.times[0] <= _FLAPPING_S  # fmt: skip
        self.count += 1
        rule = self.rule
        self.fired = Fired(rule.name, rule.severity, self.last, step, value, run.at)
        return Event("firing", rule, self.last, step, value, run.at, run.at)

    def _resolved(self, run: RunView) -> Event:
        fired, self.fired = self.fired, None
        assert fired is not None
        self.quiet_s, self.is_carried = None, False
        lasted = max(0.0, run.at - fired.since)
        message = f"{self.rule.condition.text}: resolved after {shown(lasted, 'duration')}"
        return Event("resolved", self.rule, message, fired.step, fired.value, fired.since, run.at)

    def _keep_s(self) -> float:
        if self.is_carried:
            return max(self.rule.keep_s, _CARRIED_S)
        return max(self.rule.keep_s, _QUIET_S) if self.is_flapping else self.rule.keep_s

    def _ends_with_run(self) -> bool:
        """Whether what fires is over when the run has finished: what counts since its begin is not."""
        condition = self.rule.condition
        lasts = condition.measure.grows or condition.is_of_whole_run
        return self.fired is not None and not lasts


class Alerts:
    """before: those that fired at the end of the run before. history: what was seen by the runs before, for rules that compare
    with what is usual; what this one sees is added."""

    def __init__(
        self, rules: Iterable[Rule], before: Sequence[Fired] = (), history: History | None = None
    ) -> None:
        self.rules = tuple(rules)
        self.history = History() if history is None else history
        known = {fired.name: fired for fired in before}
        self._states = [_State(rule, known.get(rule.name), self.history) for rule in self.rules]

    def look(self, run: RunView) -> list[Event]:
        """What has changed since the look before."""
        events = (state.look(run, is_end=False) for state in self._states)
        return [event for event in events if event is not None]

    def end(self, run: RunView) -> list[Event]:
        """The last look. What fires is over if the run has finished, and stays otherwise, for the next run."""
        is_end = run.status == "finished"
        events = (state.look(run, is_end=is_end) for state in self._states)
        return [event for event in events if event is not None]

    def failing(self, run: RunView, *, is_final: bool) -> Event | None:
        """The first of the rules that fail a run which is met. is_final: all rows of the run are counted. Learns nothing: a
        run that fails teaches nothing."""
        for state in self._states:
            rule, condition = state.rule, state.rule.condition
            if not rule.fails:
                continue
            if state.fired is not None and not condition.is_of_whole_run and not state.is_carried:
                fired = state.fired
                return Event("firing", rule, fired.message, fired.step, fired.value, fired.since, run.at)  # fmt: skip
            if is_final and condition.is_of_whole_run:
                history = History(self.history.kept(taken=False))
                judged = (UsualJudge(condition, rule.step, history) if condition.is_usual else Judge(condition, rule.step)).look(run)  # fmt: skip
                if judged is not None and judged.is_met:
                    text = condition.in_words(judged.value, judged.step, None, judged.usual)
                    return Event("firing", rule, text, judged.step, judged.value, run.at, run.at)
        return None

    def firing(self) -> list[Fired]:
        return [state.fired for state in self._states if state.fired is not None]

    def fired_of(self, rule: Rule) -> Fired | None:
        return next((s.fired for s in self._states if s.rule is rule), None)

    def views(self) -> list[AlertView]:
        """Those that are pending or fire, and those that learn what is usual."""
        found = []
        for state in self._states:
            rule = state.rule
            if state.fired is not None:
                fired = state.fired
                view = AlertView(rule.name, "firing", rule.severity, fired.message, fired.since)
                found.append(view)
            elif state.pending_s is not None:
                found.append(AlertView(rule.name, "pending", rule.severity, state.last, None))
            elif state.usual is not None and state.usual.learning:
                text = f"{state.usual.learning} ({rule.condition.text})"
                found.append(AlertView(rule.name, "learning", rule.severity, text, None))
        return found

    def closing(self) -> list[str]:
        """A line for each rule that fired in this run."""
        return [
            f"alert '{state.rule.name}' fired{'' if state.count == 1 else f' {state.count:,} times'}: {state.last}"
            for state in self._states
            if state.count
        ]
