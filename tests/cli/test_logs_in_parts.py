"""`logs` and `logs --follow` of a log whose full part was set aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.observability.logs import FOLDER


def logs(home: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "logs", "shop", *arguments], cwd=home, text=True, check=True,
        capture_output=True, env={**os.environ, "DATAFLARE_HOME": str(home)}, timeout=120,
    )  # fmt: skip
    return [line.split()[-1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("lines", [None, 0, 5, 50])
def test_the_lines_of_both_parts_are_printed_and_counted(lines: int | None, tmp_path: Path) -> None:
    workflow = Workflow("shop", base=tmp_path)
    workflow.frame("rows", pl.DataFrame({"n": [1]})).to("out", "blackhole")
    workflow.run(home=tmp_path)
    folder = tmp_path / "shop" / FOLDER
    folder.mkdir()
    fact = {"time": "2026-01-01T00:00:00.000Z", "level": "info", "component": "run"}
    texts = [json.dumps({**fact, "message": f"line {n}"}) + "\n" for n in range(110)]
    (folder / "R1.ndjson.1").write_text("".join(texts[:100]))
    (folder / "R1.ndjson").write_text("".join(texts[100:]))
    wanted = [str(n) for n in range(110)][110 - (110 if lines is None else lines) :]
    option = [] if lines is None else ["-n", str(lines)]
    assert logs(tmp_path, *option) == wanted
    assert logs(tmp_path, "--follow", *option) == wanted
