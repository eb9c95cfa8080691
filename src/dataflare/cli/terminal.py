"""Output of the command line: results go to standard output, everything else to standard error.

The import of Rich takes 40 ms. So error blocks are coloured without it, and only live views and
summaries import it.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

from dataflare.errors import DataFlareError, render
from dataflare.formats.visible import visible, visible_line
from dataflare.security.redact import redact

if TYPE_CHECKING:
    from rich.console import Console

show_tracebacks = False
"""Whether `--debug` is set."""

_RED, _BLUE, _CYAN, _YELLOW, _BOLD, _OFF = (
    f"\x1b[{code}m" for code in ("1;31", "1;34", "36", "1;33", "1", "0")
)
_GUTTER = re.compile(r"^(\s*\d* (?:\||-->))")


def is_terminal(stream: TextIO) -> bool:
    """Whether this stream is a terminal."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:
        return False


def has_colour(stream: TextIO) -> bool:
    """Whether to colour text for this stream (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def print_error(error: DataFlareError) -> None:
    """Print the error's block or blocks on standard error, with `--debug` after its traceback."""
    if show_tracebacks:
        import traceback

        say("".join(traceback.format_exception(error)).rstrip())
    block = visible(render(error, redact))
    _write(colour_block(block) if has_colour(sys.stderr) else block)


def print_warning(text: str) -> None:
    """Print a warning as one line on standard error."""
    colour, text = has_colour(sys.stderr), notice_line(text)
    _write(f"{_YELLOW}warning{_OFF}: {text}" if colour else f"warning: {text}")


def say(text: str) -> None:
    """Print text on standard error, without secrets. Control characters in it are shown, and do not act."""
    _write(visible(redact(text)))


def notice_line(message: str) -> str:
    """What a run says, as one line for a terminal: without secrets, and nothing in it acts or begins a line of its own."""
    return visible_line(redact(message))


def _write(text: str) -> None:
    """Print a line. If it cannot be written, it is lost, because there is no other place for it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def colour_block(block: str) -> str:
    """An error block with ANSI colours."""
    return "\n".join(_colour_line(line) for line in block.split("\n"))


def _colour_line(line: str) -> str:
    if line.startswith("error["):
        head, _, message = line.partition(": ")
        return f"{_RED}{head}{_OFF}{_BOLD}: {message}{_OFF}"
    if line.startswith("   = help: "):
        return f"   {_BLUE}={_OFF} {_CYAN}help{_OFF}: {line.removeprefix('   = help: ')}"
    if line.startswith("   = "):
        return f"   {_BLUE}={_OFF} {line.removeprefix('   = ')}"
    gutter = _GUTTER.match(line)
    if gutter is None:
        return line
    text = line[gutter.end() :]
    if text.strip() and set(text) <= {" ", "^"}:
        text = f"{_RED}{text}{_OFF}"
    return f"{_BLUE}{gutter.group()}{_OFF}{text}"


def bold(text: str) -> str:
    """A heading for standard output, in bold if it is a terminal with colours."""
    return f"{_BOLD}{text}{_OFF}" if has_colour(sys.stdout) else text


def print_heading(text: str) -> None:
    """Print a heading."""
    print(bold(text))


def console(*, stderr: bool = False) -> Console:
    """A Rich console without automatic markup and highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def point_stdout_nowhere() -> None:
    """After a broken pipe: discard the text that is still in the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
