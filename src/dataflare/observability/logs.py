"""The log of a run: lines with time, level, run, workflow, step and component, in a file of its own.

Each line is of one of COMPONENTS. Their levels may be changed while the run lives.

Always true: no line has a secret of the workflow; a file has at most `_SIZE_MAX` bytes, and at most `_KEPT` files of a
workflow are kept.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from dataflare.errors import Blame, RunError

FOLDER = "logs"
_SIZE_MAX, _PARTS, _KEPT = 8 << 20, 2, 20
LEVELS = ("debug", "info", "warning", "error")
COMPONENTS = ("run", "checkpoint", "calls", "alerts", "otlp", "openlineage")


class LogLine(dict[str, Any]):
    """A line as it is in the file."""

    @property
    def text(self) -> str:
        """As people read it: `14:03:11 warning calls  step 'db': …`."""
        at = str(self["time"])[11:19]
        return f"{at} {self['level']:7} {self['component']:10}  {self['message']}"


class RunLogger:
    """Writes what a run says. redact: hides secrets. listener: gets each line too."""

    def __init__(
        self,
        workflow: str,
        run_id: str,
        redact: Callable[[str], str],
        listener: Callable[[LogLine], None] | None = None,
    ) -> None:
        self._facts = {"run": run_id, "workflow": workflow}
        self._redact, self._listener = redact, listener
        self._levels: dict[str, int] = {"": logging.INFO}
        self._handler: logging.Handler | None = None

    @contextlib.contextmanager
    def writing(self, folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
        """Write into the workflow's folder until the end of the `with`. What cannot be written is lost, and warned of once: a
        run does not fail for its log."""
        logs = folder / FOLDER
        try:
            logs.mkdir(parents=True, exist_ok=True)
            logs.chmod(0o700)
            _forget(logs)
        except OSError as error:
            warn(f"no log of this run is written: {error.strerror or error}")
            yield
            return
        path = logs / f"{self._facts['run']}.ndjson"
        handler = _Private(
            warn, path, maxBytes=_SIZE_MAX, backupCount=_PARTS - 1, encoding="utf-8", delay=True
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None
            try:
                handler.close()
            except OSError as error:
                handler.failed(error)

    def log(
        self, level: str, component: str, message: str, step: str | None = None, **facts: Any
    ) -> None:
        """Write a line, if its component is that talkative."""
        number = logging.getLevelNamesMapping()[level.upper()]
        if number < self._level_of(component) or (self._handler is None and self._listener is None):
            return
        now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
        line = LogLine(time=f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z", level=level)
        line |= {"component": component, "message": self._redact(message), "step": step}
        line |= {**self._facts, **facts}
        if self._listener is not None:
            self._listener(line)
        if self._handler is not None:
            text = json.dumps(line, ensure_ascii=False, default=str)
            record = logging.LogRecord(component, number, "", 0, text, None, None)
            self._handler.handle(record)

    def set_level(self, component: str, level: str) -> Mapping[str, str]:
        """From now on the component writes lines of this level and above; '' is for all that have none of their own. Gives
        all levels. Raises RunError (E0404) for a level or a component that does not exist."""
        check_component(component)
        if level not in LEVELS:
            raise RunError(
                f"there is no level '{level}'",
                code="E0404",
                blame=Blame.USER,
                help=f"one of: {', '.join(LEVELS)}",
            )
        self._levels[component] = logging.getLevelNamesMapping()[level.upper()]
        return self.levels

    @property
    def levels(self) -> Mapping[str, str]:
        return {name: logging.getLevelName(at).lower() for name, at in self._levels.items()}

    def _level_of(self, component: str) -> int:
        return self._levels.get(component, self._levels[""])


def check_component(component: str) -> None:
    """Raises RunError (E0404) for one that does not exist."""
    if component and component not in COMPONENTS:
        raise RunError(
            f"there is no component '{component}'",
            code="E0404",
            blame=Blame.USER,
            help=f"one of: {', '.join(COMPONENTS)}",
        )


class _Private(RotatingFileHandler):
    """Its files are for their owner alone. warn: told of the first line that could not be written."""

    def __init__(self, warn: Callable[[str], None], path: Path, **options: Any) -> None:
        self._warn, self._has_failed = warn, False
        super().__init__(path, **options)

    def doRollover(self) -> None:  # noqa: N802
        """Set the full file aside in one step: between a deletion and a renaming, those who read would find neither part."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        os.replace(self.baseFilename, _before(Path(self.baseFilename)))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            raise
        self.failed(error)

    def failed(self, error: OSError) -> None:
        """Lines are lost."""
        if not self._has_failed:
            self._has_failed = True
            self._warn(f"lines of this run's log are lost: {error.strerror or error}")

    def _open(self) -> TextIOWrapper:
        number = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchmod(number, 0o600)
        return open(number, "a", encoding=self.encoding)


