"""Going on from a position: the rest, all of it and nothing else, or an error."""

from __future__ import annotations

import gzip
import os

import polars as pl
import pytest
from file_kit import Reading, read, resume

from dataflare.errors import CheckpointError
from dataflare.formats import line_chunks
from dataflare.model.progress import Position, Split

pytestmark = pytest.mark.rotates(2)

FRAME = pl.DataFrame(
    {
        "id": range(3_000),
        "text": [f'a "{n}"\nb' if n % 7 == 0 else f"t{n}" for n in range(3_000)],
    }
)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(line_chunks, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(line_chunks, "FIRST_BYTES", 1_000)
    monkeypatch.setattr("dataflare.formats.checksum.BLOCK_BYTES", 7_000)
    monkeypatch.setattr("dataflare.connectors.file.line_reader.BLOCK_BYTES", 7_000)
    monkeypatch.setattr("dataflare.formats.table_read.PIECE_ROWS_MIN", 500)


def put(folder, name: str, frame: pl.DataFrame = FRAME) -> None:
    path = folder / name
    match path.suffixes:
        case [".csv"]:
            frame.write_csv(path)
        case [".csv", ".gz"]:
            path.write_bytes(gzip.compress(frame.write_csv().encode()))
        case [".ndjson"]:
            frame.write_ndjson(path)
        case [".json"]:
            frame.write_json(path)
        case [".parquet"]:
            frame.write_parquet(path, row_group_size=250)
        case [".arrow"]:
            frame.write_ipc(path)


NAMES = ["a.csv", "a.csv.gz", "a.ndjson", "a.json", "a.parquet", "a.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_from_every_position_comes_the_rest(tmp_path, name):
    put(tmp_path, name)
    whole = read(name, tmp_path)
    assert whole.frame.equals(FRAME)
    assert len(whole.positions) > 4 or name in ("a.json", "a.arrow")
    for number, (split, position) in enumerate(whole.positions, 1):
        rest = resume(name, tmp_path, split, position)
        expected = FRAME.slice(sum(frame.height for frame in whole.frames[:number]))
        got = pl.concat(rest.frames) if rest.frames else FRAME.head(0)
        assert got.equals(expected)
        if rest.positions and name not in ("a.json", "a.arrow"):
            assert rest.positions[-1][1] == whole.positions[-1][1]


def test_keys_of_chunks_do_not_depend_on_where_reading_began(tmp_path):
    put(tmp_path, "a.csv")
    whole = read("a.csv", tmp_path)
    split, position = whole.positions[2]
    rest = resume("a.csv", tmp_path, split, position)
    assert rest.chunks[0].key == position.value["offset"] == whole.chunks[3].key


def stale(folder, name, split: Split, position: Position) -> Reading | CheckpointError:
    try:
        return resume(name, folder, split, position)
    except CheckpointError as error:
        return error


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_is_an_error(tmp_path, name):
    put(tmp_path, name)
    split, position = read(name, tmp_path).positions[-2 if name not in ("a.json",) else 0]
    put(tmp_path, name, FRAME.with_columns(pl.col("id") + 1))
    error = stale(tmp_path, name, split, position)
    assert isinstance(error, CheckpointError)
    assert error.code == "E0703"
    assert str(error).startswith(f"{tmp_path}/{name} has changed since the run began: ")


def test_a_change_long_before_the_position_is_noticed(tmp_path):
    put(tmp_path, "a.csv")
    split, position = read("a.csv", tmp_path).positions[-1]
    with (tmp_path / "a.csv").open("r+b") as file:
        file.seek(100)
        file.write(b"X")
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    assert isinstance(stale(tmp_path, "a.csv", split, position), CheckpointError)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_with_another_time_is_the_same_file(tmp_path, name):
    put(tmp_path, name)
    whole = read(name, tmp_path)
    split, position = whole.positions[0]
    os.utime(tmp_path / name, ns=(1, 1))
    rest = stale(tmp_path, name, split, position)
    assert isinstance(rest, Reading)
    assert sum(f.height for f in rest.frames) == 3_000 - whole.frames[0].height


@pytest.mark.parametrize("place", [None, 1, -1])
def test_a_file_that_grew_is_read_to_its_end(tmp_path, place):
    put(tmp_path, "a.csv")
    whole = read("a.csv", tmp_path)
    split, position = whole.positions[0][0], None if place is None else whole.positions[place][1]
    with (tmp_path / "a.csv").open("ab") as file:
        file.write(b"3000,new\n")
    rest = resume("a.csv", tmp_path, split, position)
    before = whole.frames[: 0 if place is None else place % len(whole.frames) + 1]
    assert pl.concat([*before, *rest.frames]).equals(read("a.csv", tmp_path).frame)
    assert rest.positions[-1][1].value["size"] == (tmp_path / "a.csv").stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_rewritten_before_it_was_read_is_read_as_it_is_now(tmp_path, name):
    put(tmp_path, name)
    split = read(name, tmp_path).positions[0][0]
    new = pl.concat([FRAME.with_columns(pl.col("text") + "x" * 50), FRAME])
    put(tmp_path, name, new)
    rest = resume(name, tmp_path, split, None)
    assert pl.concat(rest.frames).equals(new)
    for number, (_, position) in enumerate(rest.positions, 1):
        got = resume(name, tmp_path, split, position).frames
        height = sum(frame.height for frame in got)
        assert height == new.height - sum(f.height for f in rest.frames[:number])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.ndjson"])
def test_rows_after_the_position_may_have_been_rewritten(tmp_path, name):
    """Nothing of them was read: what counts is what was before."""
    put(tmp_path, name)
    whole = read(name, tmp_path)
    split, position = whole.positions[2]
    kept = sum(frame.height for frame in whole.frames[:3])
    tail = FRAME.slice(kept).with_columns(pl.col("text") + "y")
    new = pl.concat([FRAME.head(kept), tail, FRAME.tail(40)])
    put(tmp_path, name, new)
    rest = resume(name, tmp_path, split, position)
    assert pl.concat(rest.frames).equals(new.slice(kept))


@pytest.mark.parametrize("name", [name for name in NAMES if "json" not in name])
def test_a_rewritten_file_with_other_columns_is_an_error(tmp_path, name):
    put(tmp_path, name)
    split = read(name, tmp_path).positions[0][0]
    put(tmp_path, name, pl.concat([FRAME, FRAME]).with_columns(more=pl.lit("and more")))
    error = stale(tmp_path, name, split, None)
    assert isinstance(error, CheckpointError)
    assert error.code == "E0703"


def test_a_last_line_that_was_not_complete_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,a\n2,b")
    split, position = read("a.csv", tmp_path).positions[-1]
    path.write_text("id,text\n1,a\n2,bcd\n3,e\n")
    error = stale(tmp_path, "a.csv", split, position)
    assert isinstance(error, CheckpointError)
    path.write_text("id,text\n1,a\n2,b\n3,e\n")
    assert resume("a.csv", tmp_path, split, position).frames[0].rows() == [(3, "e")]
    path.write_text("id,text\n1,a\n2,b\n")
    assert resume("a.csv", tmp_path, split, position).frames == []


def test_a_change_in_the_middle_of_a_json_file_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    FRAME.write_json(path)
    split, position = read("a.json", tmp_path).positions[-1]
    text = path.read_text()
    path.write_text(text.replace('"t100"', '"T100"'))
    os.utime(path, ns=(1, 1))
    assert isinstance(stale(tmp_path, "a.json", split, position), CheckpointError)


@pytest.mark.parametrize("started", [True, False])
def test_a_file_that_shrank_is_an_error(tmp_path, started):
    put(tmp_path, "a.csv")
    split, position = read("a.csv", tmp_path).positions[1]
    os.truncate(tmp_path / "a.csv", 2_000)
    error = stale(tmp_path, "a.csv", split, position if started else None)
    assert isinstance(error, CheckpointError)
    assert error.code == "E0703"


def test_a_position_is_small_json(tmp_path):
    put(tmp_path, "a.csv")
    _, position = read("a.csv", tmp_path).positions[3]
    assert set(position.value) == {"offset", "check", "size", "mtime_ns"}
    assert len(str(position.to_json())) < 200
