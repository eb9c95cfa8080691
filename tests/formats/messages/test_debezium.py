"""Changes as Debezium writes them: a row or a bad message for each, and values as the schema in the message means them."""

from __future__ import annotations

import base64
import datetime
import json
import random
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.kafka.config import KafkaSourceConfig
from dataflare.formats.messages.debezium import UNAVAILABLE, DebeziumDecoder, rows_of, types_of
from dataflare.formats.messages.json import JsonDecoder, sampled
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.build import decoder as built


def message(op: str, before: Any = None, after: Any = None, fields: Any = None) -> bytes:
    change = {"before": before, "after": after, "source": {"lsn": 7}, "op": op, "ts_ms": 1}
    if fields is None:
        return json.dumps(change).encode()
    row = {"type": "struct", "fields": fields, "optional": True}
    schema = {
        "type": "struct",
        "fields": [{**row, "field": "before"}, {**row, "field": "after"}],
    }
    return json.dumps({"schema": schema, "payload": change}).encode()


def decoder_of(sample: list[bytes | None], schema: Schema | None = None) -> DebeziumDecoder:
    config = KafkaSourceConfig(bootstrap_servers="h:1", topic="t", format="debezium")
    made = built(
        config,
        ConnectorContext("s"),
        topic="t",
        contract=schema,
        sample=pl.Series(sample, dtype=pl.Binary),
    )
    assert isinstance(made, DebeziumDecoder)
    return made


def decoded(*messages: bytes | None, schema: Schema | None = None) -> Any:
    return decoder_of([*messages], schema).decode(pl.Series(messages, dtype=pl.Binary))


def test_each_change_of_a_row_is_an_insert_or_a_delete() -> None:
    found = decoded(
        message("r", after={"id": 1, "v": "a"}),
        message("c", after={"id": 2, "v": "b"}),
        message("u", before={"id": 1, "v": "a"}, after={"id": 1, "v": "c"}),
        message("u", after={"id": 2, "v": "d"}),
        message("d", before={"id": 1, "v": None}),
        None,
    )
    insert, delete = RowKind.INSERT, RowKind.DELETE
    assert found.rows.select("id", "v", KIND_COLUMN).rows() == [
        (1, "a", insert), (2, "b", insert), (1, "c", insert), (2, "d", insert), (1, None, delete)
    ]  # fmt: skip
    assert found.message.to_list() == [0, 1, 2, 3, 4]
    assert not found.bad.height


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (message("t"), "TRUNCATE"),
        (message("m"), "op m"),
        (message("x"), "'x' is not an 'op'"),
        (message("d"), "REPLICA IDENTITY FULL"),
        (message("u"), "its 'after' is null"),
        (b'{"id": 1}', "no field 'op'"),
        (b'{"payload": null}', "its payload is null"),
        (b"[1]", "not a change in JSON"),
        (b"\xff", "not a change in JSON"),
        (b"", "not a change in JSON"),
        (message("c", after={"id": 1, "v": UNAVAILABLE}), "did not send the value of column 'v'"),
    ],
)
def test_what_is_not_a_change_of_a_row_is_bad(value: bytes, says: str) -> None:
    good = message("c", after={"id": 1, "v": "a"})
    found = decoded(good, value, good)
    assert found.message.to_list() == [0, 2]
    [(at, code, text, raw)] = found.bad.rows()
    assert (at, code, raw) == (1, "E0577", value)
    assert says in text


def test_a_row_that_does_not_fit_is_bad_with_the_whole_message() -> None:
    bad = message("c", after={"id": "x"})
    made = decoder_of([message("c", after={"id": 1})])
    found = made.decode(pl.Series([message("c", after={"id": 5}), bad]))
    assert found.rows["id"].to_list() == [5]
    assert found.bad.select("message", "code", "value").rows() == [(1, "E0501", bad)]


def unscaled(number: int) -> str:
    size = (number.bit_length() + 8) // 8
    return base64.b64encode(number.to_bytes(size, "big", signed=True)).decode()


