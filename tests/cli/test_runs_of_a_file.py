"""`runs --file` names the workflow by its file, from any folder; `dlq purge` answers in JSON."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import cli

WORKFLOW = """\
name: named
settings: {error_handling: {on_error: dead_letter}}
sources: {rows: {type: file, config: {path: in.csv}, schema: {id: int64}}}
destinations: {out: {type: blackhole, inputs: [rows]}}
"""


def test_runs_and_letters_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "in.csv").write_text("id\n1\nx\n")
    (folder / "w.yaml").write_text(WORKFLOW)
    assert cli("run", "project/w.yaml", cwd=tmp_path).returncode == 0
    listed = cli("runs", "--file", "project/w.yaml", "--json", cwd=tmp_path)
    assert [each["workflow"] for each in json.loads(listed.stdout)] == ["named"]
    purge = ["dlq", "purge", "named", "--file", "project/w.yaml", "--yes", "--json"]
    answers = [json.loads(cli(*purge, cwd=tmp_path).stdout) for _ in range(2)]
    assert answers == [{"workflow": "named", "purged": n} for n in (1, 0)]
    told = cli("runs", "--file", "project/w.yaml", cwd=tmp_path).stdout
    assert "1 row failed" in told
