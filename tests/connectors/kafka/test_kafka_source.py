"""The kafka source, on a real broker."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from confluent_kafka import TopicPartition
from conformance import gaps
from kafka_kit import Place, row, send
from servers.kafka import GUEST, PASSWORD, USER

from dataflare.errors import DataFlareError
from dataflare.testing import Lab, check_source, read_source, source_of
from dataflare.workflow.load import load_text

COPY = """\
name: copy
settings: {parallelism: 2}
sources:
  orders:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, MORE}
DEADdestinations:
  out: {type: file, inputs: [orders], config: {path: out, format: parquet}}
"""


def copy(more: str = "stop: latest", handling: str = "") -> str:
    dead = f"    error_handling: {{{handling}}}\n" if handling else ""
    return COPY.replace("MORE", more).replace("DEAD", dead)


def written(place: Place) -> pl.DataFrame:
    return pl.read_parquet(place.folder / "out" / "*.parquet")


def numbers(place: Place) -> list[int]:
    return sorted(written(place)["n"].to_list())


def read(place: Place, schema: str | None = None, **more: Any) -> pl.DataFrame:
    source = source_of(
        "kafka", {"connection": place.cluster.bootstrap, "topic": place.topic, "stop": "latest", **more}
    )  # fmt: skip
    return asyncio.run(read_source(source))


def failure(place: Place, **more: Any) -> DataFlareError:
    """The error of reading with this config."""
    config = {"bootstrap_servers": place.cluster.bootstrap, "topic": place.topic, "stop": "latest"}
    source = source_of("kafka", {**config, "timeout": "2s", **more})

    async def try_it() -> None:
        await source.validate()
        await read_source(source)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(try_it())
    return caught.value


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": ["key", "offset", "timestamp"]},
        {"format": "raw", "metadata": ["topic", "partition", "headers", "key"], "key_format": "text"},
    ],
    ids=["json", "raw"],
)  # fmt: skip
def test_it_keeps_the_contract_of_sources(place: Place, more: dict[str, Any]) -> None:
    place.numbers(0, 500, headers={"trace": b"\x01"})
    config = {"bootstrap_servers": place.cluster.bootstrap, "topic": place.topic, "stop": "latest"}
    marked = gaps("kafka", "source")
    asyncio.run(check_source(lambda: source_of("kafka", {**config, **more}), gaps=marked))


def test_each_part_of_a_message_becomes_a_column(place: Place) -> None:
    at = dt.datetime(2026, 5, 1, 12, 0, 0, 123_000, tzinfo=dt.UTC)
    ms = int(at.timestamp() * 1000)
    place.put(
        [
            {"value": b'{"n": 1}', "key": "k", "partition": 2, "timestamp": ms,
             "headers": [("a", b"x"), ("a", None)]},
            {"value": None, "key": "k", "partition": 2, "timestamp": ms + 1},
        ]
    )  # fmt: skip
    names = ["key", "topic", "partition", "offset", "timestamp", "headers"]
    frame = read(place, metadata=names, key_format="text")
    assert frame.rows(named=True) == [
        {"n": 1, "_key": "k", "_topic": place.topic, "_partition": 2, "_offset": 0, "_timestamp": at,
         "_headers": [{"key": "a", "value": b"x"}, {"key": "a", "value": None}]},
        {"n": None, "_key": "k", "_topic": place.topic, "_partition": 2, "_offset": 1,
         "_timestamp": at + dt.timedelta(milliseconds=1), "_headers": None},
    ]  # fmt: skip
    assert place.run(copy("stop: latest, tombstones: skip")).error is None
    assert numbers(place) == [1]


def test_the_next_run_goes_on_where_the_last_one_ended(place: Place) -> None:
    place.numbers(0, 100)
    assert place.run(copy()).error is None
    place.numbers(100, 150)
    result = place.run(copy())
    assert (result.error, result.steps["orders"]["rows_out"]) == (None, 50)
    for _ in range(2):
        assert place.run(copy()).steps["orders"]["rows_out"] == 0
    assert numbers(place) == list(range(150))


def test_reading_begins_where_start_says(place: Place) -> None:
    place.numbers(0, 10, partition=0, timestamp=1_000_000)
    place.numbers(10, 20, partition=0, timestamp=2_000_000)

    def first(**start: Any) -> list[int]:
        return read(place, schema="n", **start)["n"].to_list()

    assert first(start={"time": "1970-01-01T00:20:00Z"}) == list(range(10, 20))
    assert first(start={"offsets": {place.topic: {0: 15}}}) == list(range(15, 20))
    assert first() == list(range(20))
    assert first(start="latest") == []
    with place.producer():
        consumer_commits(place, 12)
    assert first(start="group", group_id="g1") == list(range(12, 20))
    assert first(start="group", group_id="another") == list(range(20))


def consumer_commits(place: Place, offset: int) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": place.cluster.bootstrap, "group.id": "g1"})
    consumer.commit(offsets=[TopicPartition(place.topic, 0, offset)], asynchronous=False)
    consumer.close()


def group_offsets(place: Place, group: str) -> dict[int, int]:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": place.cluster.bootstrap, "group.id": group})
    found = consumer.committed([TopicPartition(place.topic, n) for n in range(3)], timeout=30)
    consumer.close()
    return {each.partition: each.offset for each in found}


def test_a_group_is_told_what_every_destination_has(place: Place) -> None:
    for partition, count in enumerate((5, 0, 8)):
        place.numbers(0, count, partition=partition)
    assert place.run(copy("stop: latest, group_id: shown")).error is None
    assert group_offsets(place, "shown") == {0: 5, 1: 0, 2: 8}


def test_what_was_not_committed_is_not_read(place: Place) -> None:
    place.numbers(0, 5, partition=0)
    for commits, first in ((False, 100), (True, 5)):
        with place.producer(transactional_id=f"{place.topic}-x") as producer:
            producer.init_transactions(30)
            producer.begin_transaction()
            send(producer, place.topic, [{"value": row(n), "partition": 0} for n in range(first, first + 5)])  # fmt: skip
            producer.commit_transaction(30) if commits else producer.abort_transaction(30)
    with place.producer(transactional_id=f"{place.topic}-y") as producer:
        producer.init_transactions(30)
        producer.begin_transaction()
        send(producer, place.topic, [{"value": row(10), "partition": 0}])
        assert read(place)["n"].to_list() == list(range(10))
        whole = read(place, isolation="read_uncommitted")["n"].to_list()
        assert sorted(whole) == [*range(11), *range(100, 105)]
        producer.commit_transaction(30)
    assert read(place)["n"].to_list() == list(range(11))


POISON = [b'{"n": 1, "text": "a"}', b'{"n": "x', b"\xff\xfe", b"[1]", b'{"n": 2, "text": "b"}']


def test_a_poison_message_is_one_dead_letter_with_its_bytes(place: Place) -> None:
    place.numbers(0, 3, partition=1)
    place.put({"value": value, "partition": 1} for value in POISON)
    dead = place.folder / "dead"
    result = place.run(copy(handling=f"on_error: dead_letter, dead_letter: {{path: {dead}}}"))
    assert result.error is None
    assert result.steps["orders"]["dead_letters"] == 3
    assert numbers(place) == [0, 1, 1, 2, 2]
    text = "".join(path.read_text() for path in dead.rglob("*") if path.is_file())
    for offset, shown in ((4, "x"), (5, "base64://4="), (6, "[1]")):
        assert f"{place.topic} partition 1 offset {offset}" in text, text
        assert shown in text, text


def test_dead_letters_are_decoded_again_by_the_schema_of_today(place: Place) -> None:
    """Also when the topic does not have the messages any more."""
    value = b'{"n": "seven"}'
    more = {
        "headers": [("h", b"\xff")],
        "key": b"k\xfe",
        "partition": 1,
        "timestamp": 1_700_000_000_123,
    }
    place.put([{"value": b'{"n": 1}', **more}, {"value": value, **more}, {"value": b"{", **more}])
    options = "stop: latest, metadata: [key, offset, partition, timestamp, headers]"
    text = copy(options, "on_error: dead_letter").replace(
        "destinations:", "    schema: {n: int64}\ndestinations:"
    )
    assert place.run(text).steps["orders"]["dead_letters"] == 2
    place.run(text, fresh=True, accept_changes=True)
    corrected = text.replace("n: int64", "n: string").replace("path: out", "path: again")
    assert place.replay(corrected) == (1, 2)
    (row,) = pl.read_parquet(place.folder / "again" / "*.parquet").to_dicts()
    at = dt.datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=dt.UTC)
    expected = {"n": "seven", "_key": b"k\xfe", "_offset": 1, "_partition": 1, "_timestamp": at}
    assert row == {**expected, "_headers": [{"key": "h", "value": b"\xff"}]}


def test_a_poison_message_ends_the_run_and_its_offset_is_named(place: Place) -> None:
    place.numbers(0, 3, partition=1)
    place.put([{"value": b"{", "partition": 1}])
    result = place.run(copy())
    assert result.error is not None
    shown = f"{result.error.message} {' '.join(result.error.notes)}"
    assert f"{place.topic} partition 1 offset 3" in shown


def test_a_field_that_comes_later_becomes_a_column(place: Place) -> None:
    place.numbers(0, 1_500, partition=0)
    place.put([{"value": b'{"n": 1500, "text": "x", "extra": 7}', "partition": 0}])
    assert place.run(copy()).error is None
    parts = [pl.read_parquet(path) for path in (place.folder / "out").glob("*.parquet")]
    extra = pl.concat(parts, how="diagonal")
    assert extra.filter(pl.col("n") == 1500)["extra"].to_list() == [7]
    assert sorted(extra["n"].to_list()) == list(range(1501))


def test_tombstones_are_deletes_for_a_mirror(place: Place) -> None:
    place.put(
        [{"value": b'{"id": 1, "v": "a"}', "key": "1"}, {"value": b'{"id": 2, "v": "b"}', "key": "2"},
         {"value": b'{"id": 1, "v": "c"}', "key": "1"}, {"value": None, "key": "2"}]
    )  # fmt: skip
    workflow = """\
