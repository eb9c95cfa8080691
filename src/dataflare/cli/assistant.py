"""The tools that `dataflare mcp` offers to assistants.

Each tool is a command of this program, run in a process of its own with `--json`: an assistant sees what a person would,
with the same checks, and no secret. No destination is written, except by `run`, which must be allowed. To look at a
workflow imports its Python modules, so their code runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from dataflare.cli.pages import found_in, page_names, page_text

_PATIENCE_S = 120
_ELSEWHERE = "an included file outside the workflow's folder is wrong at this place; its text is not shown to assistants"
_READ = ToolAnnotations(read_only_hint=True)
_INSTRUCTIONS = """\
DataFlare moves data between systems and transforms it on the way, from one YAML file. Look up connectors, functions and docs
before you write a workflow; validate what you wrote, look at the plan, and preview rows before anything is run."""

File = Annotated[str, Field(description="The path of a workflow file.")]
Name = Annotated[
    str, Field(description="The name of a workflow that has run in the working directory.")
]


def server(*, allow_run: bool) -> MCPServer:
    """allow_run: offer the tool that runs workflows too."""
    from dataflare import __version__

    made = MCPServer("dataflare", instructions=_INSTRUCTIONS, version=__version__)
    for tool in (validate, plan, preview, lineage, connectors, functions, runs, status, logs, dead_letters, docs_search, docs_page):  # fmt: skip
        made.tool(annotations=_READ, structured_output=False)(tool)
    if allow_run:
        made.tool(structured_output=False)(run)
    return made


def validate(
    file: Annotated[str | None, Field(description="The path of a workflow file.")] = None,
    text: Annotated[str | None, Field(description="Or its text, instead of a file.")] = None,
) -> str:
    """Check a workflow without any network: syntax, names, types, expressions, options. Imports the Python modules that it
    names, so their code runs. JSON; errors have a place and help."""
    if (file is None) == (text is None):
        raise ToolError("give either a file or a text")
    if file is not None:
        return _of_file(file, "validate", file, "--json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workflow.yaml"
        path.write_text(text or "", encoding="utf-8")
        return _of_file(str(path), "validate", str(path), "--json")


def plan(file: File) -> str:
    """How a workflow will run: fused steps, pushed-down filters, exchanges, and the guarantee of each destination with its reason. Imports the Python modules of the workflow, so their code runs. JSON."""
    return _of_file(file, "plan", file, "--format", "json")


def preview(
    file: File,
    step: Annotated[str, Field(description="A step, or one output of it (router.eu).")],
    rows: Annotated[int, Field(ge=1, le=1000, description="How many rows.")] = 20,
) -> str:
    """The first rows that reach a step, one JSON object a line. Sources are read, and Python code of the workflow runs; no destination is written."""
    return _of_file(file, "preview", file, step, "--rows", str(rows), "--json")


def lineage(file: File) -> str:
    """Which columns of the sources each column of a destination comes from. Imports the Python modules of the workflow, so their code runs. JSON."""
    return _of_file(file, "lineage", file, "--json")


def connectors(
    type: Annotated[
        str | None, Field(description="One type: its options and an example. Else the list.")
    ] = None,
) -> str:
    """The connectors: what can be read and written, with which options and guarantees. JSON."""
    return _command("connectors", *([type] if type else []), "--json")


def functions(
    name: Annotated[str | None, Field(description="One function. Else the list.")] = None,
) -> str:
    """The functions of the expression language, with signatures and examples. JSON."""
    return _command("functions", *([name] if name else []), "--json")


def runs(workflow: Annotated[str | None, Field(description="Only this workflow's.")] = None) -> str:
    """The newest runs of workflows, with counts and errors. JSON."""
    return _command("runs", *([workflow] if workflow else []), "--json")


def status() -> str:
    """The runs that are active on this machine now: rates, lag, what each step does with its time. JSON."""
    return _command("status", "--json")


def logs(workflow: Name, lines: Annotated[int, Field(ge=1, le=1000)] = 100) -> str:
    """The last lines of the log of a workflow's newest run, one JSON object a line."""
    return _command("logs", workflow, "--lines", str(lines), "--json")


def dead_letters(workflow: Name) -> str:
    """The rows that a workflow refused, with the reason of each. JSON."""
    return _command("dlq", "list", workflow, "--json")


def docs_search(words: Annotated[str, Field(description="A few words.")]) -> str:
    """Search the documentation; the best passages with their pages."""
    found = found_in(words)
    return "\n\n".join(found) if found else f"nothing; the pages are: {', '.join(page_names())}"


def docs_page(page: Annotated[str, Field(description="A page, such as windows.md.")]) -> str:
    """One page of the documentation, as Markdown."""
    text = page_text(page)
    if text is None:
        raise ToolError(f"there is no page '{page}'; there are: {', '.join(page_names())}")
    return text


def run(
    file: File, fresh: Annotated[bool, Field(description="Forget earlier runs.")] = False
) -> str:
    """Run a workflow to its end, or for a minute if it has none, and report what it did. It writes to its destinations. JSON."""
    return _of_file(file, "run", file, "--for", "60s", "--json", *(["--fresh"] if fresh else []))


def _of_file(file: str, *args: str) -> str:
    """What a command prints of a workflow, without texts of files outside its folder: `include` reads any file."""
    said, status = _printed(*args)
    try:
        answer = json.loads(said)
    except ValueError:  # rows, one a line
        return _answered(args[0], said, status)
    shown = _without_texts_of_others(answer, Path(file).resolve().parent)
    said = said if shown == answer else json.dumps(shown, ensure_ascii=False)
    return _answered(args[0], said, status)


def _without_texts_of_others(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_without_texts_of_others(each, folder) for each in value]
    if not isinstance(value, dict):
        return value
    spots = value.get("spots")
    if "code" in value and isinstance(spots, list):
        if all(Path(spot["file"]).resolve().is_relative_to(folder) for spot in spots):
            return value
        return {**value, "message": _ELSEWHERE, "step": None, "notes": [], "help": None}
    return {name: _without_texts_of_others(each, folder) for name, each in value.items()}


def _command(*args: str) -> str:
    """What a command prints. Raises ToolError with it where the command fails."""
    return _answered(args[0], *_printed(*args))


def _answered(command: str, said: str, status: int) -> str:
    # That a workflow is wrong is what `validate` is asked for.
    if status and command != "validate":
        raise ToolError(said)
    return said


def _printed(*args: str) -> tuple[str, int]:
    """What a command prints, and its exit status. An option is never taken from what an assistant gave as a name."""
    if any(given.startswith("-") and given not in _OWN for given in args):
        raise ToolError("a name cannot begin with a dash")
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", *args],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    said = str(done.stdout).strip()
    if not said:
        # Lines of files stand behind a gutter there.
        lines = [line for line in str(done.stderr).splitlines() if not _GUTTER.match(line)]
        said = "\n".join(lines).strip() or "{}"
    return said, done.returncode


_GUTTER = re.compile(r"\s*\d* \|")
_OWN = ("--json", "--format", "--rows", "--lines", "--for", "--fresh")
