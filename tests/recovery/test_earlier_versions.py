"""State that earlier versions wrote is resumed and adopted, with each row once.

pytestmark = pytest.mark.rotates(2)

`version_1` has folders as DataFlare left them when its checkpoints had version 1, killed in the middle of a
run: `resumed` with its state folder, `adopted` with destinations only, whose markers hold the manifest. The
input is made again here: a position names the size and the time of its file.

`version_2/timed` has windows, joins and `deduplicate` with `within`, of a version that did not say what their state
means. It was stopped when two thirds of the rows were read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from dataflare import RunOptions, load, run
from dataflare.checkpoint.manifest import Manifest

FOLDERS = Path(__file__).parent / "version_1"
FILES, ROWS = 12, 400


def project(name: str, folder: Path) -> Path:
    shutil.copytree(FOLDERS / name, folder, dirs_exist_ok=True)
    (folder / "in").mkdir()
    for number in range(FILES):
        path = folder / "in" / f"part-{number:02}.csv"
        ids = range(number * ROWS, (number + 1) * ROWS)
        path.write_text("id,who\n" + "".join(f"{id_},{id_ % 37}\n" for id_ in ids))
        os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    return folder


def rows_of(path: Path, query: str) -> list[tuple[int, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute(query).fetchall()


def counted(path: Path, column: str, table: str) -> Counter[int]:
    return Counter(value for (value,) in rows_of(path, f"select {column} from {table}"))


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_an_unfinished_run_of_version_1_is_resumed(tmp_path: Path, parallelism: int) -> None:
    folder = project("resumed", tmp_path)
    model = load(folder / "w.yaml", sets=[f"settings.parallelism={parallelism}"])
    result = run(model, RunOptions(home=folder / "state"))
    assert (result.error, result.resumed_from) == (None, 5)
    assert counted(folder / "out.db", "id", "rows") == Counter(range(FILES * ROWS))
    sums = rows_of(folder / "sums.db", "select sum(n), sum(total) from sums")
    assert sums == [(3000, sum(range(3000)))]
    assert counted(folder / "sums.db", "key", "sums") == Counter(range(1, 41))
    assert counted(folder / "first.db", "key", "first") == Counter(range(1, 41))
    written = max((folder / "state" / "old").glob("*/manifest-*.json"))
    assert '"version":4' in written.read_text()


def test_a_marker_of_version_1_is_adopted(tmp_path: Path) -> None:
    folder = project("adopted", tmp_path)
    result = run(load(folder / "w.yaml"), RunOptions(home=folder / "new", adopt=True))
    assert (result.error, result.resumed_from) == (None, 3)
    assert result.steps["files"]["rows_out"] == 0
    assert counted(folder / "out.db", "id", "rows") == Counter(range(FILES * ROWS))
    assert counted(folder / "ticks.db", "n", "ticks") == Counter(range(2000))


def test_each_manifest_of_version_1_is_read_whole() -> None:
    texts = [path.read_text() for path in FOLDERS.rglob("manifest-*.json")]
    assert len(texts) == 4
    for text in texts:
        source = Manifest.from_text(text).sources["files"]
        assert [state.done for state in source.all_states()] == [True] * FILES


TIMED = {
    "out.db": "minutes",
    "moving.db": "moving",
    "visits.db": "visits",
    "filled.db": "filled",
    "all.db": "all_rows",
    "near.db": "near",
    "priced.db": "priced",
    "once.db": "once",
}
"""By database file, its table."""


def timed(folder: Path, *, parallelism: int = 2, stopped: bool = True) -> dict[str, list[str]]:
    """The tables after a run in this folder, with the state of the fixture or without."""
    source = FOLDERS.parent / "version_2" / "timed"
    if stopped:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        folder.mkdir(exist_ok=True)
        shutil.copy(source / "w.yaml", folder)
    model = load(folder / "w.yaml", sets=[f"settings.parallelism={parallelism}"])
    result = run(model, RunOptions(home=folder / "state"))
    assert result.error is None
    assert (result.resumed_from is not None) == stopped
    return {
        table: sorted(repr(row) for row in rows_of(folder / file, f"select * from {table}"))
        for file, table in TIMED.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return timed(tmp_path_factory.mktemp("undisturbed"), stopped=False)


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_windows_and_joins_that_do_not_say_what_their_state_means_are_resumed(
    tmp_path: Path, parallelism: int, undisturbed: dict[str, list[str]]
) -> None:
    resumed = timed(tmp_path, parallelism=parallelism)
    for table, rows in undisturbed.items():
        assert len(rows) > 3
        assert resumed[table] == rows, table
