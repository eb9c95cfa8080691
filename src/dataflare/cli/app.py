"""Find the command, run it, and turn each exception into an error block and an exit status.

Always true: standard error gets one block for each error, and a traceback only with `--debug`; the
status is 0, 1, 2, 3 or 130; with `--json` a command prints JSON also when it fails, even if the command
line is wrong.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from dataflare.cli import answers, process, terminal
from dataflare.cli.usage import usage_error

_NAME, _COMPLETION = "dataflare", "_DATAFLARE_COMPLETE"

_RUN, _LOOK_UP, _NOW, _LOOK_BACK = "Workflows", "Reference", "What runs", "What ran"
_COMMANDS = {
    "init": _RUN,
    "run": _RUN,
    "validate": _RUN,
    "check": _RUN,
    "plan": _RUN,
    "lineage": _RUN,
    "preview": _RUN,
    "diff": _RUN,
    "resync": _RUN,
    "backfill": _RUN,
    "chaos": _RUN,
    "test": _RUN,
    "convert": _RUN,
    "connectors": _LOOK_UP,
    "functions": _LOOK_UP,
    "schema": _LOOK_UP,
    "mcp": _LOOK_UP,
    "status": _NOW,
    "top": _NOW,
    "tap": _NOW,
    "loglevel": _NOW,
    "scale": _NOW,
    "wait": _NOW,
    "stop": _NOW,
    "nodes": _NOW,
    "logs": _LOOK_BACK,
    "runs": _LOOK_BACK,
    "report": _LOOK_BACK,
    "checkpoints": _LOOK_BACK,
    "savepoint": _LOOK_BACK,
    "state": _LOOK_BACK,
    "dlq": _LOOK_BACK,
    "cdc": _LOOK_BACK,
}
"""Each command (a module of this room), with its panel in the help."""
_BOXES_MIN = 76
_ENTRIES = {
    "test": "run_tests",
    "dlq": "app",
    "cdc": "app",
    "checkpoints": "app",
    "state": "app",
    "schema": "app",
}
"""The entry point of a module, if it is not a function with the command's name."""


def app(names: Iterable[str] = _COMMANDS) -> typer.Typer:
    """The command line with these commands. To create all of them takes 20 ms."""
    command_line = typer.Typer(
        name=_NAME,
        help="Data integration from one YAML file: batch and streaming on one engine, exactly once.",
        epilog="dataflare COMMAND --help shows more about a command.",
        add_completion=True,
        rich_markup_mode="rich" if _has_room() else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    command_line.callback()(everywhere)
    for name in names:
        module, panel = importlib.import_module(f"dataflare.cli.{name}"), _COMMANDS[name]
        entry = getattr(module, _ENTRIES.get(name, name))
        if isinstance(entry, typer.Typer):
            command_line.add_typer(entry, name=name, rich_help_panel=panel)
        else:
            command_line.command(name, rich_help_panel=panel)(entry)
    return command_line


def _has_room() -> bool:
    """Whether the help fits into boxes. In a narrow terminal they cut words and names of options."""
    return shutil.get_terminal_size().columns >= _BOXES_MIN


def _print_version(is_set: bool) -> None:
    if is_set:
        from dataflare import __version__

        print(f"dataflare {__version__}")
        raise typer.Exit


def everywhere(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options of every command. `--debug` is removed before parsing, so that it works anywhere."""


def run_process(args: list[str]) -> int:
    """Run a command line as the only work of this process, and end the process.

    It returns only under a debugger or profiler, which need the shutdown of the interpreter.
    """
    _prepare_streams()
    process.may_end = sys.gettrace() is None and sys.getprofile() is None
    status = process.flush(execute(args))
    process.end(status)
    return status


def _prepare_streams() -> None:
    """Discard text for a closed stream, and escape characters that a stream's encoding does not have."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
        else:
            stream.reconfigure(errors="backslashreplace")


def execute(args: list[str]) -> int:
    """Run one command line and return its exit status. Raises no exception."""
    terminal.show_tracebacks, args = _take_debug(args)
    answers.begin()
    with answers.alone(args):
        return _executed(args)


def _executed(args: list[str]) -> int:
    try:
        return _invoke(args or ["--help"])
    except typer.Exit as ended:
        return ended.exit_code
    except KeyboardInterrupt:  # one that users' code raises is an error where it is called
        return 130
    except BrokenPipeError:
        terminal.point_stdout_nowhere()
        return process.PIPE_CLOSED
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # from Rich, which prints the help
            return process.PIPE_CLOSED
        if _COMPLETION in os.environ:
            return ended.code if isinstance(ended.code, int) else 1
        return _reported(ended, args)  # code that the command calls did it
    except BaseException as raised:
        return _reported(raised, args)


def _reported(raised: BaseException, args: list[str]) -> int:
    try:
        return _report(raised, args)
    except BrokenPipeError:
        terminal.point_stdout_nowhere()
        return process.PIPE_CLOSED


def _invoke(args: list[str]) -> int:
    """Parse and call the command, without Typer's handling of the end, which hides a closed pipe."""
    names = args[:1] if args[0] in _COMMANDS and _COMPLETION not in os.environ else _COMMANDS
    command = typer.main.get_command(app(names))
    if _COMPLETION in os.environ:
        command.main(args, prog_name=_NAME)
    with command.make_context(_NAME, args) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else 0


def _report(raised: BaseException, args: list[str]) -> int:
    """Print an exception as an error block and return the exit status."""
    usage = usage_error(raised, args)
    error = usage or answers.as_error(raised)
    terminal.print_error(error)
    if answers.is_wanted(args):
        if args[:1] == ["run"]:
            from dataflare.cli.run import print_failure

            print_failure(error)
        else:
            answers.print_failure(error)
    return error.exit_status


def _take_debug(args: list[str]) -> tuple[bool, list[str]]:
    end = args.index("--") if "--" in args else len(args)
    other_args = [arg for place, arg in enumerate(args) if place >= end or arg != "--debug"]
    return len(other_args) < len(args), other_args
