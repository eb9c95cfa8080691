"""A run of four epochs with three destinations in one file, in a process that a test may kill.

Usage: crashing_run.py KIND FOLDER. Stands in for the engine: publishes a manifest between prepare and
commit, and starts from the last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from databases import Step, batch

from dataflare.model.types import Schema
from dataflare.sdk.destination import Committable

SCHEMA = Schema.of({"id": "int64", "v": "string"})
EPOCHS = 4


async def main(kind: str, folder: Path) -> None:
    manifest_path = folder / "manifest.json"
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else None
    attempt = int((folder / "attempt").read_text()) if (folder / "attempt").exists() else 0
    (folder / "attempt").write_text(str(attempt + 1))
    epoch = manifest["epoch"] if manifest else 0
    modes: dict[str, dict[str, Any]] = {
        "added": {"mode": "append"},
        "kept": {"mode": "overwrite"},
        "mirrored": {"mode": "mirror", "key": "id", "complete": True, "delete_max": "100%"},
    }
    steps = {
        name: Step(kind, folder, SCHEMA, step=name, table=name, attempt=attempt + 1, **config)
        for name, config in modes.items()
    }
    final = epoch == EPOCHS
    for name, step in steps.items():
        shares = [Committable.from_json(manifest["shares"][name])] if manifest else []
        step.committer = await step.destination.committer(step.context)
        await step.committer.recover(epoch, shares)
        if shares:
            await step.commit(epoch, shares, final=final)
        step.writer = await step.destination.open(step.context, shares[0] if shares else None)
    for number in range(epoch + 1, EPOCHS + 1):
        final = number == EPOCHS
        rows = [batch([{"id": number * 10 + i, "v": f"row {i}"}]) for i in range(3)]
        shares = {
            name: await step.prepare(number, *rows, final=final) for name, step in steps.items()
        }
        text = {"epoch": number, "shares": {n: made.to_json() for n, made in shares.items()}}
        (folder / "manifest.new").write_text(json.dumps(text))
        os.replace(folder / "manifest.new", manifest_path)
        for name, step in steps.items():
            await step.commit(number, [shares[name]], final=final)
    for step in steps.values():
        await step.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
