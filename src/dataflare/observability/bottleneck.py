"""Which stage of a run sets its speed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from dataflare.observability.times import Spent
from dataflare.observability.view import RunView, StageView

_AT_RATE = 0.8
"""A step whose `rate` is used for this share of the time would be faster without it."""
_BUSY = 0.5
"""A run in which no stage works for this share of the time waits for its input."""


class Bottleneck(Struct, frozen=True):
    """stage: None where no stage is it. share: of the run's time, in which its tasks work. reason: in words. named: its
    steps, in words."""

    stage: str | None
    share: float
    reason: str
    named: str = ""

    @property
    def text(self) -> str:
        return f"{self.named}: {self.reason}" if self.named else self.reason


def bottleneck(now: RunView, before: RunView | None = None) -> Bottleneck | None:
    """The stage that the others wait for. before: only the time since then counts. None while there is too little
    to see."""
    spent = _spent_since(now.stages, before)
    total = {name: each.total_s for name, each in spent.items()}
    stages = [stage for stage in now.stages if total[stage.name] > 0]
    if not stages or max(total.values()) < 0.05:
        return None
    # A stage that lived for a part of the run only is idle in the rest of it.
    lived = _lived_since(now.stages, before)
    lasted_s = now.elapsed_s - (before.elapsed_s if before is not None else 0.0)
    lasted_s = max(lasted_s, *lived.values(), 0.001)
    paced = _at_its_rate(now.stages, before, lasted_s)
    if paced is not None:
        return paced
    shares = {
        stage.name: spent[stage.name].busy_s / total[stage.name] * lived[stage.name] / lasted_s
        for stage in stages
    }
    busiest = max(stages, key=lambda stage: shares[stage.name])
    share = shares[busiest.name]
    if share < _BUSY:
        waited = "its sources have few new rows" if not now.bounded else "no step is busy"
        return Bottleneck(None, share, waited)
    reason = _reason(busiest, share, now, spent)
    return Bottleneck(busiest.name, share, reason, _named(busiest))


def _at_its_rate(
    stages: Sequence[StageView], before: RunView | None, lasted_s: float
) -> Bottleneck | None:
    """A stage that goes as fast as its `rate` lets it."""
    earlier = {stage.name: stage.rate_used_s for stage in before.stages} if before else {}
    for stage in stages:
        share = (stage.rate_used_s - earlier.get(stage.name, 0.0)) / lasted_s
        if stage.rate is not None and share >= _AT_RATE:
            reason = f"held to its rate of {stage.rate}"
            return Bottleneck(stage.name, min(share, 1.0), reason, _named(stage))
    return None


def _named(stage: StageView) -> str:
    if len(stage.steps) < 2:
        return stage.name
    return f"'{stage.steps[0]}' to '{stage.steps[-1]}', which run as one"


def _spent_since(stages: Sequence[StageView], before: RunView | None) -> dict[str, Spent]:
    earlier = {stage.name: stage.spent for stage in before.stages} if before else {}
    return {s.name: s.spent.since(earlier.get(s.name, Spent())) for s in stages}


def _lived_since(stages: Sequence[StageView], before: RunView | None) -> dict[str, float]:
    earlier = {stage.name: stage.lived_s for stage in before.stages} if before else {}
    return {s.name: s.lived_s - earlier.get(s.name, 0.0) for s in stages}


def _reason(stage: StageView, share: float, now: RunView, spent: Mapping[str, Spent]) -> str:
    shown = f"busy {share:.0%} of the time"
    held = [
        edge.from_stage
        for edge in now.edges
        if edge.to_stage == stage.name
        and edge.from_stage in spent
        and spent[edge.from_stage].blocked_s > 0.2 * spent[edge.from_stage].total_s
    ]
    if held:
        return f"{shown}, and {' and '.join(sorted(set(held)))} must wait for it"
    if stage.kind == "source" and len(stage.steps) < 2:
        return f"{shown}: reading sets the pace"
    return shown
