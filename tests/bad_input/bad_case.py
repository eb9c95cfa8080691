"""A case of bad input: the files, the command line, the exit status and the whole error block."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dataflare.cli import app

Content = str | bytes | Callable[[Path], object]
"""What is in a file: text, bytes, or a function that makes it."""

SECRET = "hunter2-very-secret"
"""A value that no output of any case may hold; `$TOP_SECRET` is set to it."""

_VARYING = (
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "TIME"),
    (re.compile(r"process \d+"), "process PID"),
    (re.compile(r"(?<=/)[0-9a-f]{8}\b"), "FOLDER"),
)
_EPOCH = re.compile(r"(?<=checkpoint )\d+\b|(?<=epoch )\d+\b")


@dataclass(frozen=True)
class Case:
    """name: what is wrong, in words. workflow: the text of `w.yaml`. says: all of standard error.
    unless_root: cannot be made when root looks.
    during: holds while the command runs. before: command lines that run first, and end well or
    not."""

    name: str
    workflow: str | bytes = ""
    args: str = "run w.yaml --quiet"
    status: int = 2
    says: str = ""
    files: Mapping[str, Content] = field(default_factory=dict)
    unless_root: bool = False
    before: Callable[[Path], object] | None = None
    during: Callable[[Path], AbstractContextManager[object]] | None = None

    def make(self, folder: Path) -> None:
        """Write the files of this case."""
        for name, content in {"w.yaml": self.workflow, **self.files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            elif content or name in self.files:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

    def held(self, folder: Path) -> AbstractContextManager[object]:
        return self.during(folder) if self.during else nullcontext()


def execute(
    case: Case, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run a case in this process: exit status, standard output, standard error."""
    patch.chdir(folder)
    patch.delenv("DATAFLARE_HOME", raising=False)
    patch.setenv("TOP_SECRET", SECRET)
    patch.setenv("TZ", "UTC")
    case.make(folder)
    if case.before:
        case.before(folder)
    with case.held(folder):
        capture.readouterr()
        status = app.execute(case.args.split(" "))
        out, err = capture.readouterr()
    return status, out, err


def steady(text: str) -> str:
    """Standard error with what differs from run to run replaced by a word."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    epochs = [int(number) for number in _EPOCH.findall(text)]
    return _EPOCH.sub(lambda found: _before(max(epochs) - int(found[0])), text)


def _before(count: int) -> str:
    """The name of an epoch: N for the last one, N-1 for the one before."""
    return f"N-{count}" if count else "N"


def command(line: str) -> Callable[[Path], object]:
    """A `before` that runs a command line."""
    return lambda folder: app.execute(line.split(" "))


def all_of(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """A `before` made of several."""
    return lambda folder: [step(folder) for step in steps]


def is_root() -> bool:
    return os.geteuid() == 0
