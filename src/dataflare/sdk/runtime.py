"""What one run has to itself in a process that may run several at once.

Each run makes a `Runtime` and is inside of it with all its tasks and threads. Code that needs something of
the run asks `current()`. Outside of a run, `current()` is one that the whole process shares: validating a
file, drawing a plan and looking at rows use it.

Always true: nothing here is shared by two runs, and nothing of a run remains after its `close`.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from dataflare.errors import HIDE
from dataflare.sdk.user_modules import UserModules

if TYPE_CHECKING:
    from dataflare.sdk.in_flight import InFlight

_Thing = TypeVar("_Thing")


class Masks(Protocol):
    """Hides secrets in texts."""

    def redact(self, text: str) -> str: ...
    def redact_pieces(self, text: str) -> str: ...
    def suspects(self) -> list[str]: ...


class Runtime:
    """masks: hides the secrets of the run; None: those that the process knows. stdout: where a `stdout`
    destination prints; None: standard output. hidden: the values of masked columns, `HiddenValues` of `security`. in_flight: the limits of requests under way; None:
    each writer and lookup has one of its own. on_unread: called, on any thread, when its reader has ended."""

    def __init__(
        self,
        *,
        masks: Masks | None = None,
        stdout: IO[str] | None = None,
        hidden: Any = None,
        in_flight: InFlight | None = None,
    ) -> None:
        self.masks, self.stdout, self.hidden, self.in_flight = masks, stdout, hidden, in_flight
        self.on_unread: Callable[[], object] | None = None
        self.tracer: Any = None
        """Where it is traced, a `Tracer` of `sdk.tracing`."""
        self._modules: dict[Path, UserModules] = {}
        self._things: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closing = ExitStack()

    def modules(self, folder: Path) -> UserModules:
        """The users' modules in the folder of a workflow. Outside of a run they are read again when a file
        has changed."""
        with self._lock:
            modules = self._modules.get(folder)
            if modules is None or (self is _PROCESS and modules.changed()):
                modules = self._modules[folder] = UserModules(folder)
            return modules

    def one(
        self, name: str, make: Callable[[], _Thing], close: Callable[[_Thing], object]
    ) -> _Thing:
        """A thing that the run has once, such as its worker processes: made when it is needed first, closed
        with the run."""
        with self._lock:
            if name not in self._things:
                thing = self._things[name] = make()
                self._closing.callback(close, thing)
            found: _Thing = self._things[name]
            return found

    def forget(self, name: str) -> None:
        """Make the thing anew when it is needed again."""
        with self._lock:
            self._things.pop(name, None)

    @contextmanager
    def entered(self) -> Iterator[Runtime]:
        """Be inside of this runtime, with the tasks and threads that are started here. It is closed at the
        end."""
        try:
            with self.joined():
                yield self
        finally:
            self.close()

    @contextmanager
    def joined(self) -> Iterator[Runtime]:
        """As `entered`, for another task of the same run: the runtime stays open."""
        token = _CURRENT.set(self)
        hide = HIDE.set(HIDE.get() if self.hidden is None else self.hidden.without)
        try:
            yield self
        finally:
            HIDE.reset(hide)
            _CURRENT.reset(token)

    def close(self) -> None:
        """Let go of all that the run has."""
        self._closing.close()
        for modules in self._modules.values():
            modules.close()
        self._modules.clear()


def current() -> Runtime:
    """The runtime of the run that calls, or that of the process."""
    return _CURRENT.get()


_PROCESS = Runtime()
_CURRENT: contextvars.ContextVar[Runtime] = contextvars.ContextVar("runtime", default=_PROCESS)
