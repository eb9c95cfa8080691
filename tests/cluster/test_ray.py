"""`dataflare run --cluster`, on a Ray that the command starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE = """
name: counted
sources: {numbers: {type: generate, config: {rows: 20000, seed: 1, columns: {k: {int: [0, 9]}, v: {int: [0, 99]}}}}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: [k], measures: {n: "count(*)", total: "sum(v)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out.csv}}}
"""


def run(folder: Path, *options: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_local_cluster_gives_what_one_process_gives(tmp_path: Path) -> None:
    texts, steps = [], []
    for name, options in {"one": (), "many": ("--cluster", "local:2")}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "w.yaml").write_text(FILE)
        status, result, told = run(folder, *options)
        assert (status, result["status"]) == (0, "finished"), told
        texts.append(sorted((folder / "out.csv").read_text().splitlines()))
        steps.append(result["steps"])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 11
    assert steps[0] == steps[1]


@pytest.mark.parametrize("where", ["local:0", "local:x", "here", "http://a:1"])
def test_what_is_no_cluster_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "w.yaml").write_text(FILE)
    status, result, _ = run(tmp_path, "--cluster", where)
    error = result["error"]
    assert isinstance(error, dict)
    assert (status, error["code"]) == (2, "E0432")
    assert "local:N" in str(error["help"])


def test_a_run_on_a_local_cluster_gets_more_workers(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(FILE.replace("rows: 20000,", "rows: 20000, rate: 2000/s,"))
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--json", "--cluster", "local:1"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    answer: dict[str, object] = {}
    while not answer.get("now"):
        assert running.poll() is None, running.communicate()[1]
        scale = [sys.executable, "-m", "dataflare", "scale", "counted", "--workers", "2", "--json"]
        done = subprocess.run(scale, cwd=tmp_path, capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout)
    stdout, told = running.communicate(timeout=120)
    assert (running.returncode, json.loads(stdout)["status"]) == (0, "finished"), told
    assert answer["now"] == {"workers": 2, "parallelism": 2}
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == 20_000
