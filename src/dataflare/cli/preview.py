"""`dataflare preview`: show the first rows that reach a step."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import answers, common, complete, terminal


def preview(
    file: common.File,
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP",
            help="A step, or one output of it (router.eu).",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ],
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """Show the first rows that reach a step. Nothing is written."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.cli import frames
    from dataflare.jobs.preview import look

    result = look(workflow, step, rows)
    for name, doubts in result.doubts.items():
        for doubt in doubts:
            terminal.print_warning(f"step '{name}': {doubt}")
    for name, failed in result.failures.items():
        were = "row failed and was" if failed.rows == 1 else "rows failed and were"
        reason = f"; the first: {failed.first}" if failed.first else ""
        terminal.print_warning(f"step '{name}': {failed.rows:,} {were} left out{reason}")
    if json:
        with answers.printing():
            frames.write_ndjson(result.rows)
        return 0
    frames.print_frame(result.rows)
    for name, findings in result.findings.items():
        if findings:
            print(f"{name}: " + ", ".join(f"{fact} {text}" for fact, text in findings.items()))
    return 0