name: table
sources:
  changes:
    type: kafka
    config:
      {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, tombstones: delete, metadata: [key], key_format: text}
destinations:
  out:
    type: sqlite
    inputs: [changes]
    config: {path: t.db, table: t, mode: mirror, key: _key, delete_max: "100%"}
"""
    result = place.run(workflow)
    assert result.error is None
    with sqlite3.connect(place.folder / "t.db") as db:
        assert db.execute("select _key, v from t").fetchall() == [("1", "c")]


ENDLESS = """\
name: endless
settings: {parallelism: 1, checkpoint: {interval: 50ms}}
sources:
  orders:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: "TOPIC", discovery: 200ms, timeout: 5s}
    schema: {n: int64}
transformations:
  some: {type: limit, inputs: [orders], config: {rows: COUNT}}
destinations:
  out: {type: memory, inputs: [some], config: {name: endless}}
"""


def start_endless(place: Place, count: int, topic: str | None = None) -> tuple[Lab, Any]:
    text = ENDLESS.replace("SERVERS", place.cluster.bootstrap).replace("COUNT", str(count))
    lab = Lab(place.folder / "home", checkpoint_s=0.05)
    return lab, lab.start(load_text(text.replace("TOPIC", topic or place.topic), base=place.folder))


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(3_000):
        if holds():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen in a minute")


def test_new_partitions_are_read_from_their_first_message(place: Place) -> None:
    from confluent_kafka.admin import NewPartitions

    place.numbers(0, 30)
    lab, running = start_endless(place, 60)
    until(lambda: len(lab.rows("endless")) == 30)
    admin = place.cluster.admin()
    admin.create_partitions([NewPartitions(place.topic, 5)])[place.topic].result(30)
    for partition in (3, 4):
        place.numbers(partition * 10, partition * 10 + 15, partition=partition)
    result = running.result(60)
    assert result.error is None
    assert sorted(row["n"] for row in lab.rows("endless")) == sorted(
        [*range(30), *range(30, 45), *range(40, 55)]
    )


def test_new_topics_of_a_pattern_are_read(place: Place) -> None:
    place.numbers(0, 10)
    lab, running = start_endless(place, 20, topic=f"^{place.topic}(-.*)?$")
    until(lambda: len(lab.rows("endless")) == 10)
    place.cluster.create_topic(f"{place.topic}-more")
    place.put([row(n) for n in range(10, 20)], topic=f"{place.topic}-more")
    assert running.result(60).error is None
    assert sorted(row["n"] for row in lab.rows("endless")) == list(range(20))


def test_more_partitions_than_subtasks_are_all_read(place: Place) -> None:
    place.cluster.create_topic(f"{place.topic}-wide", 12)
    place.put(
        ({"value": row(n), "partition": n % 12} for n in range(120)), topic=f"{place.topic}-wide"
    )
    lab, running = start_endless(place, 120, topic=f"{place.topic}-wide")
    assert running.result(60).error is None
    assert sorted(row["n"] for row in lab.rows("endless")) == list(range(120))


# -- what is wrong ------------------------------------------------------------------------------------


def test_a_topic_that_is_not_there_is_named(place: Place) -> None:
    error = failure(place, topic="nothing-here")
    assert (error.code, "'nothing-here'" in error.message) == ("E0604", True)
    error = failure(place, topic="^nothing-.*")
    assert error.code == "E0604"


def test_without_a_broker_it_says_so_in_time(place: Place) -> None:
    error = failure(place, bootstrap_servers="127.0.0.1:1")
    assert error.code == "E0607"
    assert "127.0.0.1:1" in error.message


def sasl(user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
    return {"mechanism": "PLAIN", "username": user, "password": password}


def test_a_login_is_checked(place: Place) -> None:
    place.numbers(0, 5)
    here = {"bootstrap_servers": place.cluster.sasl}
    assert read(place, **without_connection(place, sasl=sasl())).height == 5
    error = failure(place, **here, sasl=sasl(password="wrong-Pass"))
    assert error.code == "E0606"
    assert "wrong-Pass" not in f"{error} {error.notes} {error.help}"
    error = failure(place, **here, sasl=sasl(GUEST))
    assert error.code == "E0602"


def without_connection(place: Place, **more: Any) -> dict[str, Any]:
    return {"connection": place.cluster.sasl, **more}


def test_scram_is_a_login_too(place: Place) -> None:
    from confluent_kafka.admin import (
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    place.numbers(0, 5)
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    admin = place.cluster.admin()
    change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
    admin.alter_user_scram_credentials([change])[USER].result(30)
    login = {"username": USER, "password": PASSWORD}
    assert read(place, **without_connection(place, sasl=login)).height == 5


def test_tls_checks_the_servers_certificate_and_shows_our_own(place: Place) -> None:
    place.numbers(0, 5)
    ca = str(place.cluster.certificate)
    here = {"connection": place.cluster.tls}
    assert read(place, **here, tls={"ca": ca}).height == 5
    own = {"certificate": ca, "key": str(place.cluster.key)}
    assert read(place, **here, tls={"ca": ca, **own}).height == 5
    error = failure(place, bootstrap_servers=place.cluster.tls, tls=True)
    assert error.code == "E0609", error


def test_lost_offsets_end_the_run_or_are_counted(place: Place) -> None:
    place.numbers(0, 20, partition=0)
    assert place.run(copy()).error is None
    place.numbers(20, 60, partition=0)
    admin = place.cluster.admin()
    for future in admin.delete_records([TopicPartition(place.topic, 0, 50)]).values():
        future.result(30)
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "30 offsets are lost" in result.error.message) == ("E0605", True)
    result = place.run(copy("stop: latest, lost_offsets: skip"), accept_changes=True)
    assert result.error is None
    assert any("30 rows" in warning for warning in result.warnings), result.warnings
    assert numbers(place) == [*range(20), *range(50, 60)]


def test_a_topic_that_was_made_again_is_noticed(place: Place) -> None:
    place.numbers(0, 20)
    assert place.run(copy()).error is None
    place.cluster.delete_topic(place.topic)
    make_again(place)
    place.numbers(100, 200)
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "made again" in result.error.message) == ("E0605", True)
    assert numbers(place) == list(range(20))
    assert place.run(copy(), fresh=True).error is None


def make_again(place: Place) -> None:
    from confluent_kafka import KafkaException

    for _ in range(100):
        try:
            place.cluster.create_topic(place.topic, 3)
            return
        except KafkaException:
            continue
    raise AssertionError("the topic could not be made again")


def test_a_topic_that_is_made_again_while_it_is_read_is_noticed(place: Place) -> None:
    place.numbers(0, 20)
    lab, running = start_endless(place, 1_000)
    until(lambda: len(lab.rows("endless")) == 20)
    place.cluster.delete_topic(place.topic)
    make_again(place)
    place.numbers(100, 500)
    result = running.result(60)
    assert result.error is not None
    assert result.error.code in ("E0604", "E0605"), result.error
