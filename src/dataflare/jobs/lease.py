"""A job tells its cluster once a second that it lives and what it does, so that it keeps its workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from dataflare.errors import DataFlareError
from dataflare.jobs.watching import Watch

_RENEW_S = 1.0


class Leased(Protocol):
    """Workers that are a job's as long as it says so."""

    def renew(self, facts: Mapping[str, Any]) -> None:
        """Blocking."""


class Lease:
    """watch: of the run, as soon as there is one."""

    def __init__(self, workers: Leased) -> None:
        self._workers = workers
        self.watch: Watch | None = None
        self._over = threading.Event()

    @contextmanager
    def renewed(self) -> Iterator[None]:
        thread = threading.Thread(target=self._renew, name="dataflare-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _renew(self) -> None:
        while not self._over.is_set():
            with suppress(DataFlareError):  # the next one comes in a second
                self._workers.renew(self._facts())
            self._over.wait(_RENEW_S)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"pid": os.getpid(), "status": "starting", "run": None}
        watch = self.watch
        if watch is not None:
            with suppress(TimeoutError, RuntimeError):
                view = watch.ask(_RENEW_S)
                facts |= {"status": view.status, "run": view.to_json()}
        return facts
