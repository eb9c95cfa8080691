"""Files in S3 are read as the same files on a disk are: each format, folders, globs, positions."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from pathlib import Path

import obstore
import polars as pl
import pytest
from file_kit import Reading, read, read_split, source
from optional_packages import package
from polars.testing import assert_frame_equal

from dataflare import RunOptions, load, run
from dataflare.errors import CheckpointError, ConfigError, DataFlareError, RunError, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import open_store

pytestmark = pytest.mark.rotates(2)

ROWS = pl.DataFrame(
    {
        "id": range(3_000),
        "name": [f"row {n} ü" for n in range(3_000)],
        "amount": [n / 4 for n in range(3_000)],
        "flag": [n % 3 == 0 for n in range(3_000)],
    }
)


def write(path: Path, rows: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match "".join(path.suffixes):
        case ".csv":
            rows.write_csv(path)
        case ".csv.gz":
            path.write_bytes(gzip.compress(rows.write_csv().encode()))
        case ".ndjson":
            rows.write_ndjson(path)
        case ".json":
            path.write_text(rows.write_json())
        case ".parquet":
            rows.write_parquet(path, row_group_size=700)
        case ".arrow":
            rows.write_ipc(path)
        case ".xlsx":
            rows.write_excel(path)


def upload(s3, folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            obstore.put(s3, file.relative_to(folder).as_posix(), file.read_bytes())


FORMATS = ["csv", "csv.gz", "ndjson", "json", "parquet", "arrow", "xlsx"]


@pytest.mark.parametrize("extension", FORMATS)
def test_each_format_reads_as_on_a_disk(s3, tmp_path, extension):
    for number, start in enumerate((0, 1_000, 2_000)):
        write(tmp_path / f"data/day={number + 1}/a.{extension}", ROWS[start : start + 1_000])
    upload(s3, tmp_path)
    there = read("s3://lake/data/", tmp_path)
    here = read(tmp_path / "data", tmp_path)
    assert here.frame.height == 3_000
    assert "day" in here.frame.columns
    assert_frame_equal(there.frame, here.frame)
    globbed = read(f"s3://lake/data/*/a.{extension}", tmp_path)
    assert_frame_equal(globbed.frame, here.frame)
    one = read(f"s3://lake/data/day=2/a.{extension}", tmp_path)
    assert_frame_equal(one.frame, read(tmp_path / f"data/day=2/a.{extension}", tmp_path).frame)


@pytest.mark.parametrize("extension", FORMATS)
def test_each_position_gives_the_rows_that_follow(s3, tmp_path, extension):
    write(tmp_path / f"a.{extension}", ROWS)
    upload(s3, tmp_path)
    src = source(f"s3://lake/a.{extension}", tmp_path)
    found = read(f"s3://lake/a.{extension}", tmp_path)

    async def rest_after(split: Split, position: Position) -> int:
        following = Reading(ROWS[:0])
        await read_split(src, split, position, following)
        return sum(each.height for each in following.frames)

    done = 0
    for frame, (split, position) in zip(found.frames, found.positions, strict=True):
        done += frame.height
        assert asyncio.run(rest_after(split, position)) == ROWS.height - done
    assert done == ROWS.height


def test_only_the_columns_that_are_read_are_fetched(s3, tmp_path):
    wide = pl.DataFrame({f"c{n}": range(n, n + 200_000) for n in range(10)})
    wide.write_parquet(tmp_path / "wide.parquet", compression="uncompressed", row_group_size=50_000)
    upload(s3, tmp_path)
    from dataflare.sdk.stores import objects

    fetched = []
    whole = objects.ObjectPlace.read
    try:
        objects.ObjectPlace.read = lambda self, file, start, end: (
            fetched.append(end - start) or whole(self, file, start, end)
        )
        got = read("s3://lake/wide.parquet", tmp_path, columns=["c7"])
    finally:
        objects.ObjectPlace.read = whole
    assert_frame_equal(got.frame, wide.select("c7"))
    assert sum(fetched) < (tmp_path / "wide.parquet").stat().st_size / 3


@pytest.mark.parametrize("extension", ["csv", "parquet", "arrow", "csv.gz", "xlsx"])
def test_an_object_that_is_replaced_is_an_error_and_never_mixed(s3, tmp_path, extension):
    """It is replaced after the run has listed it, or after the first rows were read."""
    write(tmp_path / f"a.{extension}", ROWS)
    upload(s3, tmp_path)
    other = ROWS.with_columns(pl.col("amount") + 1, name=pl.col("name").str.replace("row", "now"))

    src = source(f"s3://lake/a.{extension}", tmp_path)
    split, position = read(f"s3://lake/a.{extension}", tmp_path).positions[0]
    write(tmp_path / f"a.{extension}", other)
    upload(s3, tmp_path)

    async def go_on() -> None:
        reader = await src.open(split, position)
        await reader.read_chunk()

    with pytest.raises(CheckpointError) as caught:
        asyncio.run(go_on())
    assert caught.value.code == "E0703"
    assert f"s3://lake/a.{extension}" in caught.value.message


def test_an_object_that_is_replaced_between_two_ranges(s3, tmp_path):
    from dataflare.sdk.stores.objects import ObjectPlace
    from dataflare.sdk.stores.options import FROM_ENVIRONMENT

    obstore.put(s3, "a.csv", b"x" * 1_000)
    store = ObjectPlace("s3://lake", FROM_ENVIRONMENT)
    info = store.look("a.csv")
    assert store.read(info, 0, 10) == b"x" * 10
    obstore.put(s3, "a.csv", b"y" * 1_000)
    with pytest.raises(CheckpointError, match="another program replaced it"):
        store.read(info, 10, 20)
    obstore.delete(s3, "a.csv")
    with pytest.raises(CheckpointError, match="gone"):
        store.read(info, 10, 20)


def problem(config: dict | str, base: Path) -> Exception:
    with pytest.raises((SystemError_, ConfigError)) as caught:
        read(config, base)
    return caught.value


def test_each_trouble_has_its_error(s3, endpoint, tmp_path, monkeypatch):
    obstore.put(s3, "some/a.csv", b"a\n1\n")
    missing = problem("s3://lake/other.csv", tmp_path)
    assert (missing.code, missing.message) == ("E0601", "no such file: s3://lake/other.csv")
    assert problem("s3://lake/none/*.csv", tmp_path).code == "E0601"
    bucket = problem("s3://lakes/other.csv", tmp_path)
    assert (bucket.code, bucket.message) == ("E0601", "there is no bucket 'lakes'")
    assert problem("s3a://lake/a.csv", tmp_path).help == "write s3://..."
    assert problem("s3://", tmp_path).code == "E0419"
    unused = problem({"path": "s3://lake/some/a.csv", "storage": {"user": "x"}}, tmp_path)
    assert (unused.code, unused.message) == (
        "E0405",
        "storage: 'user' has no meaning for s3:// places",
    )
    own = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert read({"path": "s3://lake/some/a.csv", "storage": own}, tmp_path).frame[
        "a"
    ].to_list() == [1]


def test_a_large_text_is_read_in_blocks_with_the_next_ones_ahead(s3, tmp_path):
    rows = pl.DataFrame({"id": range(700_000), "text": ["some words that fill a line"] * 700_000})
    text = rows.write_csv()
    assert len(text) > 20 << 20
    obstore.put(s3, "large.csv", text.encode())
    assert_frame_equal(read("s3://lake/large.csv", tmp_path).frame, rows)


WORKFLOW = """\
name: loads
version: "1.0"
sources:
  orders: {type: file, config: {path: "s3://lake/in/*.csv"}}
