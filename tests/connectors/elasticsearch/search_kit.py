"""An index of its own for a test, and runs that write and read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servers.opensearch import OpenSearch

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

WRITE = """\
name: write
settings: {{parallelism: 1, restart: {{attempts: 0}}}}
sources:
  rows: {{type: inline, config: {{rows: {rows}}}{schema}}}
destinations:
  out:
    type: opensearch
    inputs: [rows]
    config: {{connection: "URL", index: "INDEX", {more}}}
{handling}"""


class Place:
    """server: where the index is. folder: for runs."""

    def __init__(self, server: OpenSearch, folder: Path, index: str) -> None:
        self.server, self.folder, self.index = server, folder, index

    def run(self, workflow: str, home: str = "home", url: str = "", **options: Any) -> RunResult:
        """A run of a workflow with this index and this server in it."""
        text = workflow.replace("INDEX", self.index).replace("URL", url or self.server.url)
        return run(load_text(text, base=self.folder), RunOptions(self.folder / home, **options))

    def write(
        self,
        rows: Sequence[dict[str, Any]],
        more: str = "id_field: id",
        *,
        handling: str = "",
        schema: str = "",
        **options: Any,
    ) -> RunResult:
        """A run that writes these rows."""
        workflow = WRITE.format(
            rows=json.dumps([*rows]),
            more=more,
            schema=f", schema: {{{schema}}}" if schema else "",
            handling=f"    error_handling: {{{handling}}}\n" if handling else "",
        )
        return self.run(workflow, **options)

    def documents(self, suffix: str = "") -> dict[str, Any]:
        return self.server.documents(self.index + suffix)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request about the index."""
        return self.server.ask(method, f"/{self.index}{path}", body)
