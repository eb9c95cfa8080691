"""The events of OpenLineage of a run: when it starts, each minute, and when it ends."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from dataflare.jobs.openlineage import Event, RunEvents
from dataflare.observability.lineage_target import LineageSender, LineageTarget, sending

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch

EVERY_S = 60.0


@contextlib.contextmanager
def telling_lineage(
    watch: Watch, target: LineageTarget, every_s: float = EVERY_S
) -> Iterator[None]:
    """Send the events of a run until the end of the `with`."""

    def said(text: str) -> None:
        watch.log.log("warning", "openlineage", text)
        watch.warnings.add(text)

    with sending(target, said) as sender:
        telling = _Telling(watch, target, sender, said)
        telling.tell(lambda events: events.started(watch.started_at))
        ends = threading.Event()
        thread = threading.Thread(target=telling.go_on, args=(ends, every_s), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            view = watch.view()
            telling.tell(lambda events: events.ended(view, view.status, watch.error))


class _Telling:
    def __init__(
        self,
        watch: Watch,
        target: LineageTarget,
        sender: LineageSender,
        said: Callable[[str], None],
    ) -> None:
        self._watch, self._target, self._sender, self._said = watch, target, sender, said

    def tell(self, event: Callable[[RunEvents], Event]) -> None:
        """Send an event of the plan that runs now: another attempt may have more columns."""
        watch = self._watch
        try:
            events = RunEvents(
                watch.workflow,
                watch.plan,
                watch.run_id,
                self._target.namespace,
                version("dataflare"),
            )
            self._sender.send(json.loads(watch.redacted(json.dumps(event(events)))))
        except Exception as error:  # a run goes on, whatever becomes of its events
            self._said(f"OpenLineage: no event is made: {type(error).__name__}: {error}")

    def go_on(self, ends: threading.Event, every_s: float) -> None:
        while not ends.wait(every_s):
            with contextlib.suppress(TimeoutError):  # the run does not answer now
                view = self._watch.ask(1.0)
                if not ends.is_set():
                    self.tell(lambda events: events.running(view))  # noqa: B023
