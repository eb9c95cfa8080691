"""Changes that are written as Debezium does: by its documented form, and read back as they were."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.kafka.config import KafkaDestinationConfig, KafkaSourceConfig
from dataflare.connectors.kafka.messages import Limits, MessageMaker
from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Decoded, Decoder, no_bad
from dataflare.formats.messages.debezium_encode import Envelopes, paired
from dataflare.formats.messages.debezium_records import DebeziumRecords
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.build import decoder
from dataflare.sdk.streams import TableName

INSERT, BEFORE, AFTER, DELETE, _ = RowKind
AT = datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)


def made(frame: pl.DataFrame, table: TableName | None = None, **options: Any) -> pl.DataFrame:
    given = {"mode": "mirror", "key": "id", **options}
    config = KafkaDestinationConfig(
        bootstrap_servers="h:1", topic="shop.orders", format="debezium", **given
    )
    schema = Schema.from_polars(frame.drop(KIND_COLUMN, strict=False).schema)
    context = ConnectorContext("s", table=table)
    maker = MessageMaker(config, context, schema, lambda _: Limits(1, 1 << 20, False))
    result = maker.make(frame)
    assert not result.refused.height
    return result.messages


def parsed(messages: pl.DataFrame) -> list[tuple[Any, Any]]:
    def read(data: bytes | None) -> Any:
        return None if data is None else json.loads(data)

    return [(read(key), read(value)) for key, value in messages.select("key", "value").rows()]


def changes(*rows: tuple[int, int, str | None]) -> pl.DataFrame:
    schema = {KIND_COLUMN: pl.UInt8, "id": pl.Int64, "name": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").select("id", "name", KIND_COLUMN)


def test_a_table_of_many_is_named_with_its_schema_unless_the_options_name_it() -> None:
    frame = changes((INSERT, 1, "a"))

    def source(*given: Any, **options: Any) -> tuple[str, str]:
        [(_, value)] = parsed(made(frame, *given, **options))
        return value["source"]["db"], value["source"]["table"]

    assert source() == ("", "shop.orders")
    assert source(TableName("u1", "crm")) == ("crm", "u1")
    assert source(TableName("u1", "crm"), debezium={"database": "d", "table": "t"}) == ("d", "t")


def test_each_change_is_one_message_with_what_was_there_before() -> None:
    frame = changes(
        (INSERT, 1, "a"), (BEFORE, 1, "a"), (AFTER, 1, "b"), (AFTER, 2, "c"), (DELETE, 1, "b"),
        (BEFORE, 2, "c"), (AFTER, 3, "c"),
    )  # fmt: skip
    found = parsed(made(frame))
    assert [(key, v and (v["op"], v["before"], v["after"])) for key, v in found] == [
        ({"id": 1}, ("c", None, {"id": 1, "name": "a"})),
        ({"id": 1}, ("u", {"id": 1, "name": "a"}, {"id": 1, "name": "b"})),
        ({"id": 2}, ("u", None, {"id": 2, "name": "c"})),
        ({"id": 1}, ("d", {"id": 1, "name": "b"}, None)),
        ({"id": 1}, None),
        ({"id": 2}, ("d", {"id": 2, "name": "c"}, None)),
        ({"id": 2}, None),
        ({"id": 3}, ("c", None, {"id": 3, "name": "c"})),
    ]
    assert len(made(frame, debezium={"tombstones": False})) == len(found) - 2
    kept = parsed(made(frame, mode="upsert"))
    assert [v["op"] for _, v in kept] == ["c", "u", "u", "c"]


def test_a_truncate_has_no_row() -> None:
    envelopes = Envelopes(Schema.of({"id": parse_type("int64")}), "s", "t")
    frame = pl.DataFrame(
        {"id": [1, None], KIND_COLUMN: pl.Series([INSERT, RowKind.TRUNCATE], dtype=pl.UInt8)}
    )
    found = envelopes.frame(paired(frame, envelopes.row, []))
    assert found.select("before", "after", "op").rows() == [
        (None, {"id": 1}, "c"), (None, None, "t")
    ]  # fmt: skip


def test_rows_of_no_changelog_are_created() -> None:
    frame = pl.DataFrame({"id": [1, 2]})
    found = parsed(made(frame, mode="append", key=[]))
    assert [(key, v["op"], v["after"]) for key, v in found] == [
        (None, "c", {"id": 1}), (None, "c", {"id": 2})
    ]  # fmt: skip


def test_the_source_says_when_and_where() -> None:
    frame = pl.DataFrame(
        {
            "id": [1, 2],
            "_ts": pl.Series([None, AT], dtype=pl.Datetime("us", "UTC")),
            "_lsn": [None, 4711],
            "_txid": [None, "42"],
            "_snapshot": [True, False],
            KIND_COLUMN: pl.Series([INSERT, INSERT], dtype=pl.UInt8),
        }
    )
    options = {"database": "shop", "table": "orders"}
    (_, first), (_, second) = parsed(made(frame, debezium=options))
    assert (first["op"], second["op"]) == ("r", "c")
    assert second["after"] == {"id": 2}
    assert second["source"] | {"version": None} == {
        "version": None, "connector": "dataflare", "name": "shop.orders", "ts_ms": int(AT.timestamp() * 1000),
        "snapshot": "false", "db": "shop", "table": "orders", "lsn": 4711, "txId": "42",
    }  # fmt: skip
    assert (first["source"]["snapshot"], first["source"]["lsn"]) == ("true", None)
    assert second["transaction"] is None
    assert isinstance(second["ts_ms"], int)


TYPED = pl.DataFrame(
    {
        "id": pl.Series([1, 2, 3], dtype=pl.Int64),
        "flag": [True, False, None],
        "small": pl.Series([-128, 127, None], dtype=pl.Int8),
        "u8": pl.Series([255, 0, None], dtype=pl.UInt8),
        "u64": pl.Series([2**64 - 1, 0, None], dtype=pl.UInt64),
        "ratio": [1.5, -0.25, None],
        "text": ['a"ü\n', "", None],
        "amount": pl.Series([Decimal("-1.28"), Decimal("12345678.90"), None], dtype=pl.Decimal(12, 2)),
        "wide": pl.Series([Decimal(10**37), Decimal(-(10**37)), None], dtype=pl.Decimal(38, 0)),
        "day": [date(1969, 12, 31), date(2026, 3, 1), None],
        "clock": [time(0, 0, 0, 1), time(23, 59, 59, 999999), None],
        "plain": pl.Series([datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(2026, 1, 1), None], dtype=pl.Datetime("us")),
        "coarse": pl.Series([datetime(1970, 1, 1, 0, 0, 1), datetime(2026, 1, 1), None], dtype=pl.Datetime("ms")),
        "fine": pl.Series([datetime(1970, 1, 1, 0, 0, 1), datetime(2026, 1, 1), None], dtype=pl.Datetime("ns")),
        "zoned": pl.Series([AT, AT, None], dtype=pl.Datetime("us", "UTC")),
        "span": pl.Series([timedelta(days=-1, microseconds=1), timedelta(0), None], dtype=pl.Duration("us")),
    }
)  # fmt: skip


@pytest.mark.parametrize("schemas", [True, False])
def test_what_is_written_is_read_back(schemas: bool) -> None:
    kinds = pl.Series(KIND_COLUMN, [INSERT, AFTER, DELETE], dtype=pl.UInt8)
    messages = made(TYPED.with_columns(kinds), debezium={"schemas": schemas})
    config = KafkaSourceConfig(bootstrap_servers="h:1", topic="t", format="debezium")
    reader = decoder(config, ConnectorContext("s"), topic="t", sample=messages["value"])
    found = reader.decode(messages["value"])
    assert not found.bad.height
    assert found.rows[KIND_COLUMN].to_list() == [INSERT, INSERT, DELETE]
    if schemas:
        wider = {"u8": pl.Int16, "u64": pl.Decimal(20, 0)}
        read = found.rows.drop(KIND_COLUMN)
        assert read.equals(TYPED.cast(wider).select(read.columns), null_equal=True)
        assert read.schema == TYPED.cast(wider).schema
    else:
        assert found.rows["day"].to_list() == [-1, 20513, None]


def test_values_are_those_that_the_format_documents() -> None:
    (_, value), *_ = parsed(made(TYPED.head(1), debezium={"schemas": True}))
    after = value["payload"]["after"]
    assert (after["day"], after["clock"], after["plain"], after["coarse"]) == (-1, 1000, -1, 1000)
    assert (after["fine"], after["zoned"]) == (10**9, "2026-03-01T10:00:00.123456Z")
    assert base64.b64decode(after["amount"]) == b"\x80"
    assert base64.b64decode(after["u64"]) == b"\x00" + b"\xff" * 8
    assert after["span"] == -86_400_000_000 + 1
    fields = {f["field"]: f for f in value["schema"]["fields"]}
    assert value["schema"]["name"] == "shop.orders.Envelope"
    assert list(value["payload"]) == list(fields) == [
        "before", "after", "source", "op", "ts_ms", "transaction"
    ]  # fmt: skip
    row = {f["field"]: f for f in fields["after"]["fields"]}
    assert row["day"]["name"] == "io.debezium.time.Date"
    assert row["clock"]["name"] == "io.debezium.time.NanoTime"
    assert row["amount"]["parameters"] == {"scale": "2", "connect.decimal.precision": "12"}
    assert row["text"] == {"type": "string", "optional": True, "field": "text"}
    source = fields["source"]["fields"]
    assert [f["field"] for f in source] == list(value["payload"]["source"])


def test_keys_have_their_schema_too() -> None:
    (key, _), *_ = parsed(made(pl.DataFrame({"id": [7], "day": [date(2026, 1, 1)]}), key=["id", "day"], debezium={"schemas": True}))  # fmt: skip
    assert key["payload"] == {"id": 7, "day": 20454}
    assert key["schema"]["fields"][0] == {"type": "int64", "optional": False, "field": "id"}


def test_nested_values_are_converted_inside() -> None:
    frame = pl.DataFrame(
        {"id": [1], "days": [[date(1970, 1, 2), None]], "box": [{"d": date(1970, 1, 3)}]}
    )
    (_, value), *_ = parsed(made(frame))
    assert value["after"] == {"id": 1, "days": [1, None], "box": {"d": 2}}


def test_what_has_no_meaning_there_is_refused() -> None:
    frame = pl.DataFrame({"id": [1], "d": pl.Series([timedelta(1)], dtype=pl.Duration("ns"))})
    with pytest.raises(ConfigError, match="microseconds"):
        made(frame)
    for options, says in (
        ({"key_format": "json"}, "keys of its own"), ({"topic": "t-{id}"}, "takes no"), ({"schema": "{}"}, "no effect"),
    ):  # fmt: skip
        given = {"bootstrap_servers": "h:1", "topic": "t", "format": "debezium", **options}
        with pytest.raises(ValueError, match=says):
            KafkaDestinationConfig(**given)
    with pytest.raises(ValueError, match="no effect on format: json"):
        KafkaDestinationConfig(bootstrap_servers="h:1", topic="t", debezium={"schemas": True})


def source_of(**options: Any) -> KafkaSourceConfig:
    return KafkaSourceConfig(
        bootstrap_servers="h:1", topic="t", format="debezium", debezium=options
    )


def test_facts_of_changes_are_columns() -> None:
    def message(source: dict[str, Any], op: str = "c") -> bytes:
        row = {"id": 1}
        return json.dumps({"op": op, "after": row, "before": row, "source": source}).encode()

    values = pl.Series(
        [
            message({"snapshot": "first", "ts_ms": 5, "lsn": 1, "txId": 2}, "r"),
            message({"snapshot": "false", "ts_ms": 5, "ts_us": 5_001, "lsn": 10, "txId": 7}),
            message({"ts_ms": 6, "file": "bin.000002", "pos": 40, "gtid": "0-1-9"}, "d"),
            b'{"op": "c", "after": {"id": 2}}',
        ],
        dtype=pl.Binary,
    )
    config = source_of(metadata=["ts", "lsn", "txid", "snapshot"])
    reader = decoder(config, ConnectorContext("s"), topic="t", sample=values)
    found = reader.decode(values).rows
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert found.drop(KIND_COLUMN).rows() == [
        (1, None, None, None, True),
        (1, epoch + timedelta(microseconds=5_001), 10, "7", False),
        (1, epoch + timedelta(milliseconds=6), 2 * 2**40 + 40, "0-1-9", False),
        (2, None, None, None, None),
    ]
    assert reader.schema.names == tuple(found.drop(KIND_COLUMN).columns)
    taken = pl.Series([b'{"op": "c", "after": {"_lsn": 2}}'], dtype=pl.Binary)
    with pytest.raises(ConfigError, match="'_lsn'"):
        decoder(source_of(metadata=["lsn"]), ConnectorContext("s"), topic="t", sample=taken)


def test_of_an_outbox_new_rows_count() -> None:
    def message(op: str, id_: int) -> bytes:
        row = {"id": id_, "aggregatetype": "order", "payload": '{"total": 3}'}
        return json.dumps({"op": op, "after": None if op == "d" else row, "before": row}).encode()

    values = pl.Series([message("c", 1), message("d", 1), message("u", 2), None, message("r", 3)], dtype=pl.Binary)  # fmt: skip
    config = source_of(outbox=True)
    assert not config.is_changelog
    found = decoder(config, ConnectorContext("s"), topic="t", sample=values).decode(values)
    assert found.rows.columns == ["id", "aggregatetype", "payload"]
    assert found.rows["id"].to_list() == [1, 3]
    assert found.message.to_list() == [0, 4]
    assert found.bad["message"].to_list() == [2]


class Records(Decoder):
    """Gives a frame of records."""

    def __init__(self, records: pl.DataFrame) -> None:
        self.records, self.schema = records, Schema.from_polars(records.schema)

    def decode(self, values: pl.Series) -> Decoded:
        numbers = pl.int_range(self.records.height, dtype=pl.UInt32, eager=True).alias("message")
        return Decoded(self.records, numbers, no_bad())


RECORDS = pl.DataFrame(
    {
        "before": [None, {"id": 1}, None, {"id": 3}, None],
        "after": [{"id": 1}, None, None, {"id": 4}, {"id": 5}],
        "op": ["c", "d", "d", "u", "t"],
        "source": [{"lsn": 7, "txId": 2, "snapshot": "false"}] * 5,
    }
)


def test_records_of_avro_follow_the_same_rules() -> None:
    values = pl.Series([b"0", b"1", b"2", b"3", b"4"])
    found = DebeziumRecords(Records(RECORDS), ["_lsn", "_txid"]).decode(values)
    assert found.rows.rows() == [
        (1, 7, "2", INSERT), (1, 7, "2", DELETE), (4, 7, "2", INSERT)
    ]  # fmt: skip
    assert found.message.to_list() == [0, 1, 3]
    assert found.bad["message"].to_list() == [2, 4]
    assert "REPLICA IDENTITY FULL" in found.bad["error"][0]
    assert "TRUNCATE" in found.bad["error"][1]
    events = DebeziumRecords(Records(RECORDS), outbox=True).decode(values)
    assert events.rows.rows() == [(1,)]
    assert events.bad["message"].to_list() == [2, 3, 4]
    with pytest.raises(ConfigError, match="before, after and op"):
        DebeziumRecords(Records(RECORDS.select("op")))
