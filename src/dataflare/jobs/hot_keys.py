"""Tell the user of keys that keep one task of a step busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataflare.engine.hot_keys import is_hot
from dataflare.observability.view import RunView

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch

_TOLD_AFTER_S = 60.0
"""The first rows of an input that is sorted are all of one key; a run that ends is judged by all of its rows."""
_LOOK_S = 10.0


class HotKeys:
    """Of one run. Each step is told once."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._told: set[str] = set()
        self._next_s = time.monotonic() + _TOLD_AFTER_S

    def look(self) -> None:
        """Look now and then, while the run lives."""
        now = time.monotonic()
        if now >= self._next_s and self._watch.attempt is not None:
            self._next_s = now + _LOOK_S
            self.tell(self._watch.view())

    def tell(self, run: RunView) -> None:
        """Warn of the steps that have such a key."""
        for step, text in steps_with_hot_keys(run):
            if step not in self._told:
                self._told.add(step)
                self._watch.warn([self._watch.redacted(text)])


def steps_with_hot_keys(run: RunView) -> Iterator[tuple[str, str]]:
    """The steps whose rows mostly have one key, and what to tell of each."""
    tasks = {stage.name: stage.tasks for stage in run.stages}
    for edge in run.edges:
        share, count = edge.hot_share, tasks.get(edge.to_stage, 0)
        if share is not None and is_hot(share, count):
            yield (
                edge.to_stage,
                f"step '{edge.to_stage}': about {share:.0%} of its rows have one key ({edge.hot_key}), and go to one of its {count} tasks: "
                "more tasks do not make it faster; leave that key out if it stands for no value, or group by one more column first",
            )
