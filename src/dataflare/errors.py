"""The errors: whose fault each is, whether a retry can help, and where it happened.

    DataFlareError
    +-- WorkflowError      E01xx  the file: YAML, keys, variables, parameters, includes     exit 2
    +-- ExpressionError    E02xx  an expression in the file: syntax, names, types           exit 2
    +-- PlanError          E03xx  the graph: cycles, unreachable steps, guarantees          exit 2
    +-- ConfigError        E04xx  a connector's or step's config; an extra not installed    exit 2
    +-- DataError          E05xx  rows that were read: bad fields, failed expressions       exit 1
    +-- SystemError_       E06xx  files, databases, networks, disks                         exit 1
    +-- CheckpointError    E07xx  checkpoints and state that cannot be read or resumed      exit 1
    +-- RunError           E08xx  runs: locked, refused changes, interrupted                exit 1 or 2
    +-- InternalError      E09xx  a broken internal invariant; please report                exit 1

Always true: an error is one block of text with a code and without secrets; each connector has one
function that converts foreign exceptions to these.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from msgspec import Struct


class Blame(enum.Enum):
    """Whose fault it is. USER errors exit with 2, the others with 1."""

    USER = "user"
    DATA = "data"
    SYSTEM = "system"
    INTERNAL = "internal"


class Retry(enum.Enum):
    """Whether a retry can help: of the call, or only of the run from its last checkpoint."""

    NEVER = "never"
    LATER = "later"
    RESTART = "restart"


class Spot(Struct, frozen=True):
    """A place in a text file: line and column from 1, and the number of characters."""

    file: str
    line: int
    column: int
    length: int = 1
    text: str | None = None
    """The complete source line, to show in the error. None if it is unknown."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def to_json(self) -> dict[str, Any]:
        """The place as JSON, without the text of the line."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "length": self.length,
        }

    def shifted(self, by: int, length: int) -> Spot:
        """The place `by` characters to the right in the same line."""
        return Spot(self.file, self.line, self.column + by, length, self.text)


HIDE: ContextVar[Callable[[str], str]] = ContextVar("hide", default=str)
"""Takes out of a text what a run does not show: the values of columns that it masks."""


class DataFlareError(Exception):
    """The base class. Its attributes are the parts of the error block. Message and notes go through `HIDE` when it is made.

    retry_after_s: after how long to retry, if the system said so. more_spots: other places of the same
    error. is_of_row: whether one row that failed is the reason.
    """

    default_code = "E0900"
    blame = Blame.INTERNAL
    retry = Retry.NEVER

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        step: str | None = None,
        spot: Spot | None = None,
        notes: Iterable[str] = (),
        help: str | None = None,
        retry: Retry | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        hide = HIDE.get()
        message = hide(message)
        super().__init__(message)
        self.is_of_row = False
        self.message = message
        self.code = code or self.default_code
        self.step = step
        self.spot = spot
        self.notes = [hide(note) for note in notes]
        self.help = help
        if retry is not None:
            self.retry = retry
        self.retry_after_s = retry_after_s
        self.more_spots: list[Spot] = []

    @property
    def exit_status(self) -> int:
        return 2 if self.blame is Blame.USER else 1

    def __str__(self) -> str:
        return self.message

    @property
    def each(self) -> list[DataFlareError]:
        """This error as a list, or the errors in a `ManyErrors`."""
        return [self]

    def to_json(self) -> dict[str, Any]:
        """The error as JSON. It is the same object in every JSON output of the command line.

        spots: the places in the workflow file or script, usually one. Empty if no place is known.
        """
        spots = [self.spot, *self.more_spots] if self.spot is not None else []
        return {
            "code": self.code,
            "message": self.message,
            "step": self.step,
            "spots": [spot.to_json() for spot in spots if spot is not None],
            "notes": list(self.notes),
            "help": self.help,
        }

    def at(self, *, step: str | None = None, spot: Spot | None = None) -> DataFlareError:
        """Set the step and the place, if they are not set yet. Returns the error, to raise it."""
        self.step = self.step or step
        self.spot = self.spot or spot
        return self


class WorkflowError(DataFlareError):
    default_code, blame = "E0100", Blame.USER


class ExpressionError(DataFlareError):
    default_code, blame = "E0200", Blame.USER


class PlanError(DataFlareError):
    default_code, blame = "E0300", Blame.USER


class ConfigError(DataFlareError):
    default_code, blame = "E0400", Blame.USER


class DataError(DataFlareError):
    default_code, blame = "E0500", Blame.DATA


class SystemError_(DataFlareError):
    default_code, blame = "E0600", Blame.SYSTEM


class CheckpointError(DataFlareError):
    default_code, blame = "E0700", Blame.SYSTEM


class RunError(DataFlareError):
    """A run that must not start or was stopped. `blame` may be set for each instance."""

    default_code, blame = "E0800", Blame.SYSTEM

    def __init__(self, message: str, *, blame: Blame = Blame.SYSTEM, **more: object) -> None:
        super().__init__(message, **more)  # type: ignore[arg-type]
        self.blame = blame


class InternalError(DataFlareError):
    default_code, blame = "E0900", Blame.INTERNAL


class ManyErrors(DataFlareError):
    """Several errors from one pass over a workflow. Each is shown as a separate block."""

    blame = Blame.USER

    def __init__(self, errors: Sequence[DataFlareError]) -> None:
        first = errors[0]
        super().__init__(first.message, code=first.code, step=first.step, spot=first.spot)
        self.errors = list(errors)
        if all(error.blame is not Blame.USER for error in errors):
            self.blame = first.blame
        if all(error.retry is not Retry.NEVER for error in errors):
            self.retry = Retry.RESTART

    @property
    def each(self) -> list[DataFlareError]:
        return self.errors

    def to_json(self) -> dict[str, Any]:
        return self.errors[0].to_json()

    @property
    def exit_status(self) -> int:
        return max(error.exit_status for error in self.errors)


def raise_all(errors: Sequence[DataFlareError]) -> None:
    """Raise the collected errors: the only one, or all of them together. Does nothing if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ManyErrors(errors)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, or None."""
    names = list(known)
    folded = {candidate.casefold(): candidate for candidate in names}
    if name.casefold() in folded:
        return folded[name.casefold()]
    matches = get_close_matches(name, names, n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A help with the most similar known name, or None."""
    similar = nearest(name, known)
    return f"did you mean '{similar}'?" if similar else None


