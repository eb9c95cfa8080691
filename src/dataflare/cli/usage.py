"""Errors of the command line as DataFlare errors (E0120)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dataflare.errors import WorkflowError, did_you_mean

USAGE = "E0120"
_LATER = {"deploy", "pause", "resume", "server", "start", "stop"}
"""Commands of the format that this version does not have yet. They are refused by name."""


def usage_error(raised: BaseException, args: list[str]) -> WorkflowError | None:
    """Typer's error about the command line as a WorkflowError. None for any other exception.

    Typer's exception classes are private and have moved between versions, so they are recognised by
    their method `format_message`.
    """
    if not hasattr(raised, "format_message"):
        return None
    context = getattr(raised, "ctx", None)
    path = getattr(context, "command_path", None) or "dataflare"
    option = getattr(raised, "option_name", None)
    message = raised.format_message().rstrip(".").replace("Value error, ", "")
    if option and message.startswith("No such option"):
        return bad_usage(f"no such option '{option}'", path, option, _options(context))
    if message.startswith("No such command"):
        typed = message.split("'")[1] if "'" in message else message
        if typed in _LATER:
            return bad_usage(f"the command '{typed}' is not available in this version", path)
        return bad_usage(f"no such command '{typed}'", path, typed, _commands(context))
    return bad_usage(message[:1].lower() + message[1:], path)


def bad_usage(
    message: str, path: str = "dataflare", typed: str = "", valid_words: Iterable[str] = ()
) -> WorkflowError:
    """A usage error. typed: the wrong word. known: the valid words."""
    return WorkflowError(
        message,
        code=USAGE,
        help=did_you_mean(typed, valid_words) or f"see '{path} --help'",
    )


def _options(context: Any) -> list[str]:
    params = getattr(getattr(context, "command", None), "params", ())
    return [name for param in params for name in param.opts if name.startswith("--")]


def _commands(context: Any) -> list[str]:
    return list(getattr(getattr(context, "command", None), "commands", ()))
