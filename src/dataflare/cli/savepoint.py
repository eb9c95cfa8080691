"""`dataflare savepoint`: keep the state of a workflow under a name."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import answers, common, human


def savepoint(
    workflow: common.Name,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The savepoint's name.", show_default=False),
    ],
    json: common.Json = False,
) -> int:
    """Keep a workflow's positions and state under a name, until you delete it.

    A workflow that runs takes a checkpoint for it. Of a stopped one the last checkpoint is kept. Go on from it
    with `dataflare run FILE --from NAME`, also after the workflow has changed.
    """
    folder = common.workflow_folder(workflow)
    from dataflare.jobs.savepoint_requests import savepoint as take

    manifest = take(folder, name)
    num_bytes = len(manifest.to_text()) + sum(c.num_bytes for c in manifest.chunks.values())
    if json:
        facts = {"workflow": workflow, "savepoint": name, "epoch": manifest.epoch}
        answers.print_json({**facts, "bytes": num_bytes}, indent=False)
    else:
        size = human.size(num_bytes)
        print(f"savepoint '{name}' of '{workflow}': checkpoint {manifest.epoch}, {size}")
        print(f"go on from it with: dataflare run FILE --from {name}")
    return 0
