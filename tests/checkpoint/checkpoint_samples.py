"""Manifests, markers and child processes that the tests of this folder share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataflare.checkpoint.manifest import (
    Manifest,
    OperatorSnapshot,
    SourceSnapshot,
    SplitState,
    StateChunk,
)
from dataflare.model.progress import Position, Split
from dataflare.sdk.destination import Committable, Marker

LINEAGE = "0f8fad5b-d9cb-469f-a165-70867728950e"


def manifest(
    epoch: int,
    chunks: Sequence[StateChunk] = (),
    *,
    lineage: str = LINEAGE,
    redo: Mapping[str, str] | None = None,
) -> Manifest:
    """A small one. redo: the redo file that each destination's committable names."""
    return Manifest(
        lineage=lineage,
        run_id="01J00000000000000000000000",
        attempt=1,
        epoch=epoch,
        created_at="2024-01-31T12:00:00.000Z",
        operators={"totals": (OperatorSnapshot(0, tuple(chunks), {"rows": 3}),)},
        committables={
            step: (Committable(0, {"file": name, "rows": 3}),)
            for step, name in (redo or {}).items()
        },
    )


def rich_manifest() -> Manifest:
    """One that uses everything a manifest has."""
    first, second = Split("a.csv", {"path": "dätä/a.csv"}, 10), Split("b.csv")
    later = Split("c.csv", {"size": 3})
    odd_name = b"caf\xe9".decode("utf-8", "surrogateescape")
    return Manifest(
        lineage=LINEAGE,
        run_id="01J00000000000000000000000",
        attempt=3,
        epoch=41,
        created_at="2024-01-31T12:00:00.000Z",
        final=True,
        fingerprints={"orders": "ab12", "totals": "cd34"},
        sources={
            "orders": SourceSnapshot(
                (first, second),
                {
                    "a.csv": SplitState(first, Position({"byte": 2**53 + 1, "name": odd_name})),
                    "c.csv": SplitState(later, None, done=True),
                },
                {"cursor": ["2024-01-01", 1.5, None]},
            )
        },
        operators={
            "totals": (
                OperatorSnapshot(
                    1, (StateChunk("totals-1.arrow", 10, 200, "0" * 16, (64, 127)),), [1, "x"]
                ),
            )
        },
        committables={"out": (Committable(0, {"file": "41-0.arrow"}), Committable(1))},
        counters={"orders": {"rows_out": 12}},
    )


def marker(epoch: int, *, text: str | None = None, can_rewind: bool = False) -> Marker:
    return Marker(epoch, 1, text, can_rewind)


def child(script: str, *args: str | Path, crash_at: str = "") -> subprocess.Popen[str]:
    """A Python process that runs `script`; its arguments are in `sys.argv[1:]`."""
    environment = {
        **os.environ,
        "DATAFLARE_CRASH_AT": crash_at,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
