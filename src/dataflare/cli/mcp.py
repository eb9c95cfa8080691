"""`dataflare mcp`: the commands of DataFlare as tools for assistants, over the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated

import typer


def mcp(
    allow_run: Annotated[
        bool,
        typer.Option(
            "--allow-run", help="Offer a tool that runs workflows. Else nothing is written."
        ),
    ] = False,
) -> int:
    """Serve assistants over standard input and output, by the Model Context Protocol."""
    try:
        from dataflare.cli.assistant import server
    except ModuleNotFoundError as error:
        from dataflare.sdk.registry import missing_library

        raise missing_library("dataflare mcp", error) from error
    server(allow_run=allow_run).run("stdio")
    return 0
