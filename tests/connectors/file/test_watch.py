"""A source that watches: each line is read once, whatever happens to its file, and also over restarts."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from file_kit import Reading, read_split, source
from hypothesis import given
from hypothesis import strategies as st

from dataflare import RunOptions, load, run
from dataflare.errors import CheckpointError, RunError, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk.source import KnownSplits


class Watcher:
    """Looks again and again, as the engine does; each look may be that of a new process."""

    def __init__(self, base: Path, **config: object) -> None:
        self.base = base
        self.config = {"path": "app*.ndjson", "watch": True, "settle": 0, **config}
        self.ids: set[str] = set()
        self.listed: list[Split] = []
        self.positions: dict[str, Position] = {}
        self.source = source(self.config, base)

    def restart(self) -> None:
        self.source = source(self.config, self.base)

    def find(self) -> list[Split]:
        if not self.listed:
            self.listed = list(asyncio.run(self.source.splits()))
            found = self.listed
        else:
            known = KnownSplits(self.listed, frozenset(self.ids), frozenset(self.ids))
            found = [
                s for s in asyncio.run(self.source.discover(known)) or () if s.id not in self.ids
            ]
        self.ids |= {split.id for split in found}
        return list(found)

    def rows(self, splits: list[Split]) -> list[int]:
        numbers: list[int] = []
        for split in splits:
            got = asyncio.run(read_split(self.source, split, None, Reading(pl.DataFrame())))
            numbers += [n for frame in got.frames for n in frame["n"]]
            if got.positions:
                self.positions[split.id] = got.positions[-1][1]
        return numbers

    def look(self) -> list[int]:
        return self.rows(self.find())


class Log:
    """A program that writes numbered lines."""

    def __init__(self, base: Path) -> None:
        self.path = base / "app.ndjson"
        self.next, self.files = 0, 0
        self.line()

    def line(self, count: int = 1) -> None:
        with self.path.open("a") as file:
            for _ in range(count):
                file.write(json.dumps({"n": self.next, "text": "x" * (self.next % 7)}) + "\n")
                self.next += 1

    def half(self) -> None:
        """A line in two writes; the first is not a whole line."""
        with self.path.open("a") as file:
            file.write('{"n": ')
        self.pending = True

    def rest(self) -> None:
        with self.path.open("a") as file:
            file.write(f'{self.next}, "text": "half"}}\n')
        self.next += 1

    def rotate(self, *, visible: bool) -> None:
        self.files += 1
        name = f"app-{self.files}.ndjson" if visible else f"app.ndjson.{self.files}"
        self.path.rename(self.path.with_name(name))
        self.line()

    def copy_and_truncate(self) -> None:
        self.files += 1
        shutil.copyfile(self.path, self.path.with_name(f"app.ndjson.{self.files}"))
        os.truncate(self.path, 0)
        self.line()

    def replace(self) -> None:
        self.path.unlink()
        self.line()

    def another(self) -> None:
        self.files += 1
        old, self.path = self.path, self.path.with_name(f"app-other-{self.files}.ndjson")
        self.line(2)
        self.path = old


STEPS = st.lists(
    st.sampled_from(
        ["line", "lines", "half", "seen", "hidden", "copy", "replace", "another", "restart"]
    ),
    max_size=14,
)


@given(STEPS)
def test_each_line_is_read_once(tmp_path_factory, steps):
    base = tmp_path_factory.mktemp("logs")
    log, watcher = Log(base), Watcher(base, settle=3_600)
    got = watcher.look()
    for step in steps:
        match step:
            case "line":
                log.line()
            case "lines":
                log.line(30)
            case "half":
                log.half()
                got += watcher.look()
                log.rest()
            case "seen":
                log.rotate(visible=True)
            case "hidden":
                log.line()  # it was written after the last look, into the file that is rotated now
                log.rotate(visible=False)
            case "copy":
                log.copy_and_truncate()
            case "replace":
                log.replace()
            case "another":
                log.another()
            case "restart":
                watcher.restart()
        got += watcher.look()
    assert sorted(got) == list(range(log.next))
    assert watcher.look() == []


def test_a_file_is_rotated_between_a_look_and_its_reading(tmp_path):
    log, watcher = Log(tmp_path), Watcher(tmp_path)
    assert watcher.look() == [0]
    log.line(3)
    found = watcher.find()
    log.rotate(visible=False)
    assert watcher.rows(found) == [1, 2, 3]
    assert watcher.look() == [4]


def test_lines_that_are_gone_before_they_were_read_are_told(tmp_path):
    log, watcher = Log(tmp_path), Watcher(tmp_path)
    assert watcher.look() == [0]
    log.line(3)
    found = watcher.find()
    log.copy_and_truncate()
    with pytest.raises(CheckpointError) as caught:
        watcher.rows(found)
    assert (caught.value.code, "app.ndjson was removed or truncated" in caught.value.message) == (
        "E0703",
        True,
    )
    lenient = Watcher(tmp_path, changed="ignore")
    lenient.find()
    assert lenient.rows(found) == []


def test_a_quoted_line_end_does_not_end_a_record(tmp_path):
    file = tmp_path / "app.csv"
    file.write_text('n,text\n1,"a\nb"\n2,"c\n')
    watcher = Watcher(tmp_path, path="app.csv", settle=3_600)
    assert watcher.look() == [1]
    with file.open("a") as opened:
        opened.write('d"\n3,e')
    assert watcher.look() == [2]
    with file.open("a") as opened:
        opened.write("f\n")
    assert watcher.look() == [3]


def test_a_last_line_without_an_end_is_read_once_its_file_was_left_alone(tmp_path):
    file = tmp_path / "app.csv"
    file.write_text("n,text\n1,a\n2,b")
    os.utime(file, (1e9, 1e9))
    watcher = Watcher(tmp_path, path="app.csv", settle=5)
    assert watcher.look() == [1, 2]
    with file.open("a") as opened:
        opened.write("\n3,c\n")
    assert watcher.look() == [3]
    with file.open("a") as opened:
        opened.write("4,d")
    os.utime(file, (1e9, 1e9))
    assert watcher.look() == [4]
    with file.open("a") as opened:
        opened.write("d\n")
    with pytest.raises(CheckpointError, match="was read without a line end, and has grown"):
        watcher.look()


def test_it_begins_before_the_first_file(tmp_path):
    (tmp_path / "in").mkdir()
    watcher = Watcher(tmp_path, path="in/*.csv")
    with pytest.raises(SystemError_, match="no file matches") as caught:
        watcher.look()
    assert "'schema'" in str(caught.value.help)
    watcher = Watcher(tmp_path, path="in/*.csv")
    watcher.source = source(watcher.config, tmp_path, contract={"n": "int64", "text": "string"})
    assert watcher.look() == []
    (tmp_path / "in/a.csv").write_text("n,text\n7,a\n")
    assert watcher.look() == [7]
    (tmp_path / "in/b.csv").write_text("text,n\nb,8\n")
    assert watcher.look() == [8]


def test_a_table_is_read_when_it_was_left_alone_and_once(tmp_path):
    def put(name: str, n: int, *, old: bool = True) -> None:
        pl.DataFrame({"n": [n]}).write_parquet(tmp_path / name)
        if old:
            os.utime(tmp_path / name, (1e9 + n, 1e9 + n))

    put("a.parquet", 1)
    watcher = Watcher(tmp_path, path="*.parquet", settle=3_600)
    assert watcher.look() == [1]
    put("b.parquet", 2, old=False)
    assert watcher.look() == []
    put("b.parquet", 2)
    assert watcher.look() == [2]
    (tmp_path / "b.parquet").rename(tmp_path / "c.parquet")
    watcher.restart()
    assert watcher.look() == []
    put("a.parquet", 3)
    with pytest.raises(RunError, match="has been rewritten since"):
        watcher.look()
    watcher.config["changed"] = "read_again"
    watcher.restart()
    assert watcher.look() == [3]


WORKFLOW = """\
name: tails
version: "1.0"
settings: {mode: streaming, checkpoint: {interval: 50ms}}
sources:
  lines: {type: file, config: {path: "in/*.csv", watch: true, watch_interval: 50ms, settle: 0s}}
destinations:
  out: {type: sqlite, inputs: [lines], config: {path: out.db, table: t}}
"""


def test_a_run_goes_on_where_the_one_before_it_ended(tmp_path):
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/a.csv"

    def go() -> list[int]:
        result = run(load(tmp_path / "w.yaml"), RunOptions(home=tmp_path / "home", for_s=4.0))
        if result.error is not None:
            raise result.error
        with sqlite3.connect(tmp_path / "out.db") as db:
            return [n for (n,) in db.execute("select n from t order by n")]

    file.write_text("n\n1\n2\n")
    assert go() == [1, 2]
    with file.open("a") as opened:
        opened.write("3\n")
    (tmp_path / "in/b.csv").write_text("n\n4\n")
    assert go() == [1, 2, 3, 4]
    assert go() == [1, 2, 3, 4]
