"""A run reads only files that earlier runs have not read, where its rows are appended."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.checkpoint.runs import RunLog
from dataflare.jobs.letters import LetterBox
from dataflare.jobs.replay import replay
from dataflare.planner import plan

WORKFLOW = """\
name: load
version: "1.0"
sources:
  s: {type: file, config: {path: PATH, OPTIONS}}
destinations:
  out: {type: sqlite, inputs: [s], config: {path: out.db, table: t, MODE}}
MORE
"""


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "in").mkdir()
        self.write()

    def write(
        self, options: str = "", mode: str = "mode: append", path: str = "in", more: str = ""
    ) -> None:
        text = WORKFLOW.replace("OPTIONS", options).replace("MODE", mode).replace("PATH", path)
        (self.folder / "w.yaml").write_text(text.replace("MORE", more))

    def put(self, name: str, text: str, *, add: bool = False) -> Path:
        path = self.folder / "in" / name
        with path.open("a" if add else "w", newline="") as file:
            file.write(text)
        return path

    def run(self, **options: bool) -> RunResult:
        return run(
            load(self.folder / "w.yaml"), RunOptions(home=self.folder / ".dataflare", **options)
        )

    def finish(self, **options: bool) -> RunResult:
        result = self.run(**options)
        assert result.error is None, result.error
        return result

    def rows(self) -> list[int]:
        with sqlite3.connect(self.folder / "out.db") as db:
            return sorted(row[0] for row in db.execute("select a from t"))

    def plan_notes(self) -> str:
        made = plan(load(self.folder / "w.yaml"), home=self.folder / ".dataflare")
        notes = made.listing_notes(self.folder / ".dataflare")
        shown = next(n for n in made.view(notes=notes)["nodes"] if n["id"] == "s")
        return "\n".join(shown["notes"])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.put("1.csv", "a,b\n1,x\n2,x\n")
    made.put("2.csv", "a,b\n3,x\n")
    return made


def test_a_second_run_reads_what_is_new_and_says_so(project: Project) -> None:
    assert project.finish().notes == []
    assert "2 files were read by earlier runs" in project.plan_notes()
    result = project.finish()
    assert project.rows() == [1, 2, 3]
    assert "2 files were read by earlier runs" in result.notes[0]
    assert result.steps["s"]["rows_out"] == 0
    project.put("3.csv", "a,b\n4,x\n")
    assert "2 files were read" in project.finish().notes[0]
    assert project.rows() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_grown_file_of_lines_goes_on_where_it_ended(
    project: Project, kind: str, ended: bool
) -> None:
    shutil.rmtree(project.folder / "in")
    (project.folder / "in").mkdir()
    head, line = ("a,b\n", "{},x") if kind == "csv" else ("", '{{"a": {}, "b": "x"}}')
    end = "\n" if ended else ""
    name = f"log.{kind}"
    project.put(name, head + "\n".join(line.format(n) for n in (1, 2)) + end)
    project.finish()
    project.put(name, ("" if ended else "\n") + line.format(3) + "\n", add=True)
    assert "1 file has grown" in project.finish().notes[0]
    project.put(name, line.format(4) + "\n", add=True)
    project.finish()
    project.finish()
    assert project.rows() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.csv", ["a,b\n5,x\n6", ",y\n7,z\n"]),
        ("a.csv", ['a,b\n5,x\n6,"y\nz', '"\n7,z\n']),
        ("a.csv", ["a,b\n5,x\n6", ",y\n7", ",z"]),
        ("a.ndjson", ['{"a":5}\n{"a":6,"b":"', 'y"}\n{"a":7}\n']),
        ("a.ndjson", ['{"a":5,"b":"x"}\n{"a":6', "}\n", '{"a":7}']),
    ],
)
def test_a_last_line_that_is_not_complete_waits_for_the_next_run(
    tmp_path: Path, name: str, parts: list[str]
) -> None:
    project = Project(tmp_path)
    project.write(path=f"in/{name}")
    for place, part in enumerate(parts):
        project.put(name, part, add=True)
        result = project.run()
        assert result.error is None
        is_last = place + 1 == len(parts)
        waits = any("waits for the next run" in each for each in result.warnings)
        assert waits == (not is_last and not part.endswith("}\n"))
        assert result.steps["s"]["errors"] == 0
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert [a for (a,) in db.execute("select a from t order by a")] == [5, 6, 7]


def test_a_complete_last_line_needs_no_line_break(project: Project) -> None:
    project.put("3.csv", "a,b\n3,x")
    result = project.run()
    assert result.error is None
    assert 3 in project.rows()
    assert not result.warnings


def test_where_all_files_are_read_a_last_line_is_a_row(project: Project) -> None:
    project.write(options="new_only: false")
    project.put("3.csv", "a,b\n3")
    result = project.run()
    assert result.error is not None
    assert result.error.code == "E0502"


def test_a_line_that_was_cut_when_it_was_read_is_a_changed_file(project: Project) -> None:
    project.put("2.csv", "a,b\n3")
    project.put("2.csv", "a,b\n3,xy")
    project.finish()
    project.put("2.csv", "z\n4,x\n", add=True)
    result = project.run()
    assert result.error is not None
    assert result.error.code == "E0808"
    assert "last line" in result.error.message


@pytest.mark.parametrize(
    "text",
    ["a,b\n7,x\n8,x\n", "a,b\n1,x\n", "a,b\n9,x\n10,x\n11,x\n"],
    ids=["same", "less", "more"],
)
def test_a_rewritten_file_follows_the_rule(project: Project, text: str) -> None:
    project.finish()
    project.put("1.csv", text)
    result = project.run()
    assert result.error is not None
    assert (result.error.code, result.error.exit_status) == ("E0808", 1)
    assert "1.csv" in result.error.message
    assert result.error.step == "s"
    for way in ("read_again", "ignore", "new_only: false", "--fresh"):
        assert way in result.error.help
    assert "E0808" in project.plan_notes()
    assert project.rows() == [1, 2, 3]
    project.write("changed: ignore")
    assert "ignored: in/1.csv" in " ".join(project.finish().notes)
    assert project.rows() == [1, 2, 3]
    project.write("changed: read_again")
    project.finish()
    project.finish()
    again = [int(line.split(",")[0]) for line in text.splitlines()[1:]]
    assert project.rows() == sorted([1, 2, 3, *again])


def test_a_change_far_from_both_ends_of_a_grown_file_is_found(project: Project) -> None:
    rows = "".join(f"{n},x\n" for n in range(20_000))
    project.put("1.csv", "a,b\n" + rows)
    project.finish()
    project.put("1.csv", "a,b\n" + rows.replace("10000,x", "10000,y") + "20000,x\n")
    result = project.run()
    assert result.error is not None
    assert (result.error.code, "other content" in result.error.message) == ("E0808", True)


@pytest.mark.parametrize("name", ["1.csv", "3.csv.gz"])
def test_a_file_that_was_only_touched_is_the_same(project: Project, name: str) -> None:
    (project.folder / "in" / "3.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"4,x\n" * 50))
    project.finish()
    os.utime(project.folder / "in" / name, ns=(1, 1))
    assert "3 files were read" in project.finish().notes[0]
    assert project.rows() == [1, 2, 3, *[4] * 50]


def test_a_grown_gzip_file_is_a_changed_one(project: Project) -> None:
    path = project.folder / "in" / "3.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n4,x\n"))
    project.finish()
    path.write_bytes(path.read_bytes() + gzip.compress(b"5,x\n"))
    result = project.run()
    assert result.error is not None
    assert (result.error.code, "grown" in result.error.message) == ("E0808", True)


def test_fresh_forgets_what_was_read(project: Project) -> None:
    project.finish()
    project.finish(fresh=True)
    assert project.rows() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("options", ["", "new_only: true"])
@pytest.mark.parametrize("damage", ["drop table t", "delete from t", None])
@pytest.mark.parametrize("new", [False, True])
def test_a_table_that_lost_its_rows_is_noticed(
    project: Project, options: str, damage: str | None, new: bool
) -> None:
    """The user who emptied it wants all files again, or only those to come, and says which."""
    project.write(options)
    project.finish()
    if damage is None:
        (project.folder / "out.db").unlink()
    else:
        with sqlite3.connect(project.folder / "out.db") as db:
            db.execute(damage)
    if new:
        project.put("3.csv", "a,b\n4,x\n")
    for _ in range(2):
        error = project.run().error
        assert error is not None
        assert (error.code, error.exit_status, error.step) == ("E0807", 2, "out")
        assert "--fresh" in error.help
        assert "--accept-changes" in error.help
    if new:
        project.finish(accept_changes=True)
        assert project.rows() == [4]
        project.put("5.csv", "a,b\n6,x\n")
        project.finish()  # it has rows again
        assert project.rows() == [4, 6]
    else:
        project.finish(fresh=True)
        assert project.rows() == [1, 2, 3]


def test_a_table_that_lost_its_rows_does_not_matter_where_all_files_are_read(
    project: Project,
) -> None:
    project.write("new_only: false")
    project.finish()
    with sqlite3.connect(project.folder / "out.db") as db:
        db.execute("delete from t")
    project.finish()
    assert project.rows() == [1, 2, 3]


def test_new_only_false_reads_all_files_each_time(project: Project) -> None:
    project.write("new_only: false")
    project.finish()
    project.finish()
    assert project.rows() == [1, 1, 2, 2, 3, 3]
    assert "reads all files in each run" in project.plan_notes()


@pytest.mark.parametrize(
    "mode", ["mode: overwrite", "mode: upsert, key: [a]", "mode: mirror, key: [a]"]
)
def test_other_modes_get_all_files_by_default(project: Project, mode: str) -> None:
    project.write(mode=mode)
    project.finish()
    result = project.finish()
    assert project.rows() == [1, 2, 3]
    assert (result.steps["s"]["rows_out"], result.notes) == (3, [])


def test_a_run_with_nothing_new_does_not_empty_what_is_overwritten(project: Project) -> None:
    project.write("new_only: true", mode="mode: overwrite")
    project.finish()
    assert "2 files were read" in project.finish().notes[0]
    assert project.rows() == [1, 2, 3]
    project.put("3.csv", "a,b\n4,x\n")
    project.finish()
    assert project.rows() == [4]


def test_one_destination_that_is_overwritten_makes_all_be_read_and_plan_says_so(
    project: Project,
) -> None:
    project.write(more="  file: {type: file, inputs: [s], config: {path: all.csv}}")
    project.finish()
    notes = project.plan_notes()
    assert "appends their rows to 'out' each time: 'file' is not appended to" in notes
    project.finish()
    assert project.rows() == [1, 1, 2, 2, 3, 3]


def test_earlier_runs_that_wrote_no_rows_do_not_forbid_the_next(project: Project) -> None:
    for name in ("1.csv", "2.csv"):
        project.put(name, "a,b\n")
    project.put("1.csv", "a,b\n1,x\n")
    text = (project.folder / "w.yaml").read_text()
    filtered = "transformations: {f: {type: filter, inputs: [s], config: {condition: a > 1}}}\n"
    text = text.replace("inputs: [s]", "inputs: [f]").replace(
        "destinations:", filtered + "destinations:"
    )
    (project.folder / "w.yaml").write_text(text)
    project.finish()
    project.put("3.csv", "a,b\n4,x\n")
    project.finish()
    assert project.rows() == [4]


def test_the_ledger_of_thousands_of_files_is_small(project: Project) -> None:
    for n in range(3000):
        project.put(f"part-{n:05}.csv", f"a,b\n{n},x\n")
    project.finish()
    current = RunLog(project.folder / ".dataflare" / "load").current()
    assert current is not None
    packed = current.carried["s"]
    assert packed["files"] == 3002
    assert len(packed["ledger"]) < 100 * 3002


@pytest.mark.parametrize("point", ["engine.after_manifest", "engine.after_commit", "run.finished"])
def test_a_run_that_was_killed_remembers_its_files_and_those_before_it(
    project: Project, point: str
) -> None:
    project.finish()
    project.put("3.csv", "a,b\n4,x\n")
    project.put("2.csv", "5,x\n", add=True)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    killed = subprocess.run(
        command, cwd=project.folder, env={**environ, "DATAFLARE_CRASH_AT": point}
    )
    assert killed.returncode == -signal.SIGKILL
    project.finish()
    project.finish()
    assert "3 files were read" in project.finish().notes[0]
    assert project.rows() == [1, 2, 3, 4, 5]


def test_a_folder_whose_parts_were_deleted_is_noticed(project: Project) -> None:
    """The hidden file beside the folder, which says how many rows were written, is still there."""
    text = (project.folder / "w.yaml").read_text()
    old = "out: {type: sqlite, inputs: [s], config: {path: out.db, table: t, mode: append}}"
    assert old in text
    parts = "out: {type: file, inputs: [s], config: {path: parts/, format: csv}}"
    (project.folder / "w.yaml").write_text(text.replace(old, parts))
    assert project.run().error is None
    for part in (project.folder / "parts").glob("*.csv"):
        part.unlink()
    project.put("more.csv", "a,b\n77,x\n")
    error = project.run().error
    assert error is not None
    assert (error.code, error.step) == ("E0807", "out")
    assert not list((project.folder / "parts").glob("*.csv"))
    assert project.run(fresh=True).error is None
    text = "".join(p.read_text() for p in (project.folder / "parts").glob("*.csv"))
    assert "77,x" in text
    assert text.count("\n") > 2


WINDOWED = """\
name: windowed
version: "1.0"
settings: {error_handling: {on_error: dead_letter}}
sources:
  s:
    type: file
    config: {path: in, format: csv, new_only: true}
    schema: {at: "timestamp[us]", n: string}
    event_time: {column: at}
