"""Users' code that ends the process: `sys.exit()`, and what else is not an Exception. It ends its step and nothing else.

Always true: a run whose code calls `sys.exit(0)` does not look like one that succeeded; what a person or the system
interrupts (SIGINT, SIGTERM) stays an interruption.
"""

from __future__ import annotations

import dis
from collections.abc import Awaitable
from typing import TypeVar

from dataflare.errors import DataError

T = TypeVar("T")

ENDS = (SystemExit, KeyboardInterrupt)
"""What ends an event loop, and with it the process, when a task raises it."""
_RAISES = dis.opmap["RAISE_VARARGS"]
_EXIT_HELP = "raise an exception instead: the process is not its own"


def is_interrupt(error: BaseException) -> bool:
    """Whether a signal raised it, and no code did.

    Python's handler raises KeyboardInterrupt between two instructions of whatever runs; that of `asyncio.run` is a
    function of asyncio.
    """
    trace = error.__traceback__
    if not isinstance(error, KeyboardInterrupt) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_globals.get("__name__") == "asyncio.runners":
        return True
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] != _RAISES


def described(error: BaseException) -> str:
    """What code raised, in words: "raised ValueError: no such row", "called sys.exit(0)"."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    text = str(error)
    return f"raised {type(error).__name__}{': ' if text else ''}{text}"


def help_for(error: BaseException, otherwise: str) -> str:
    """What to do about it: `otherwise`, unless the code ended the process."""
    return _EXIT_HELP if isinstance(error, SystemExit) else otherwise


def as_error(error: BaseException) -> DataError:
    """The error for one of `ENDS` that came out of code which is not known by name (E0520)."""
    return DataError(
        f"user code {described(error)}",
        code="E0520",
        help=help_for(
            error, "raise an exception instead: the run takes it as an error of its step"
        ),
    )


async def kept_inside(work: Awaitable[T], step: str | None = None) -> T:
    """The result of work that calls users' classes. Where these end the process, that is an error of the step."""
    try:
        return await work
    except ENDS as error:
        if is_interrupt(error):
            raise
        raise as_error(error).at(step=step) from error
