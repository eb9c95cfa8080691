"""Splits that were read before an attempt stay read after the next one, however often it crashes."""

from __future__ import annotations

from pathlib import Path

from dataflare import Workflow
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource


def rows(first: int, end: int) -> list[dict[str, int]]:
    return [{"id": number} for number in range(first, end)]


def test_two_crashes_read_no_finished_split_again(tmp_path: Path) -> None:
    source = ScriptedSource(
        [*rows(0, 10), Checkpoint()],
        [*rows(10, 20), Checkpoint(), Crash(), *rows(20, 22)],
        [*rows(22, 30), Checkpoint(), Crash(), *rows(30, 33)],
    )
    workflow = Workflow("two_crashes", parallelism=1)
    source.add_to(workflow, "numbers").to("out", "memory")
    lab = Lab(tmp_path)
    assert lab.run(workflow).status == "finished"
    assert sorted(row["id"] for row in lab.rows("out")) == list(range(33))


def test_old_checkpoints_are_collected_while_a_run_goes_on(tmp_path: Path) -> None:
    part = [each for n in range(12) for each in (*rows(n * 5, n * 5 + 5), Checkpoint())]
    workflow = Workflow("many", parallelism=1)
    ScriptedSource(part).add_to(workflow, "numbers").to("out", "memory")
    lab = Lab(tmp_path)
    assert lab.run(workflow).status == "finished"
    kept = sorted(path.name for path in tmp_path.rglob("manifest-*.json"))
    assert 1 <= len(kept) <= 3, kept
    assert len(lab.rows("out")) == 60
