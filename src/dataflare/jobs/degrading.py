"""`settings.degrade`: let only some rows of the sources go on while a run cannot keep up."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING

from dataflare.engine.sampling import Sampling
from dataflare.observability.alerts import Alerts, Rule
from dataflare.observability.conditions import parse_condition
from dataflare.observability.view import RunView

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow
    from dataflare.workflow.settings import Degrade


def degrading_of(
    workflow: Workflow, sampling: Sampling, degraded: MutableMapping[str, str]
) -> Degrading | None:
    """What a workflow says of it."""
    settings = workflow.settings.degrade
    if settings is None:
        return None
    return Degrading(settings, sampling, workflow.sources, degraded)


class Degrading:
    """Judged each second, as an alert is. degraded: by step that gives less than it should, why; it is told here."""

    def __init__(
        self,
        settings: Degrade,
        sampling: Sampling,
        sources: Iterable[str],
        degraded: MutableMapping[str, str],
    ) -> None:
        self._settings, self._sampling, self._sources = settings, sampling, tuple(sources)
        self._degraded = degraded
        condition = parse_condition(settings.when)
        for_s = condition.for_s or 0.0
        self._rule = Rule("degrade", condition, for_s=for_s, keep_s=settings.recover_after)
        self._alerts = Alerts([self._rule])

    def look(self, run: RunView) -> None:
        self._alerts.look(run)
        if self._alerts.fired_of(self._rule) is not None:
            share = self._settings.sample
            self._sampling.set(share)
            for source in self._sources:
                self._degraded[source] = (
                    f"{share:.3g} of its rows go on, the others are left out ({self._settings.when})"
                )
        elif self._sampling.share is not None:
            self._sampling.set(None)
            for source in self._sources:
                self._degraded.pop(source, None)
