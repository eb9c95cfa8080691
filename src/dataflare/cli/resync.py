"""`dataflare resync`: read a table of a source of changes again."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import answers, common


def resync(
    file: common.File,
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="The source, or of many tables one: shop.orders.",
            show_default=False,
        ),
    ],
    where: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="CONDITION", help="Only the rows where this is true: 'id > 100'."
        ),
    ] = None,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
) -> int:
    """Read a table again whose changes are followed, and replace its copies. Other tables and rows go on.

    A run that is active begins with it within some seconds, else the next run does. `dataflare cdc status` shows how far it is.
    """
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.jobs.resync import resync as ask

    name = ask(workflow, common.home_of(file), table, where)
    if json:
        answers.print_json(
            {"workflow": workflow.name, "source": name, "state": "asked"}, indent=False
        )
    else:
        rows = f" where {where}" if where is not None else ""
        print(f"{name}{rows} is read again: by the run that is active, or by the next one")
    return 0
