"""`dataflare dlq replay` of rows that a source could not read: their places are read again, each once."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import answer, cli, write

pytestmark = pytest.mark.rotates(2)

WORKFLOW = """\
name: orders
settings: {parallelism: 2, error_handling: {on_error: dead_letter}}
sources:
  raw: {type: file, config: {path: FILE}, schema: {id: int64, n: int64}}
transformations:
  more: {type: map, inputs: [raw], config: {derive: {label: "'n' || n"}, select: [id, label]}}
destinations:
  table: {type: sqlite, inputs: [more], config: {path: t.db, table: orders, MODE}}
"""
ROWS = [(i, "many" if i in (3, 4, 9) else str(i)) for i in range(10)]


def contents(rows: list[tuple[int, str]], kind: str) -> bytes:
    objects = [f'{{"id": {i}, "n": {n if n.isdigit() else json.dumps(n)}}}' for i, n in rows]
    match kind:
        case "csv":
            return "\n".join(["id,n", *(f"{i},{n}" for i, n in rows), ""]).encode()
        case "ndjson":
            return ("\n".join(objects) + "\n").encode()
    return f"[{', '.join(objects)}]".encode()


def start(folder: Path, kind: str = "csv", mode: str = "", **changes: str) -> None:
    (folder / f"raw.{kind}").write_bytes(contents(ROWS, kind))
    text = WORKFLOW.replace("FILE", f"raw.{kind}").replace(", MODE", mode and f", {mode}")
    for old, new in changes.items():
        text = text.replace(old, new)
    write(folder, "w.yaml", text)
    done = answer(cli("run", "w.yaml", "--json", cwd=folder))
    assert done["steps"]["raw"]["dead_letters"] == 3, done


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "w.yaml").read_text()
    assert old in text
    write(folder, "w.yaml", text.replace(old, new))


def replay(folder: Path) -> dict[str, Any]:
    return answer(cli("dlq", "replay", "orders", "--json", cwd=folder))


def arrived(folder: Path) -> list[tuple[int, str]]:
    with sqlite3.connect(folder / "t.db") as database:
        return list(database.execute("select id, label from orders order by id, label"))


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
def test_rows_that_were_fixed_in_their_file_come_in_once(kind: str, tmp_path: Path) -> None:
    start(tmp_path, kind)
    assert replay(tmp_path)["waiting"] == 3
    (tmp_path / f"raw.{kind}").write_bytes(
        contents([(i, "40" if i == 4 else n) for i, n in ROWS], kind)
    )
    said = replay(tmp_path)
    assert (said["replayed"], said["waiting"], said["error"]) == (1, 2, None)
    assert (4, "n40") in arrived(tmp_path)
    (tmp_path / f"raw.{kind}").write_bytes(
        contents([(i, "40" if n == "many" else n) for i, n in ROWS], kind)
    )
    assert replay(tmp_path)["waiting"] == 0
    assert replay(tmp_path)["replayed"] == 0
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
def test_rows_come_in_when_the_schema_takes_them(kind: str, tmp_path: Path) -> None:
    start(tmp_path, kind)
    change(tmp_path, "n: int64}", "n: string}")
    said = replay(tmp_path)
    assert (said["replayed"], said["refused_again"], said["waiting"]) == (3, 0, 0)
    assert arrived(tmp_path) == [(i, f"n{n}") for i, n in ROWS]


def test_a_row_that_reads_now_and_fails_behind_the_source_is_a_letter_of_that_step(
    tmp_path: Path,
) -> None:
    start(tmp_path)
    change(tmp_path, "n: int64}", "n: string}")
    change(tmp_path, "'n' || n", "'n' || CAST(n AS BIGINT)")
    said = replay(tmp_path)
    assert (said["replayed"], said["refused_again"], said["waiting"]) == (3, 3, 3)
    steps = [
        json.loads(line)["step"]
        for line in cli("dlq", "show", "orders", "--json", cwd=tmp_path).stdout.splitlines()
    ]
    assert steps == ["more"] * 3


def test_cells_and_columns_that_take_another_type_are_read_again(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1, 2, 3], "n": ["1", "many", "3"]})
    frame.write_parquet(tmp_path / "raw.parquet")
    frame.write_excel(tmp_path / "raw.xlsx")
    for kind, name in (("parquet", "a"), ("xlsx", "b")):
        folder = tmp_path / name
        folder.mkdir()
        (tmp_path / f"raw.{kind}").rename(folder / f"raw.{kind}")
        write(folder, "w.yaml", WORKFLOW.replace("FILE", f"raw.{kind}").replace(", MODE", ""))
        assert cli("run", "w.yaml", "--quiet", cwd=folder).returncode == 0
        assert arrived(folder) == [(1, "n1"), (3, "n3")]
        change(folder, "n: int64}", "n: string}")
        said = replay(folder)
        assert (said["replayed"], said["waiting"]) == (1, 0), kind


def test_a_line_that_moved_into_the_place_is_not_taken_for_the_row(tmp_path: Path) -> None:
    start(tmp_path)
    shorter = [(i, "7" if n == "many" else n) for i, n in ROWS if i != 1]
    (tmp_path / "raw.csv").write_bytes(contents(shorter, "csv"))
    said = replay(tmp_path)
    assert (said["replayed"], said["waiting"]) == (0, 3)
    assert any("their places hold other rows now" in why for why in said["left"])
    assert [i for i, _ in arrived(tmp_path)] == [0, 1, 2, 5, 6, 7, 8]


def test_an_object_is_read_from_its_letter_when_its_file_is_another_one(tmp_path: Path) -> None:
    start(tmp_path, "ndjson")
    (tmp_path / "raw.ndjson").write_bytes(contents([(50, "50")], "ndjson"))
    change(tmp_path, "n: int64}", "n: string}")
    assert replay(tmp_path)["replayed"] == 3
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


@pytest.mark.parametrize(
    "place", ["replay.batch_written", "checkpoint.before_publish", "replay.finished"]
)
def test_a_replay_that_is_killed_brings_each_row_in_once(place: str, tmp_path: Path) -> None:
    start(tmp_path)
    fixed = [(i, "7" if n == "many" else n) for i, n in ROWS]
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    killed = cli("dlq", "replay", "orders", cwd=tmp_path, DATAFLARE_CRASH_AT=place)
    assert killed.returncode == -9
    assert cli("dlq", "replay", "orders", cwd=tmp_path).returncode == 0
    assert replay(tmp_path)["waiting"] == 0
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


def test_a_row_that_two_runs_refused_comes_in_once(tmp_path: Path) -> None:
    start(tmp_path, mode="mode: upsert, key: [id]")
    assert cli("run", "w.yaml", "--quiet", cwd=tmp_path).returncode == 0
    fixed = [(i, "7" if n == "many" else n) for i, n in ROWS]
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    said = replay(tmp_path)
    assert (said["replayed"], said["waiting"]) == (3, 0)
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


def test_a_replay_into_a_mirror_deletes_nothing(tmp_path: Path) -> None:
    start(tmp_path, mode="mode: mirror, key: [id], delete_max: 100%")
    fixed = [(i, "7" if n == "many" else n) for i, n in ROWS]
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    assert replay(tmp_path)["replayed"] == 3
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


def test_letters_of_a_run_whose_result_was_replaced_are_not_added_to_it(tmp_path: Path) -> None:
    start(tmp_path, mode="mode: overwrite")
    fixed = [(i, "7" if i in (3, 4) else n) for i, n in ROWS]
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    assert cli("run", "w.yaml", "--quiet", cwd=tmp_path).returncode == 0
    said = replay(tmp_path)
    assert (said["replayed"], said["replaced"], said["waiting"]) == (0, 3, 1)
    fixed[9] = (9, "9")
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    assert replay(tmp_path)["waiting"] == 0
    assert [i for i, _ in arrived(tmp_path)] == list(range(10))


def test_rows_of_one_input_of_a_union_go_on_without_the_others(tmp_path: Path) -> None:
    write(tmp_path, "other.csv", "id,extra\n100,x\n")
    union = "  both: {type: union, inputs: [raw, other]}\n"
    start(
        tmp_path,
        **{
            "transformations:\n": "  other: {type: file, config: {path: other.csv}}\n"
            "transformations:\n" + union,
            "inputs: [raw]": "inputs: [both]",
            "'n' || n": "coalesce(extra, 'n' || n)",
        },
    )
    fixed = [(i, "7" if n == "many" else n) for i, n in ROWS]
    (tmp_path / "raw.csv").write_bytes(contents(fixed, "csv"))
    said = replay(tmp_path)
    assert (said["replayed"], said["waiting"], said["error"]) == (3, 0, None)
    with sqlite3.connect(tmp_path / "t.db") as database:
        found = list(database.execute("select id, label from orders order by id"))
    assert found == [*((i, f"n{n}") for i, n in fixed), (100, "x")]


def test_a_row_of_a_database_cannot_be_read_again_and_the_replay_says_so(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "from.db") as database:
        database.execute("create table t (id integer, at text)")
        database.execute("insert into t values (1, '2024-01-01'), (2, 'soon')")
    text = WORKFLOW.replace(
        "file, config: {path: FILE}", "sqlite, config: {path: from.db, table: t}"
    )
    text = text.replace("n: int64}", "at: date}").replace("'n' || n", "at")
    write(tmp_path, "w.yaml", text.replace(", MODE", ""))
    done = answer(cli("run", "w.yaml", "--json", cwd=tmp_path))
    assert done["steps"]["raw"]["dead_letters"] == 1, done
    said = replay(tmp_path)
    assert (said["replayed"], said["waiting"]) == (0, 1)
    (why,) = said["left"]
    assert "source 'raw' (type sqlite) cannot read a single row again" in why
