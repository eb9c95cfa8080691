"""Writing files: what lies there afterwards, what is refused, and what is cleaned up."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import re
import threading

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import pytest
import zstandard
from file_kit import LINEAGE, OTHER_LINEAGE, destination, names, read, start, write
from pydantic import ValidationError

from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.destination import Delivery

FRAME = pl.DataFrame(
    {"id": range(1_000), "name": [f"n{n}" if n % 5 else None for n in range(1_000)]}
)
SCHEMA = Schema.from_polars(FRAME.schema)
EPOCHS = (FRAME[:300], FRAME[300:900], FRAME[900:])


@pytest.mark.parametrize(
    "name",
    [
        "o.parquet",
        "o.csv",
        "o.ndjson",
        "o.json",
        "o.arrow",
        "o.feather",
        "o.csv.gz",
        "o.ndjson.zst",
        "o.json.gz",
        "o.json.zst",
    ],
)
def test_one_file_appears_at_the_end_and_nothing_else(tmp_path, name):
    async def work() -> None:
        run = await start(name, tmp_path, SCHEMA)
        for number, frame in enumerate(EPOCHS, 1):
            assert not (tmp_path / name).exists()
            await run.epoch(number, frame, final=number == len(EPOCHS))
        assert names(tmp_path) == [name]
        assert await run.committer.published() == {
            "path": str(tmp_path / name),
            "rows": 1_000,
            "bytes": (tmp_path / name).stat().st_size,
            "files": 1,
        }
        await run.aclose()

    asyncio.run(work())
    assert read(name, tmp_path).frame.equals(FRAME)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "o.csv").write_text("old\n1\n")

    async def work() -> None:
        run = await start("o.csv", tmp_path, SCHEMA)
        await run.epoch(1, FRAME[:10])
        assert (tmp_path / "o.csv").read_text() == "old\n1\n"
        await run.epoch(2, FRAME[10:], final=True)
        await run.aclose()

    asyncio.run(work())
    assert read("o.csv", tmp_path).frame.equals(FRAME)


def test_staged_names_are_hidden_and_end_in_no_data_extension(tmp_path):
    async def work() -> None:
        one = await start("o.parquet", tmp_path, SCHEMA)
        await one.epoch(1, FRAME)
        many = await start("parts", tmp_path, SCHEMA)
        await many.write(FRAME)
        await many.prepare(1)

    asyncio.run(work())
    *single, part = names(tmp_path)
    assert single == [".o.parquet.0123abcd.groups.inprogress", ".o.parquet.0123abcd.inprogress"]
    staged = r"parts/\.dataflare-0123abcd/part-0123abcd-1-0-0\.parquet~[0-9a-f-]+\.inprogress"
    assert re.fullmatch(staged, part)


@pytest.mark.parametrize("name", ["o.parquet", "o.arrow", "o.csv", "o.ndjson", "o.json"])
def test_no_rows_make_a_file_with_its_schema(tmp_path, name):
    write(name, tmp_path, FRAME.head(0))
    if name == "o.ndjson":
        assert (tmp_path / name).read_bytes() == b""
    elif name == "o.json":
        assert json.loads((tmp_path / name).read_bytes()) == []
    else:
        got = read(name, tmp_path).frame
        assert got.columns == FRAME.columns
        assert got.height == 0


def test_no_rows_make_no_parts(tmp_path):
    told = write("parts", tmp_path, FRAME.head(0))
    assert (tmp_path / "parts").is_dir()
    assert names(tmp_path) == []
    assert (told["rows"], told["files"]) == (0, 0)


def test_small_batches_are_gathered_into_row_groups(tmp_path):
    write({"path": "o.parquet", "row_group_rows": 400}, tmp_path, FRAME[:900], FRAME[900:])
    got = duckdb.sql(
        f"select distinct row_group_num_rows from parquet_metadata('{tmp_path}/o.parquet')"
    )
    assert sorted(got.fetchall()) == [(100,), (400,)]


def test_parts_are_published_epoch_by_epoch(tmp_path):
    async def work() -> None:
        run = await start("parts", tmp_path, SCHEMA, subtasks=2)
        await run.write(FRAME[:300], 0)
        await run.write(FRAME[300:600], 1)
        made = await run.prepare(1)
        assert read_names(tmp_path / "parts") == []
        await run.commit(1, made)
        assert read_names(tmp_path / "parts") == [
            "part-0123abcd-1-0-0.parquet",
            "part-0123abcd-1-1-0.parquet",
        ]
        await run.epoch(2, FRAME[600:], final=True)
        assert await run.committer.published() == {
            "path": str(tmp_path / "parts"),
            "rows": 1_000,
            "bytes": sum(p.stat().st_size for p in (tmp_path / "parts").iterdir()),
            "files": 3,
        }
        await run.aclose()

    asyncio.run(work())
    assert read("parts", tmp_path).frame.sort("id").equals(FRAME)
    assert names(tmp_path / "parts") == read_names(tmp_path / "parts")


def read_names(folder) -> list[str]:
    return sorted(p.name for p in folder.rglob("*.parquet")) if folder.exists() else []


@pytest.mark.parametrize(
    ("config", "extension"),
    [
        ({"path": "parts", "format": "csv", "compression": "gzip"}, ".csv.gz"),
        ({"path": "parts/", "format": "ndjson", "compression": "zstd"}, ".ndjson.zst"),
        ({"path": "with.dot/", "format": "csv"}, ".csv"),
        ({"path": "parts", "format": "json"}, ".json"),
        ({"path": "parts", "format": "json", "compression": "zstd"}, ".json.zst"),
        ({"path": "parts", "format": "arrow", "compression": "lz4"}, ".arrow"),
    ],
)
def test_parts_of_text(tmp_path, config, extension):
    write(config, tmp_path, *EPOCHS)
    folder = tmp_path / config["path"]
    assert [n for n in names(folder) if n.endswith(extension)] == names(folder)
    assert len(names(folder)) == 3
    assert read(config["path"], tmp_path).frame.equals(FRAME)


def test_parts_end_when_they_are_large(tmp_path):
    write({"path": "rows", "rows_per_part": 250}, tmp_path, FRAME)
    assert len(names(tmp_path / "rows")) == 4
    config = {"path": "bytes", "format": "csv", "part_bytes_max": 1_000}
    write({**config, "rows_per_part": 100}, tmp_path, FRAME)
    assert len(names(tmp_path / "bytes")) == 10
    assert read("rows", tmp_path).frame.equals(read("bytes", tmp_path).frame)


@pytest.mark.parametrize("format_", ["json", "arrow"])
def test_partitions_of_json_and_arrow(tmp_path, format_):
    write({"path": "hive", "format": format_, "partition_by": ["name"]}, tmp_path, FRAME[:4])
    assert sorted(n.rpartition("/")[0] for n in names(tmp_path / "hive")) == [
        "name=__HIVE_DEFAULT_PARTITION__",
        *(f"name=n{n}" for n in (1, 2, 3)),
    ]
    assert read("hive", tmp_path).frame.sort("id").equals(FRAME[:4])


@pytest.mark.parametrize(("length", "fits"), [(250, True), (251, False)])
def test_a_partition_has_the_longest_name_that_file_systems_take(tmp_path, length, fits):
    config = {"path": "hive", "format": "csv", "partition_by": ["name"]}
    frame = pl.DataFrame({"id": [1], "name": ["n" * length]})
    if fits:
        write(config, tmp_path, frame)
        assert read("hive", tmp_path).frame["name"].to_list() == ["n" * length]
        return
    with pytest.raises(SystemError_, match=r"'name' for the value 'nnn.*256 bytes.*255") as caught:
        write(config, tmp_path, frame)
    assert (caught.value.code, caught.value.retry) == ("E0605", Retry.NEVER)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "a/b",
        "../../x",
        "n\0l",
        "a=b",
        "50%",
        " ",
        "\n",
        "__HIVE_DEFAULT_PARTITION__",
    ],
)
def test_odd_values_of_partitions_stay_in_their_folder(tmp_path, value):
    frame = pl.DataFrame({"id": [1], "name": [value]})
    write({"path": "hive", "format": "ndjson", "partition_by": ["name"]}, tmp_path, frame)
    assert read("hive", tmp_path).frame["name"].to_list() == [value]
    assert [path.name for path in tmp_path.iterdir()] == ["hive"]


def test_a_json_file_is_one_array_with_an_object_a_line(tmp_path):
    write("o.json", tmp_path, FRAME[:2], FRAME[2:3])
    text = (tmp_path / "o.json").read_text()
    assert text == ('[\n{"id":0,"name":null},\n{"id":1,"name":"n1"},\n{"id":2,"name":"n2"}\n]\n')


def test_small_batches_are_gathered_into_record_batches(tmp_path):
    write({"path": "o.arrow", "row_group_rows": 400}, tmp_path, FRAME[:900], FRAME[900:])
    with pa.ipc.open_file(tmp_path / "o.arrow") as file:
        assert file.num_record_batches == 4
        assert [file.get_batch(n).num_rows for n in range(4)] == [400, 400, 100, 100]


def test_partitions_are_folders_that_others_read(tmp_path):
    frame = pl.DataFrame(
        {
            "id": range(6),
            "country": ["DE", "a/b: c", None, "DE", "", "100%"],
            "n": [1, 1, 2, 1, 2, 2],
        }
    )
    write({"path": "hive", "partition_by": ["country", "n"]}, tmp_path, frame)
    assert sorted({n.rpartition("/")[0] for n in names(tmp_path / "hive")}) == [
        "country=/n=2",
        "country=100%25/n=2",
        "country=DE/n=1",
        "country=__HIVE_DEFAULT_PARTITION__/n=2",
        "country=a%2Fb%3A c/n=1",
    ]
    got = read("hive", tmp_path).frame.sort("id")
    assert got.equals(frame)
    ducks = duckdb.sql(
        f"select id, country, n from read_parquet('{tmp_path}/hive/**/*.parquet', "
        "hive_partitioning = true) order by id"
    ).fetchall()
    assert [row for row in ducks if row[0] in (0, 1, 2, 3)] == frame.rows()[:4]
    arrow = arrow_dataset.dataset(tmp_path / "hive", partitioning="hive").to_table()
    assert arrow.num_rows == 6


@pytest.mark.parametrize("name", ["o.csv", "o.ndjson", "o.csv.gz", "o.csv.zst"])
@pytest.mark.parametrize("ends", [True, False])
def test_append_goes_on_with_the_file_that_is_there(tmp_path, name, ends):
    write(name, tmp_path, FRAME[:500])
    path = tmp_path / name
    if not ends and path.suffix in (".csv", ".ndjson"):
        path.write_bytes(path.read_bytes()[:-1])
    write({"path": name, "mode": "append"}, tmp_path, FRAME[500:800], FRAME[800:])
    assert read(name, tmp_path).frame.equals(FRAME)


def test_append_makes_the_file_that_is_not_there(tmp_path):
    write({"path": "o.csv", "mode": "append"}, tmp_path, FRAME)
    assert read("o.csv", tmp_path).frame.equals(FRAME)


def test_append_refuses_other_columns(tmp_path):
    (tmp_path / "o.csv").write_text("id,title\n1,x\n")
    with pytest.raises(SystemError_) as caught:
        write({"path": "o.csv", "mode": "append"}, tmp_path, FRAME)
    assert caught.value.code == "E0605"
    assert caught.value.notes == ["it has: id, title", "to append: id, name"]


def test_overwrite_of_a_folder_replaces_its_files_at_the_end(tmp_path):
    folder = tmp_path / "parts"
    write("parts", tmp_path, FRAME[:10], lineage=OTHER_LINEAGE)
    FRAME[:5].write_parquet(folder / "mine.parquet")
    (folder / "readme.md").write_text("kept")
    before = names(folder)

    async def work() -> None:
        run = await start({"path": "parts", "mode": "overwrite"}, tmp_path, SCHEMA)
        for number, frame in enumerate(EPOCHS, 1):
            assert [n for n in names(folder) if not n.startswith(".")] == before
            await run.epoch(number, frame, final=number == len(EPOCHS))
        assert (await run.committer.published())["rows"] == 1_000
        await run.aclose()

    asyncio.run(work())
    assert names(folder) == [
        *(f"part-0123abcd-{n}-0-0.parquet" for n in (1, 2, 3)),
        "readme.md",
    ]
    assert read("parts", tmp_path).frame.equals(FRAME)


def test_append_to_a_folder_leaves_what_is_there(tmp_path):
    write("parts", tmp_path, FRAME[:500], lineage=OTHER_LINEAGE)
    write("parts", tmp_path, FRAME[500:])
    assert read("parts", tmp_path).frame.sort("id").equals(FRAME)


def test_a_new_lineage_clears_what_dead_ones_staged(tmp_path):
    async def leave() -> None:
        run = await start("o.csv", tmp_path, SCHEMA, lineage=OTHER_LINEAGE)
        await run.epoch(1, FRAME[:10])
        await run.aclose()

    asyncio.run(leave())
    assert names(tmp_path) == [".o.csv.89abcdef.inprogress"]
    write("o.csv", tmp_path, FRAME)
    assert names(tmp_path) == ["o.csv"]


def test_a_new_lineage_leaves_what_a_living_run_stages(tmp_path):
    async def work() -> None:
        living = await start("o.csv", tmp_path, SCHEMA, lineage=OTHER_LINEAGE)
        await living.epoch(1, FRAME[:10])
        run = await start("o.csv", tmp_path, SCHEMA)
        await run.epoch(1, FRAME, final=True)
        assert names(tmp_path) == [".o.csv.89abcdef.inprogress", "o.csv"]
        await run.aclose()
        await living.aclose()

    asyncio.run(work())


def test_folders_above_are_made(tmp_path):
    write("a/b/o.csv", tmp_path, FRAME)
    write("c/d/parts", tmp_path, FRAME)
    assert read("a/b/o.csv", tmp_path).frame.equals(FRAME)
    assert read("c/d/parts", tmp_path).frame.equals(FRAME)


def test_members_of_compressed_text_are_whole(tmp_path):
    write("o.csv.gz", tmp_path, *EPOCHS)
    write("o.csv.zst", tmp_path, *EPOCHS)
    text = gzip.decompress((tmp_path / "o.csv.gz").read_bytes())
    assert pl.read_csv(text).equals(FRAME)
    with zstandard.open(tmp_path / "o.csv.zst", "rb") as file:
        assert file.read() == text


def refused(config, base, schema=SCHEMA) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(start(config, base, schema))
    return caught.value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "o.csv", "mode": "upsert", "key": ["id"]}, "mode 'upsert' is not for files"),
        ({"path": "o.csv", "mode": "mirror"}, "mode 'mirror' needs 'key'"),
        ({"path": "o.csv", "key": ["id"]}, "'key' is for mode 'mirror'"),
        ({"path": "o.xyz"}, "the name 'o.xyz' does not say a format that can be written"),
        ({"path": "o.xlsx"}, "the name 'o.xlsx' does not say a format that can be written"),
        ({"path": "o.parquet", "mode": "append"}, "a file of format parquet cannot be appended to"),
        ({"path": "o.arrow", "mode": "append"}, "a file of format arrow cannot be appended to"),
        ({"path": "o.json", "mode": "append"}, "a file of format json cannot be appended to"),
        ({"path": "o.arrow", "compression": "gzip"}, "compression 'gzip' is not for arrow"),
        ({"path": "o.arrow.gz"}, "an Arrow file is not compressed as a whole"),
        ({"path": "o.json", "compression": "lz4"}, "compression 'lz4' is for columns, not text"),
        ({"path": "o.csv", "partition_by": ["id"]}, "'partition_by' is for a folder"),
        ({"path": "o.csv", "rows_per_part": 5}, "'rows_per_part' is for a folder"),
        (
            {"path": "o.csv", "compression": "snappy"},
            "compression 'snappy' is for columns, not text",
        ),
        (
            {"path": "p", "partition_by": ["nme"]},
            "'partition_by' names 'nme', which does not reach",
        ),
        ({"path": "p", "partition_by": ["id", "name"]}, "'partition_by' leaves no column"),
    ],
)
def test_config_that_cannot_be(tmp_path, config, message):
    error = refused(config, tmp_path)
    assert isinstance(error, ConfigError)
    assert (error.code, error.exit_status) == ("E0406", 2)
    assert str(error).startswith(message)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "config", [{"path": ""}, {"path": "a.csv", "delimiter": '"'}, {"pth": "a"}]
)
def test_config_is_validated(tmp_path, config):
    with pytest.raises(ValidationError):
        destination(config, tmp_path)


def test_a_folder_where_a_file_is_wanted_and_the_other_way(tmp_path):
    (tmp_path / "o.csv").mkdir()
    (tmp_path / "parts").write_text("")
    for name in ("o.csv", "parts", "parts/deeper/o.csv"):
        assert refused(name, tmp_path).code == "E0604"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permission_denied(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert refused("locked/o.csv", tmp_path).code == "E0602"


@pytest.mark.parametrize("name", ["o.csv", "o.json", "o.arrow"])
def test_a_full_disk_says_so(tmp_path, monkeypatch, name):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def work() -> None:
        run = await start(name, tmp_path, SCHEMA)
        monkeypatch.setattr(os, "pwrite", full)
        await run.epoch(1, FRAME)

    with pytest.raises(SystemError_) as caught:
        asyncio.run(work())
    assert caught.value.code == "E0603"
    assert str(caught.value) == f"disk full while writing {tmp_path}/{name}"


def test_an_encode_that_fails_is_told_by_the_next_call(tmp_path, monkeypatch):
    async def work() -> None:
        run = await start({"path": "o.csv"}, tmp_path, SCHEMA)
        monkeypatch.setattr(os, "pwrite", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await run.epoch(1, FRAME)
        await run.aclose()

    asyncio.run(work())


def test_capabilities(tmp_path):
    def told(config):
        found = destination(config, tmp_path).capabilities()
        assert found.delivery is Delivery.TRANSACTIONAL
        return found.parallel, found.bounded_only

    assert told("o.parquet") == (False, True)
    assert told({"path": "o.csv", "mode": "append"}) == (False, True)
    assert told("parts") == (True, False)
    assert told({"path": "parts", "mode": "overwrite"}) == (True, True)


def test_committables_stay_small(tmp_path):
    async def work() -> list[int]:
        sizes = []
        for name in ("o.parquet", "parts"):
            run = await start(
                {"path": name, "row_group_rows": 10}, tmp_path, SCHEMA, lineage=LINEAGE
            )
            for number in range(1, 4):
                made = await run.epoch(number, FRAME)
                sizes.append(len(str(made[0].to_json())))
            await run.aclose()
        return sizes

    assert max(asyncio.run(work())) < 450


def test_closing_waits_for_the_thread_of_a_cancelled_write(tmp_path, monkeypatch):
    started, go, ended = threading.Event(), threading.Event(), threading.Event()
    write_there = os.pwrite

    def slow(*args) -> int:
        started.set()
        go.wait()
        ended.set()
        return write_there(*args)

    async def work() -> None:
        run = await start({"path": "o.ndjson"}, tmp_path, SCHEMA)
        await run.write(FRAME)
        monkeypatch.setattr(os, "pwrite", slow)
        preparing = asyncio.ensure_future(run.prepare(1))
        await asyncio.to_thread(started.wait)
        preparing.cancel()
        await asyncio.wait([preparing])
        assert preparing.cancelled()
        closing = asyncio.ensure_future(run.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        assert not ended.is_set()
        go.set()
        await closing
        assert ended.is_set()

    asyncio.run(work())
