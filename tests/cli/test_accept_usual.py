"""`run --accept-usual`: what the command line says arrives at the rules."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import cli

from dataflare.observability.usual import Seen

FLOW = """\
name: nulls
sources: {rows: {type: generate, config: {rows: 100, columns: {n: {sequence: 0}}}}}
transformations:
  check: {type: validate, inputs: [rows], config: {rules: [{name: small, expect: n < 50, allowed: usual, on_fail: fail}]}}
destinations: {out: {type: blackhole, inputs: [check]}}
"""


def test_a_share_that_is_refused_can_be_accepted(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(FLOW)
    folder = tmp_path / ".dataflare" / "nulls"
    folder.mkdir(parents=True)
    day_s = 86_400.0
    seen = [Seen(1_700_000_000 + n * day_s, 0.01) for n in range(20)]
    kept = {"broken_share  check.small": [[each.at, each.value, False] for each in seen]}
    (folder / "usual.json").write_text(json.dumps(kept))
    refused = cli("run", "w.yaml", cwd=tmp_path)
    assert refused.returncode == 1
    assert "E0531" in refused.stderr
    assert "`dataflare run --accept-usual` takes what is there for usual" in refused.stderr
    assert cli("run", "w.yaml", "--accept-usual", cwd=tmp_path).returncode == 0
    (values,) = json.loads((folder / "usual.json").read_bytes()).values()
    assert [each[1] for each in values] == [0.5]
    assert cli("run", "w.yaml", cwd=tmp_path).returncode == 0
