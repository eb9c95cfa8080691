"""What a command prints on standard output for programs: one JSON value, also when it failed.

Always true: an error has the same keys in every answer (`DataFlareError.to_json`), and nothing that
is printed here holds a secret.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from dataflare.errors import DataFlareError, InternalError, RunError
from dataflare.security.redact import redact_all

_answered = False


def begin() -> None:
    """A command begins; it has printed nothing yet."""
    global _answered
    _answered = False


def is_given() -> bool:
    """Whether the command has printed its answer."""
    return _answered


def print_json(value: Any, *, indent: bool = True) -> None:
    """A value as JSON on standard output, without secrets, ending with a newline."""
    global _answered
    _answered = True
    shown = redact_all(value)
    print(json.dumps(shown, indent=2 if indent else None, ensure_ascii=False, default=str))


def is_wanted(args: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    until = args.index("--") if "--" in args else len(args)
    named = list(args[:until])
    spelled = {"--format=json", "-fjson"} & set(named)
    asked = any(
        option in ("--format", "-f") and value == "json"
        for option, value in itertools.pairwise(named)
    )
    return "--json" in named or bool(spelled) or asked


def print_failure(error: DataFlareError) -> None:
    """What a command that failed prints, unless it has printed its own answer."""
    if not _answered:
        print_json(failure(error), indent=False)


def failure(error: DataFlareError) -> dict[str, Any]:
    """The keys that say what went wrong: `error` is the first, `errors` has all."""
    return {"error": error.to_json(), "errors": [each.to_json() for each in error.each]}


def as_error(raised: BaseException) -> DataFlareError:
    """Any exception as an error that can be printed."""
    if isinstance(raised, DataFlareError):
        return raised
    if isinstance(raised, KeyboardInterrupt):
        return RunError(
            "interrupted before it began", code="E0802", help="run the same command again"
        )
    text = str(raised).strip().replace("\n", " ")
    error = InternalError(
        f"{type(raised).__name__}: {text}" if text else type(raised).__name__,
        notes=["this is a bug in DataFlare; please report it, with what --debug shows"],
    )
    error.__cause__ = raised
    return error