LOGICAL: dict[str, tuple[dict[str, Any], str, list[tuple[Any, Any]]]] = {
    "date": (
        {"type": "int32", "name": "io.debezium.time.Date"}, "date",
        [(0, datetime.date(1970, 1, 1)), (-1, datetime.date(1969, 12, 31))],
    ),
    "milliseconds": (
        {"type": "int64", "name": "io.debezium.time.Timestamp"}, "timestamp[ms]",
        [(1_500, datetime.datetime(1970, 1, 1, 0, 0, 1, 500_000))],
    ),
    "microseconds": (
        {"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, "timestamp[us]",
        [(1, datetime.datetime(1970, 1, 1, 0, 0, 0, 1))],
    ),
    "zoned": (
        {"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "timestamp[us, UTC]",
        [("2026-11-29T12:00:00.000001+02:00",
          datetime.datetime(2026, 11, 29, 10, 0, 0, 1, tzinfo=datetime.UTC))],
    ),
    "time": (
        {"type": "int64", "name": "io.debezium.time.MicroTime"}, "time",
        [(1, datetime.time(0, 0, 0, 1)), (86_399_999_999, datetime.time(23, 59, 59, 999_999))],
    ),
    "decimal": (
        {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
         "parameters": {"scale": "2", "connect.decimal.precision": "10"}}, "decimal(10, 2)",
        [(unscaled(-1), Decimal("-0.01")), (unscaled(12_345), Decimal("123.45")),
         (unscaled(0), Decimal("0.00"))],
    ),
    "small number": ({"type": "int16"}, "int16", [(-32_768, -32_768)]),
    "text that looks like a number": ({"type": "string"}, "string", [("0012", "0012")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOGICAL)
def test_values_are_what_the_schema_in_the_message_means(kind: str) -> None:
    field, type_, pairs = LOGICAL[kind]
    fields = [{"type": "int32", "field": "id"}, {**field, "field": "v", "optional": True}]
    values = [*pairs, (None, None)]
    found = decoded(*(message("c", after={"id": 1, "v": v}, fields=fields) for v, _ in values))
    assert found.rows.drop(KIND_COLUMN).schema == Schema.of({"id": "int32", "v": type_}).to_polars()
    assert found.rows["v"].to_list() == [meant for _, meant in values]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (LOGICAL["decimal"][0], unscaled(10**10)),
        (LOGICAL["decimal"][0], "not base64"),
        (LOGICAL["time"][0], 86_400_000_000),
        (LOGICAL["time"][0], -1),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_bad(field: dict[str, Any], value: Any) -> None:
    fields = [{"type": "int32", "field": "id"}, {**field, "field": "v"}]
    found = decoded(message("c", after={"id": 1, "v": value}, fields=fields))
    assert not found.rows.height
    assert found.bad["code"].to_list() == ["E0577"]


def test_a_schema_of_the_step_wins_over_that_of_the_message() -> None:
    fields = [{"type": "int32", "name": "io.debezium.time.Date", "field": "day"}]
    sent = message("c", after={"day": 20_000}, fields=fields)
    found = decoded(sent, schema=Schema.of({"day": "int64"}))
    assert found.rows["day"].to_list() == [20_000]


def test_what_becomes_of_a_message_does_not_depend_on_its_neighbours() -> None:
    made = DebeziumDecoder(
        JsonDecoder(sampled(rows_of(pl.Series([message("c", after={"id": 1, "v": "a"})])))),
        types_of(pl.Series([b"{}"])),
    )
    pool = [
        message("c", after={"id": 1, "v": "a"}), message("d", before={"id": 2}), message("t"), b"{", None,
        message("c", after={"id": "x"}), message("u", after={"id": 3, "v": UNAVAILABLE, "w": 1}),
    ]  # fmt: skip
    for seed in range(40):
        batch = random.Random(seed).choices(pool, k=6)
        together = made.decode(pl.Series(batch, dtype=pl.Binary))
        assert {*together.message} | {*together.bad["message"]} == {
            at for at, each in enumerate(batch) if each is not None
        }
        for at, each in enumerate(batch):
            alone = made.decode(pl.Series([each], dtype=pl.Binary))
            assert together.rows.filter(together.message == at).equals(alone.rows)
            errors = together.bad.filter(pl.col("message") == at)["error"].to_list()
            assert errors == alone.bad["error"].to_list()


def test_the_transaction_of_a_change_is_that_of_its_block_where_its_source_has_none() -> None:
    """`provide.transaction.metadata` adds the block to each change."""
    block = {"id": "571:53195832", "total_order": 1, "data_collection_order": 1}

    def change(source: dict[str, Any], transaction: Any) -> bytes:
        row = {"before": None, "after": {"id": 1}, "op": "c", "ts_ms": 1}
        return json.dumps({**row, "source": source, "transaction": transaction}).encode()

    messages = [
        change({"txId": 571}, block), change({}, block), change({"gtid": None}, None), change({"snapshot": "true"}, block),
    ]  # fmt: skip
    config = KafkaSourceConfig(
        bootstrap_servers="h:1", topic="t", format="debezium", debezium={"metadata": ["txid"]}
    )
    sample = pl.Series(messages, dtype=pl.Binary)
    made = built(config, ConnectorContext("s"), topic="t", contract=None, sample=sample)
    assert made.decode(sample).rows["_txid"].to_list() == ["571", "571:53195832", None, None]


def test_a_truncate_stands_at_its_place_where_it_may_be_given() -> None:
    rows = [
        message("c", after={"id": 1, "v": "a"}),
        message("t"),
        message("c", after={"id": 2, "v": "b"}),
        message("t"),
    ]
    made = decoder_of([*rows])
    assert not made.is_truncation(rows[1])
    made.not_truncated = None
    assert [made.is_truncation(each) for each in [*rows, None, b'"t"', b"\xff"]] == [
        False, True, False, True, False, False, False
    ]  # fmt: skip
    found = made.decode(pl.Series(rows, dtype=pl.Binary))
    insert, truncate = RowKind.INSERT, RowKind.TRUNCATE
    assert found.rows.select("id", "v", KIND_COLUMN).rows() == [
        (1, "a", insert), (None, None, truncate), (2, "b", insert), (None, None, truncate)
    ]  # fmt: skip
    assert found.message.to_list() == [0, 1, 2, 3]
    assert not found.bad.height