def render(error: DataFlareError, shown: Callable[[str], str] = str) -> str:
    """The error block of the format page, without colour and without a newline at the end. Paths below
    the working directory are relative to it. shown: applied to each text of the error by itself."""
    if isinstance(error, ManyErrors):
        return "\n\n".join(render(each, shown) for each in error.errors)
    message = (
        error.message if not _step_is_missing(error) else f"{error.message} (step '{error.step}')"
    )
    lines = [f"error[{error.code}]: {shown(from_here(message))}"]
    spot = error.spot
    if spot is not None:
        gutter = " " * len(str(spot.line))
        lines.append(f"{gutter}--> {shown(str(spot))}")
        if spot.text is not None:
            text = shown(spot.text.expandtabs(1))
            lines.append(f"{gutter} |")
            lines.append(f"{spot.line} | {text}")
            room = max(1, min(spot.length, len(text) - spot.column + 1))
            lines.append(f"{gutter} | {' ' * (spot.column - 1)}{'^' * room}")
    lines.extend(f"   = {shown(from_here(note))}" for note in error.notes)
    if error.help:
        lines.append(f"   = help: {shown(from_here(error.help))}")
    return "\n".join(lines)


def from_here(text: str) -> str:
    """The text with absolute paths below the working directory made relative to it."""
    try:
        working_folder = os.getcwd()
    except OSError:
        return text
    if working_folder == os.sep:
        return text
    return re.sub(rf"(?<![\w./-]){re.escape(working_folder)}{re.escape(os.sep)}(?=\S)", "", text)


def _step_is_missing(error: DataFlareError) -> bool:
    """Whether the message does not name the step. A part of a path or of a word does not count."""
    if error.step is None:
        return False
    return re.search(rf"(?<![\w./-]){re.escape(error.step)}(?![\w/-])", error.message) is None
