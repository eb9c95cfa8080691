"""The JSON output of commands on standard output: one value, also when the command failed.

Always true: an error has the same keys in every output (`DataFlareError.to_json`), and no secret is
printed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dataflare.errors import DataFlareError, InternalError, RunError
from dataflare.formats.visible import visible_json
from dataflare.sdk import user_exits
from dataflare.security.redact import redact_all

_answered = False
_real: int | None = None
"""Standard output, while what others print goes to standard error."""
_CALLS_CODE = (
    "validate", "check", "plan", "lineage", "preview", "diff", "resync", "backfill", "chaos", "test", "discover", "convert",
)  # fmt: skip
"""Commands that import or call users' code. `run` and `mcp` keep their answers apart themselves."""


@contextlib.contextmanager
def alone(args: Sequence[str]) -> Iterator[None]:
    """Let only the answer of such a command come to standard output, where it is asked for JSON or a drawing. What users'
    code and libraries print meanwhile goes to standard error."""
    global _real
    if args[:1] and args[0] in _CALLS_CODE and (is_wanted(args) or _is_drawing(args)):
        with contextlib.ExitStack() as stack:
            try:
                sys.stdout.flush()
                _real = os.dup(1)
            except OSError:  # standard output is closed
                yield
                return
            stack.callback(_end)
            os.dup2(2, 1)
            yield
    else:
        yield


def _end() -> None:
    global _real
    sys.stdout.flush()
    if _real is not None:
        os.dup2(_real, 1)
        os.close(_real)
        _real = None


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """What is printed inside is the answer of the command."""
    if _real is None:
        yield
        return
    sys.stdout.flush()
    os.dup2(_real, 1)
    try:
        yield
        sys.stdout.flush()
    finally:
        os.dup2(2, 1)


def _is_drawing(args: Sequence[str]) -> bool:
    return any(arg in ("-f", "--format") or arg.startswith("--format=") for arg in args)


def begin() -> None:
    """Record that a command begins and has printed no JSON yet."""
    global _answered
    _answered = False


def is_given() -> bool:
    """Whether the command has printed its JSON."""
    return _answered


def print_json(value: Any, *, indent: bool = True) -> None:
    """Print a value as JSON on standard output, without secrets, and a newline."""
    global _answered
    _answered = True
    redacted = redact_all(value)
    text = json.dumps(redacted, indent=2 if indent else None, ensure_ascii=False, default=str)
    with printing():
        print(visible_json(text))


def is_wanted(args: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    until = args.index("--") if "--" in args else len(args)
    words = list(args[:until])
    joined_options = {"--format=json", "-fjson"} & set(words)
    is_json_value = any(
        option in ("--format", "-f") and value == "json"
        for option, value in itertools.pairwise(words)
    )
    return "--json" in words or bool(joined_options) or is_json_value


def print_failure(error: DataFlareError) -> None:
    """Print the JSON of a failed command, unless it has printed its own."""
    if not _answered:
        print_json(failure(error), indent=False)


def failure(error: DataFlareError) -> dict[str, Any]:
    """The keys of a failure: `error` is the first error, `errors` has all."""
    return {"error": error.to_json(), "errors": [each.to_json() for each in error.each]}


def as_error(raised: BaseException) -> DataFlareError:
    """Any exception as a DataFlareError."""
    if isinstance(raised, DataFlareError):
        return raised
    if isinstance(raised, SystemExit):
        left = user_exits.as_error(raised)
        left.__cause__ = raised
        return left
    if isinstance(raised, KeyboardInterrupt):
        return RunError(
            "interrupted before it began", code="E0802", help="run the same command again"
        )
    text = str(raised).strip().replace("\n", " ")
    error = InternalError(
        f"{type(raised).__name__}: {text}" if text else type(raised).__name__,
        notes=["this is a bug in DataFlare; please report it, with the output of --debug"],
    )
    error.__cause__ = raised
    return error