def _forget(logs: Path) -> None:
    """Delete the oldest files. Run ids sort by time."""
    runs = sorted({path.name.partition(".")[0] for path in logs.glob("*.ndjson*")})
    for run in runs[: max(0, len(runs) - _KEPT + 1)]:
        for path in logs.glob(f"{run}.ndjson*"):
            path.unlink(missing_ok=True)


def newest(folder: Path) -> str | None:
    """The run whose log is the newest in a workflow's folder."""
    return max((path.name.partition(".")[0] for path in (folder / FOLDER).glob("*.ndjson*")), default=None)  # fmt: skip


def lines(folder: Path, run_id: str) -> Iterator[LogLine]:
    """The lines of a run, oldest first. A line that a kill has cut is left out."""
    path = folder / FOLDER / f"{run_id}.ndjson"
    with contextlib.ExitStack() as opened:
        parts: list[TextIO] = []
        while (part := _next_part(path, parts)) is not None:
            parts.append(opened.enter_context(part))
            is_newest = not _is_set_aside(path, part.fileno())
            yield from _parsed(part)
            if is_newest:
                return


def following(folder: Path, run_id: str, pause_s: float = 0.2) -> Iterator[LogLine | None]:
    """The lines of a run, and those that come; None while none does. Never ends by itself. Lines are lost only where more
    than a whole part is written while its reader holds it up."""
    path = folder / FOLDER / f"{run_id}.ndjson"
    with contextlib.ExitStack() as opened:
        parts: list[TextIO] = []
        while True:
            file = _next_part(path, parts[-2:])
            if file is None:  # it has not begun, or a full one was set aside for it
                yield None
                time.sleep(pause_s)
                continue
            parts.append(opened.enter_context(file))
            for old in parts[:-2]:
                old.close()
            begun = ""
            while True:
                # Asked before the read: all lines of a file are written before it is set aside.
                is_set_aside = _is_set_aside(path, file.fileno())
                text = begun + file.readline()
                if text.endswith("\n"):
                    begun = ""
                    yield from _parsed([text])
                    continue
                if is_set_aside:
                    break
                begun = text
                yield None
                time.sleep(pause_s)


def _before(path: Path) -> Path:
    """Where the part before the newest one is."""
    return path.with_name(f"{path.name}.1")


def _next_part(path: Path, read: Sequence[TextIO]) -> TextIO | None:
    """Open the part of a log that comes after those that were read; None where there is none yet. read: the last two, open, so
    that no new file gets their inode."""
    known = [os.fstat(each.fileno()) for each in read]
    found: TextIO | None = None
    # The newest one is opened first: if the other one was read, then no part is between them.
    for part in (path, _before(path)):
        with contextlib.suppress(FileNotFoundError):
            file = part.open(encoding="utf-8")
            if any(os.path.samestat(os.fstat(file.fileno()), each) for each in known):
                file.close()
                continue
            if found is not None:
                found.close()
            found = file
    return found


def _is_set_aside(path: Path, number: int) -> bool:
    """Whether the open file is not the one at the path any more."""
    try:
        return path.stat().st_ino != os.fstat(number).st_ino
    except FileNotFoundError:
        return True


def _parsed(texts: Any) -> Iterator[LogLine]:
    for text in texts:
        with contextlib.suppress(ValueError):
            yield LogLine(json.loads(text))