destinations:
  out: {type: sqlite, inputs: [orders], config: {path: out.db, table: orders}}
"""


def test_a_second_run_reads_only_new_objects(s3, tmp_path):
    (tmp_path / "w.yaml").write_text(WORKFLOW)

    def go() -> list[int]:
        result = run(load(tmp_path / "w.yaml"), RunOptions(home=tmp_path / "home"))
        if result.error is not None:
            raise result.error
        with sqlite3.connect(tmp_path / "out.db") as db:
            return [n for (n,) in db.execute("select n from orders order by n")]

    obstore.put(s3, "in/a.csv", b"n\n1\n2\n")
    assert go() == [1, 2]
    obstore.put(s3, "in/b.csv", b"n\n3\n")
    assert go() == [1, 2, 3]
    assert go() == [1, 2, 3]
    obstore.put(s3, "in/a.csv", b"n\n1\n2\n4\n")  # it has grown: the same rows, and one more
    assert go() == [1, 2, 3, 4]
    obstore.put(s3, "in/b.csv", b"n\n9\n")
    with pytest.raises(RunError, match=r"s3://lake/in/b\.csv was read by an earlier run"):
        go()


ENCODED = {"s3": {"bucket": {"name": "lake"}, "object": {"key": "in/a+b%2Bc.csv"}}}


def test_the_objects_of_events_are_known_however_they_come():
    from dataflare.connectors.file.events import objects_of

    created = {"Records": [{"eventName": "ObjectCreated:Put", **ENCODED}]}
    removed = {"Records": [{"eventName": "ObjectRemoved:Delete", **ENCODED}]}
    bridged = {"bucket": {"name": "lake"}, "object": {"key": "in/a b+c.csv"}}
    there = [("lake", "in/a b+c.csv")]
    for event, expected in (
        (created, there),
        ({"Type": "Notification", "Message": json.dumps(created)}, there),
        ({"source": "aws.s3", "detail-type": "Object Created", "detail": bridged}, there),
        ({"source": "aws.s3", "detail-type": "Object Deleted", "detail": bridged}, []),
        (removed, []),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent"}, []),
    ):
        assert list(objects_of(event)) == expected


def test_new_objects_are_told_by_the_events_of_the_bucket(endpoint, s3, tmp_path, monkeypatch):
    """The bucket is listed at the start alone, and after a restart that does not know what was given."""
    from test_watch import Watcher

    from dataflare.sdk.stores.objects import ObjectPlace

    boto3 = package("boto3")
    clients = {name: boto3.client(name, endpoint_url=endpoint, region_name="us-east-1",
               aws_access_key_id="x", aws_secret_access_key="y") for name in ("sqs", "s3")}  # fmt: skip
    url = clients["sqs"].create_queue(QueueName="events")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:events"
    wanted = [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
    clients["s3"].put_bucket_notification_configuration(
        Bucket="lake", NotificationConfiguration={"QueueConfigurations": wanted}
    )
    listings: list[str] = []
    listed = ObjectPlace.list
    monkeypatch.setattr(
        ObjectPlace, "list", lambda place, root: listings.append(root) or listed(place, root)
    )
    obstore.put(s3, "in/a.csv", b"n\n1\n")
    events = {"queue": "events", "endpoint": endpoint, "region": "us-east-1"}
    watcher = Watcher(tmp_path, path="s3://lake/in/*.csv", events=events)
    assert watcher.look() == [1]
    assert len(listings) >= 1
    listings.clear()
    for name, text in (("in/b c+.csv", b"n\n2\n"), ("in/x.txt", b"x"), ("out/d.csv", b"n\n9\n")):
        obstore.put(s3, name, text)
    assert watcher.look() == [2]
    assert watcher.look() == []
    obstore.put(s3, "in/c.csv", b"n\n3\n")
    lost = watcher.find()
    assert len(lost) == 1
    assert listings == []
    watcher.ids -= {split.id for split in lost}
    assert watcher.look() == [3]
    assert len(listings) == 1
    obstore.put(s3, "in/d.csv", b"n\n4\n")
    watcher.restart()
    assert watcher.look() == [4]
    clients["sqs"].send_message(QueueUrl=url, MessageBody="{}")
    with pytest.raises(DataFlareError, match="not an event of S3") as caught:
        watcher.look()
    assert caught.value.code == "E0611"
    clients["sqs"].delete_queue(QueueUrl=url)
    watcher.restart()
    with pytest.raises(DataFlareError, match="does not exist"):
        watcher.look()


def test_new_objects_are_found_while_it_is_read(s3, tmp_path):
    from test_watch import Watcher

    obstore.put(s3, "in/a.csv", b"n\n1\n")
    watcher = Watcher(tmp_path, path="s3://lake/in/*.csv")
    assert watcher.look() == [1]
    obstore.put(s3, "in/b.csv", b"n\n2\n")
    assert watcher.look() == [2]
    watcher.restart()
    assert watcher.look() == []
    obstore.put(s3, "in/a.csv", b"n\n3\n")
    with pytest.raises(RunError, match="has been rewritten since"):
        watcher.look()


def test_another_server_in_the_environment_is_another_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that lives for long must not go on with an address or a login of before."""
    stores = []
    for port in (9, 10, 9):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        stores.append(open_store("s3://lake/a.csv", StorageOptions())[0])
    assert stores[0] is stores[2]
    assert stores[0] is not stores[1]
