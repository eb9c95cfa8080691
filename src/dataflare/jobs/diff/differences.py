"""Write all differences to a file or another destination.

Always true: they are written when the comparison is done, in one run that replaces what an earlier one wrote.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import polars as pl

from dataflare.jobs.diff.comparing import Sink
from dataflare.jobs.diff.places import place_of, refused
from dataflare.jobs.options import RunOptions
from dataflare.jobs.run import run
from dataflare.sdk import registry
from dataflare.workflow.load import load_text


class Differences:
    """Collects the differences in files of a folder of its own, and writes them."""

    def __init__(self, place: str) -> None:
        """place: as a side is written. Raises WorkflowError (E0129) for one that cannot be written."""
        self._place = place
        self._type, config = place_of(place)
        if self._type not in registry.destination_types():
            raise refused(
                f"rows cannot be written to '{place}'", "name a file or a table of a database"
            )
        modes = registry.destination(self._type).Config.model_fields
        self._config = {**config, **({"mode": "overwrite"} if "mode" in modes else {})}
        self._folder = tempfile.TemporaryDirectory(prefix="dataflare-diff-")
        self._parts = 0

    def begin(self) -> Sink:
        """What takes the differences. Those that were taken before are forgotten."""
        for part in Path(self._folder.name).glob("*.parquet"):
            part.unlink()
        self._parts = 0

        def take(frame: pl.DataFrame) -> None:
            self._parts += 1
            frame.write_parquet(self._part(self._parts))

        return take

    def write(self) -> None:
        """Write them. Nothing is written where there are none. Raises what the run raises."""
        with self._folder as folder:
            if not self._parts:
                return
            tree = {
                "name": "diff", "version": "1.0",
                "sources": {
                    "differences": {"type": "file", "config": {"path": f"{folder}/*.parquet"}}
                },
                "destinations": {
                    "into": {
                        "type": self._type, "inputs": ["differences"], "config": self._config
                    }
                },
            }  # fmt: skip
            workflow = load_text(json.dumps(tree), file="<command line>", base=Path.cwd())
            result = run(workflow, RunOptions(home=Path(folder) / "home"))
            if result.error is not None:
                raise result.error

    def _part(self, number: int) -> Path:
        return Path(self._folder.name) / f"part-{number:06}.parquet"
