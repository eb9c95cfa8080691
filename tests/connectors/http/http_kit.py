"""Workflows over HTTP, run by the command line in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml


@dataclass
class Ran:
    status: int
    result: dict[str, Any]
    errors: str

    @property
    def code(self) -> str | None:
        return (self.result.get("error") or {}).get("code")


def run(folder: Path, workflow: Mapping[str, Any], *more: str, **env: str) -> Ran:
    """Run a workflow in a folder."""
    import os

    (folder / "flow.yaml").write_text(yaml.safe_dump(dict(workflow), sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--json", *more],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ran(done.returncode, json.loads(done.stdout), done.stderr)


def reading(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A workflow that copies an API into out.parquet, and tries nothing again."""
    return {
        "name": "reading",
        "sources": {"api": {"type": "http", "config": dict(config), **more}},
        "destinations": {
            "out": {"type": "file", "inputs": ["api"], "config": {"path": "out.parquet"}}
        },
        "settings": {"restart": {"attempts": 0}, "error_handling": {"retry_count": 0}},
    }


def sending(rows: list[dict[str, Any]], config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A workflow that sends rows to a webhook."""
    return {
        "name": "sending",
        "sources": {"rows": {"type": "inline", "config": {"rows": rows}}},
        "destinations": {
            "hook": {"type": "http", "inputs": ["rows"], "config": dict(config), **more}
        },
        "settings": {"restart": {"attempts": 0}},
    }


def out(folder: Path) -> list[dict[str, Any]]:
    """The rows of out.parquet."""
    return pl.read_parquet(folder / "out.parquet").to_dicts()
