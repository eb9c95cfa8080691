"""`dataflare schema`: the JSON Schema of the workflow file, for editors; `schema history`: what destinations were written with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from dataflare.cli import answers, common, human, tables
from dataflare.cli.status import File, KnownWorkflow
from dataflare.errors import ConfigError, WorkflowError, did_you_mean

app = typer.Typer(
    name="schema",
    help="Print the JSON Schema of the workflow file, for editors that complete and check YAML.",
)


@app.command("history")
def history(
    workflow: KnownWorkflow,
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="Only this destination.", show_default=False),
    ] = None,
    file: File = None,
    json: common.Json = False,
) -> int:
    """Show with which columns each destination was written, since which run, and what changed then."""
    from dataflare.jobs.schema_history import differences, schema_history

    kept = schema_history(common.workflow_folder(workflow, file))
    if step is not None:
        if step not in kept:
            raise WorkflowError(
                f"no run of '{workflow}' wrote a destination '{step}'",
                code="E0108",
                notes=[f"destinations: {', '.join(kept) or 'none'}"],
                help=did_you_mean(step, kept),
            )
        kept = {step: kept[step]}
    rows = [
        (name, version, [*differences(before, version)])
        for name, versions in kept.items()
        for before, version in zip([None, *versions], versions, strict=False)
    ]
    if json:
        answers.print_json(
            [
                {
                    "destination": name,
                    "run_id": version.run_id,
                    "at": version.at,
                    "place": version.place,
                    "columns": version.columns,
                    "changes": changes,
                }
                for name, version, changes in rows
            ]
        )
    elif not rows:
        print(f"no run of '{workflow}' has written a destination yet")
    else:
        shown = [
            (name, human.moment(version.at), version.run_id, len(version.columns), "; ".join(changes))
            for name, version, changes in rows
        ]  # fmt: skip
        columns = ("destination", "since", "run", "columns", "what changed")
        tables.print_table(columns, shown, right=("columns",))
    return 0


@app.callback(invoke_without_command=True)
def schema(context: typer.Context) -> int:
    """Print the JSON Schema of the workflow file, for editors that complete and check YAML."""
    if context.invoked_subcommand is not None:
        return 0
    from dataflare.operators import registry as steps
    from dataflare.sdk import registry as connectors
    from dataflare.workflow.jsonschema import json_schema

    answers.print_json(
        json_schema(
            _configs(connectors.source_types(), connectors.source),
            _configs(steps.step_types(), steps.step),
            _configs(connectors.destination_types(), connectors.destination),
        )
    )
    return 0


def _configs(types: Iterable[str], find: Callable[[str], type[Any]]) -> dict[str, Any]:
    """Config models by type, without the types whose library is not installed."""
    configs = {}
    for type_ in types:
        try:
            configs[type_] = find(type_).Config
        except ConfigError:
            continue
    return configs