transformations:
  typed: {type: map, inputs: [s], config: {derive: {v: "cast(n as int64)"}}}
  hours: {type: window, inputs: [typed], config: {kind: tumbling, size: 1h, measures: {total: sum(v)}}}
destinations:
  out: {type: sqlite, inputs: [hours], config: {path: out.db, table: t, mode: upsert, key: [window_start]}}
"""


def test_rows_that_failed_before_a_window_come_in_by_a_fresh_run(tmp_path: Path) -> None:
    """A replay cannot give a window some of its rows. What it says to do, and what the run says, works."""
    project = Project(tmp_path)
    (tmp_path / "w.yaml").write_text(WINDOWED)
    bad = "at,n\n2024-05-01T00:01:00,1\n2024-05-01T00:02:00,x\n"
    project.put("a.csv", bad)
    project.finish()
    workflow = load(tmp_path / "w.yaml")
    box = LetterBox(tmp_path / ".dataflare" / "windowed")
    (reason,) = replay(workflow, box, lambda letter: True).reasons
    assert "step 'hours' needs all of its rows at once" in reason
    assert "--fresh" in reason
    project.put("a.csv", bad.replace("x", "20"))
    error = project.run().error
    assert error is not None
    assert error.code == "E0808"
    assert "needs all of its rows at once, use --fresh" in str(error.help)
    project.finish(fresh=True)
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("select total from t").fetchall() == [(21,)]
    db.close()
