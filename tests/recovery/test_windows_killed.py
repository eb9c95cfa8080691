"""SIGKILL at random moments of a run with windows, sessions and a join of streams: the same rows as undisturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import psycopg
import pytest
from servers import postgres as servers

KILLS, SEED, ROWS = 25, 20_261, 30_000

WORKFLOW = """\
name: windows
version: "1.0"
settings:
  mode: streaming
  parallelism: 1
  checkpoint: {{interval: 30ms}}
  batch: {{initial: 300, min: 100, max: 1000}}
sources:
  clicks:
    type: generate
    config:
      rows: {rows}
      rate: 1000000/s
      seed: 7
      columns:
        id: {{sequence: 0}}
        user: {{int: [1, 40]}}
        amount: {{int: [0, 100]}}
        at: {{time: {{start: "2026-01-01T00:00:00Z", step: 100ms, jitter: 8s}}}}
    event_time: {{column: at, out_of_orderness: 6s}}
  views:
    type: generate
    config:
      rows: {rows}
      rate: 1000000/s
      seed: 8
      columns:
        view: {{sequence: 0}}
        user: {{int: [1, 40]}}
        at: {{time: {{start: "2026-01-01T00:00:00Z", step: 100ms, jitter: 3s}}}}
    event_time: {{column: at, out_of_orderness: 3s}}
transformations:
  wide:
    type: window
    inputs: [clicks]
    config: {{kind: tumbling, size: 20s, group_by: [user], measures: {{n: "count(*)", total: "sum(amount)", ids: "sum(id)"}}}}
  moving:
    type: window
    inputs: [clicks]
    config: {{kind: sliding, size: 30s, slide: 10s, group_by: [user], measures: {{n: "count(*)", most: "max(id)"}}}}
  visits:
    type: window
    inputs: [clicks]
    config: {{kind: session, gap: 5s, group_by: [user], measures: {{n: "count(*)", first: "min(id)"}}}}
  seen:
    type: join
    inputs: [clicks, views]
    config: {{kind: inner, on: [user], within: 200ms, suffix: _view}}
destinations:
  wide_out: {{type: postgres, inputs: [wide], config: {{connection_string: "{dsn}", table: {prefix}_wide}}}}
  late_out: {{type: postgres, inputs: [wide.late], config: {{connection_string: "{dsn}", table: {prefix}_late}}}}
  moving_out: {{type: file, inputs: [moving], config: {{path: out/moving.parquet}}}}
  visits_out: {{type: file, inputs: [visits], config: {{path: out/visits/, format: parquet}}}}
  seen_out: {{type: file, inputs: [seen], config: {{path: out/seen.parquet}}}}
"""


class Folder:
    """A folder with the workflow, its state and its files; tables in the server have its name."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder, self.dsn, self.prefix = folder, dsn, folder.name
        folder.mkdir()
        text = WORKFLOW.format(rows=ROWS, dsn=dsn, prefix=self.prefix)
        (folder / "w.yaml").write_text(text)

    def start(self, *options: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
        command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet", *options]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> None:
        process = self.start()
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    def contents(self) -> dict[str, pl.DataFrame]:
        with psycopg.connect(self.dsn) as db:
            tables = {
                name: pl.DataFrame(
                    db.execute(f"select * from {self.prefix}_{name}").fetchall(), orient="row"
                )
                for name in ("wide", "late")
            }
        out = self.folder / "out"
        files = {name: pl.read_parquet(out / f"{name}.parquet") for name in ("moving", "seen")}
        visits = pl.read_parquet(out / "visits/*.parquet")
        whole = {**tables, **files, "visits": visits}
        return {name: frame.sort(frame.columns) for name, frame in whole.items()}


@pytest.mark.rotates(3)
def test_windows_sessions_and_joins_killed_at_random_moments(tmp_path: Path) -> None:
    rng, died = random.Random(SEED), 0
    with servers.server() as server:
        undisturbed = Folder(tmp_path / "undisturbed", server.dsn())
        undisturbed.finish()
        disturbed = Folder(tmp_path / "disturbed", server.dsn())
        slow = [
            part
            for name in ("clicks", "views")
            for part in ("--set", f"sources.{name}.config.rate=3000/s")
        ]
        while died < KILLS:
            parallelism = f"settings.parallelism={rng.randint(1, 3)}"
            process = disturbed.start(*slow, "--set", parallelism)
            try:
                process.communicate(timeout=rng.uniform(0.5, 1.6))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                died += 1
            else:
                break
        assert died > KILLS // 2
        disturbed.finish()
        expected, got = undisturbed.contents(), disturbed.contents()
    for name, frame in expected.items():
        assert frame.height > 100, name
        assert got[name].equals(frame), name
