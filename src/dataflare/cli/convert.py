"""`dataflare convert`: a workflow file as Python, or Python as a workflow file."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common
from dataflare.cli.usage import bad_usage
from dataflare.errors import DataFlareError, Spot, WorkflowError
from dataflare.sdk.user_exits import described, is_interrupt

if TYPE_CHECKING:
    from dataflare.workflow.dsl import Workflow

_RUN_NAME = "__dataflare_convert__"


def convert(
    file: common.File,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Write there; by default it is printed."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: common.Json = False,
) -> int:
    """Turn a workflow file into Python that builds the same workflow, or such Python into a file.

    A Python file is run to build its workflow, without the code under `if __name__ == "__main__"`.
    Relative paths are not changed, so write the result beside the original. A workflow file cannot name
    a function of the script: move the function to a module beside it.
    """
    common.require_file(file)
    if output is not None and output.exists() and not force:
        raise bad_usage(f"'{output}' exists already: --force overwrites it")
    is_script = file.suffix == ".py"
    text = _as_yaml(file) if is_script else _as_python(file)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if json:
        format_ = "yaml" if is_script else "python"
        answers.print_json({"format": format_, "output": output, "text": text})
    elif output is None:
        print(text, end="")
    return 0


def _as_python(file: Path) -> str:
    from dataflare.workflow.dsl import Workflow
    from dataflare.workflow.dsl.source_code import to_python

    return to_python(Workflow.from_yaml(file))


def _as_yaml(file: Path) -> str:
    return _built_by(file).to_yaml()


def _built_by(file: Path) -> Workflow:
    """The only workflow among a script's variables. Raises WorkflowError (E0126)."""
    from dataflare.workflow.dsl import Workflow

    sys.path.insert(0, str(file.parent.absolute()))
    try:
        # The script's output must not be in the printed file.
        with contextlib.redirect_stdout(sys.stderr):
            names = runpy.run_path(str(file), run_name=_RUN_NAME)
    except DataFlareError:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise _broken(file, error) from error
    finally:
        sys.path.pop(0)
    workflows = {id(each): each for each in names.values() if isinstance(each, Workflow)}
    if len(workflows) != 1:
        names_found = ", ".join(sorted(each.name for each in workflows.values()))
        raise WorkflowError(
            f"'{file}' builds {len(workflows)} workflows where one was expected",
            code="E0126",
            notes=[f"it builds: {names_found}"] if workflows else [],
            help="keep the workflow in a variable of the module, outside of any function"
            if not workflows
            else "write each into a separate file",
        )
    return next(iter(workflows.values()))


def _broken(file: Path, error: BaseException) -> WorkflowError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    spot = None
    if line:
        text = file.read_text(encoding="utf-8", errors="replace").splitlines()[line - 1]
        spot = Spot(str(file), line, len(text) - len(text.lstrip()) + 1, len(text.strip()), text)
    return WorkflowError(
        f"'{file}' {described(error)}",
        code="E0126",
        spot=spot,
        help='put what it runs as a script under if __name__ == "__main__":'
        if isinstance(error, SystemExit)
        else "check that python runs it",
    )
