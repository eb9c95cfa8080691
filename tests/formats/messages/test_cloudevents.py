"""Events of CloudEvents 1.0: both modes, both ways, and what is not an event."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from dataflare.errors import ConfigError
from dataflare.formats.messages.cloudevents import CloudEventsDecoder, event_of
from dataflare.formats.messages.contract import Decoded, Decoder, Encoder
from dataflare.formats.messages.envelope import HEADERS, Envelope
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import BINARY, Field, Schema
from dataflare.sdk.brokers.reader import Message, frame_of
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.build import decoder, encoder, needs_sample
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions

EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.made"}
BINARY_EVENT = {"ce_" + name: text for name, text in EVENT.items()}
DATA = Schema.of({"order": "int64", "price": "string"})
CONTEXT = ConnectorContext(step="events", base=Path())


def decoder_of(
    contract: Schema | None = DATA, sample: list[bytes] | None = None, **options: Any
) -> Decoder:
    given = SourceMessageOptions.model_validate({"format": "cloudevents", **options})
    texts = pl.Series(sample, dtype=pl.Binary) if sample is not None else None
    return decoder(given, CONTEXT, topic="events", contract=contract, sample=texts)


def encoder_of(columns: dict[str, str], **options: Any) -> Encoder:
    given = MessageOptions.model_validate({"format": "cloudevents", **options})
    return encoder(given, CONTEXT, Schema.of(columns), topic="events")


def frame(*messages: tuple[bytes | None, dict[str, str | bytes] | None]) -> pl.DataFrame:
    headers = [
        None if h is None else [
            {"key": k, "value": v if isinstance(v, bytes) else v.encode()} for k, v in h.items()
        ]
        for _, h in messages
    ]  # fmt: skip
    return pl.DataFrame(
        [
            pl.Series("value", [value for value, _ in messages], dtype=pl.Binary),
            pl.Series("headers", headers, dtype=HEADERS.to_polars()),
        ]
    )


def structured(**more: Any) -> bytes:
    return json.dumps({**EVENT, **more}).encode()


def only(decoded: Decoded) -> dict[str, Any]:
    assert not decoded.bad.height, decoded.bad.to_dicts()
    (row,) = decoded.rows.to_dicts()
    return row


def test_both_modes_give_the_same_row():
    data = b'{"order": 1, "price": 1.50}'
    event = json.dumps(
        {**EVENT, "time": "2024-05-06T07:08:09.123456789+02:00", "subject": "é"}
    ).encode()
    whole = event[:-1] + b', "data": ' + data + b"}"
    headers = BINARY_EVENT | {"ce_time": "2024-05-06T07:08:09.123456789+02:00", "ce_subject": "é"}
    decoded = decoder_of().decode_messages(frame((whole, None), (data, headers)))
    assert not decoded.bad.height
    first, second = decoded.rows.to_dicts()
    assert first == second
    assert (first["order"], first["price"], first["ce_subject"]) == (1, "1.50", "é")
    assert (first["ce_id"], first["ce_source"], first["ce_type"]) == ("7", "/shop", "order.made")
    assert decoded.rows["ce_time"].to_physical()[0] % 10**9 == 123456789
    assert first["ce_time"].replace(microsecond=0) == datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "headers", "why"),
    [
        (b"{}", None, "the event has no specversion"),
        (b"nothing", None, "not an event: not valid JSON"),
        (b"\xff", None, "not an event: not valid UTF-8"),
        (b"[]", None, "not an event"),
        (structured(id=""), None, "the event has no id"),
        (structured(type=None), None, "the event has no type"),
        (structured(specversion="0.3"), None, "the event is of version 0.3, and 1.0 is read"),
        (structured(subject=["x"]), None, "the attribute 'subject' is not a text"),
        (structured(data_base64="?"), None, "data_base64 is not base64"),
        (structured(data=1, data_base64="MQ=="), None, "it has both data and data_base64"),
        (b"{}", BINARY_EVENT | {"ce_id": ""}, "the event has no id"),
        (b"{}", BINARY_EVENT | {"ce_subject": b"\xff"}, "the header 'ce_subject' is not valid UTF-8"),
        (structured(time="noon"), None, "column 'ce_time': 'noon' is not a timestamp"),
        (structured(time="3000-01-01T00:00:00Z"), None, "column 'ce_time'"),
        (structured(data={"order": "x"}), None, "column 'order': 'x' is not an int64"),
        (structured(data=[1]), None, ""),
        (b'{"order": "x"}', BINARY_EVENT, "column 'order': 'x' is not an int64"),
        (b"[]", {"content-type": "application/cloudevents-batch+json"}, "a batch of events"),
    ],
)  # fmt: skip
def test_a_message_that_is_no_event_is_bad_with_its_bytes(
    value: bytes, headers: dict[str, str | bytes] | None, why: str
):
    good = (structured(data={"order": 1}), None)
    decoded = decoder_of().decode_messages(frame(good, (value, headers), good))
    assert decoded.message.to_list() == [0, 2]
    (bad,) = decoded.bad.to_dicts()
    assert (bad["message"], bad["value"]) == (1, value)
    assert why in bad["error"]


def test_an_event_without_data_is_a_row():
    messages = frame(
        (structured(), None),
        (structured(data=None), None),
        (None, BINARY_EVENT),
        (b"", BINARY_EVENT),
        (structured(data={"order": 5}), None),
        (None, None),
    )
    decoded = decoder_of().decode_messages(messages)
    assert decoded.message.to_list() == [0, 1, 2, 3, 4]
    assert decoded.rows["order"].to_list() == [None, None, None, None, 5]
    assert decoded.rows["ce_id"].to_list() == ["7"] * 5


@pytest.mark.parametrize(
    ("tombstones", "ids"),
    [("null", ["7", None, "7"]), ("skip", ["7"]), ("delete", ["7", None, "7"])],
)
def test_messages_without_a_value(tombstones: Any, ids: list[str | None]):
    messages = frame((structured(data={"order": 5}), None), (None, None), (None, BINARY_EVENT))
    envelope = Envelope(decoder_of(), tombstones=tombstones)
    assert envelope.reads == {"headers"}
    decoded = envelope.decode(messages)
    assert decoded.rows["ce_id"].to_list() == ids
    if tombstones == "delete":
        kinds = [RowKind.INSERT.value, RowKind.DELETE.value, RowKind.DELETE.value]
        assert decoded.rows[KIND_COLUMN].to_list() == kinds


def test_metadata_stands_beside_an_event():
    messages = frame((structured(), None), (b"broken", None)).with_columns(key=pl.lit(b"k"))
    decoded = Envelope(decoder_of(), metadata=(Field("key", BINARY),)).decode(messages)
    assert decoded.rows["_key"].to_list() == [b"k"]
    assert decoded.bad["message"].to_list() == [1]


def test_other_attributes_become_columns_or_are_told():
    value = structured(traceparent="00-1", count=5, flag=True, data={"order": 1})
    decoded = decoder_of(cloudevents={"extensions": ["traceparent", "count"]}).decode_messages(
        frame((value, None), (value, None))
    )
    assert decoded.rows["ce_traceparent"].to_list() == ["00-1", "00-1"]
    assert decoded.rows["ce_count"].to_list() == ["5", "5"]
    text = "the attribute 'flag' of events has no column: name it in 'extensions'"
    assert decoded.warnings == {text: 2}


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "cloudEvents:", "cloudEvents_"])
def test_headers_of_each_broker(prefix: str):
    headers: dict[str, str | bytes] = {prefix + name: text for name, text in EVENT.items()}
    headers["content-type"] = "application/json"
    row = only(decoder_of().decode_messages(frame((b'{"order": 3}', headers))))
    assert (row["order"], row["ce_datacontenttype"]) == (3, "application/json")


def test_the_mode_is_held_to():
    value = structured(data={"order": 1})
    decoded = decoder_of(cloudevents={"mode": "binary"}).decode_messages(frame((value, None)))
    assert "no headers of an event" in decoded.bad["error"][0]
    decoded = decoder_of(cloudevents={"mode": "structured"}).decode_messages(
        frame((value, BINARY_EVENT | {"ce_id": "other"}))
    )
    assert only(decoded)["ce_id"] == "7"


def test_columns_are_found_in_a_sample_of_both_modes():
    sample = [structured(data={"a": 1}), b'{"b": true}', structured(), b"broken"]
    assert needs_sample(SourceMessageOptions(format="cloudevents"))
    made = decoder_of(None, sample)
    assert (str(made.schema["a"]), str(made.schema["b"])) == ("int64", "bool")


@pytest.mark.parametrize("data", ["raw", "text"])
def test_data_that_is_not_json(data: str):
    made = decoder_of(None, cloudevents={"data": data})
    coded = base64.b64encode(b"\x00bytes" if data == "raw" else b"text").decode()
    decoded = made.decode_messages(
        frame(
            (structured(data_base64=coded), None),
            (structured(data='li"ne', datacontenttype="text/plain"), None),
            (structured(data="quoted"), None),
        )
    )
    values = decoded.rows["value"].cast(pl.Binary).to_list()
    assert values == [b"\x00bytes" if data == "raw" else b"text", b'li"ne', b'"quoted"']


COLUMNS = {"ce_id": "string", "ce_time": "timestamp[us, UTC]", "ce_n": "int32", "order": "int64"}
ROWS = pl.DataFrame(
    {
        "ce_id": ["1", 'a"b\n', None, ""],
        "ce_time": [datetime(2024, 1, 2, 3, 4, 5, 678901, UTC), None, None, None],
        "ce_n": [5, None, 1, 1],
        "order": [1, None, 3, 4],
    },
    schema=Schema.of(COLUMNS).to_polars(),
)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_events_come_back(mode: str):
    options = {"mode": mode, "source": "/shop", "type": "order.made"}
    encoded = encoder_of(COLUMNS, cloudevents=options).encode(ROWS)
    assert encoded.bad["message"].to_list() == [2, 3]
    assert encoded.bad["error"].to_list() == ["it has no ce_id, and an event needs it"] * 2
    assert encoded.headers is not None
    messages = pl.DataFrame([encoded.values.alias("value"), encoded.headers.alias("headers")])
    decoded = decoder_of(
        Schema.of({"order": "int64"}), cloudevents={"mode": mode, "extensions": ["n"]}
    ).decode_messages(messages[:2])
    assert not decoded.bad.height
    first, second = decoded.rows.to_dicts()
    assert (first["ce_id"], first["order"], first["ce_n"]) == ("1", 1, "5")
    assert first["ce_time"] == ROWS["ce_time"][0]
    assert (second["ce_id"], second["order"], second["ce_n"]) == ('a"b\n', None, None)
    assert {first["ce_datacontenttype"], second["ce_datacontenttype"]} == {"application/json"}
    headers = {each["key"]: each["value"] for each in encoded.headers[0]}
    if mode == "structured":
        assert headers == {"content-type": b"application/cloudevents+json; charset=UTF-8"}
        event = json.loads(encoded.values[0])
        assert (event["specversion"], event["n"], event["data"]) == ("1.0", 5, {"order": 1})
        assert "time" not in json.loads(encoded.values[1])
    else:
        assert headers["ce_specversion"] == b"1.0"
        assert headers["content-type"] == b"application/json"
        assert encoded.values[0] == b'{"order":1}'


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("data", ["raw", "text", "csv"])
def test_data_of_each_format_comes_back(mode: str, data: str):
    type_ = "binary" if data == "raw" else "string"
    columns = {"ce_id": "string", "ce_source": "string", "ce_type": "string", "value": type_}
    content = b"\xff\x00" if data == "raw" else 'é,"'
    rows = pl.DataFrame({"ce_id": ["1"], "ce_source": ["s"], "ce_type": ["t"], "value": [content]})
    encoded = encoder_of(columns, cloudevents={"mode": mode, "data": data}).encode(rows)
    assert encoded.headers is not None
    contract = Schema.of({"value": "string"}) if data == "csv" else None
    decoded = decoder_of(contract, cloudevents={"data": data}).decode_messages(
        pl.DataFrame([encoded.values.alias("value"), encoded.headers.alias("headers")])
    )
    assert only(decoded)["value"] == content


def test_an_event_without_data_columns_is_not_a_tombstone():
    columns = {"ce_id": "string"}
    options = {"mode": "binary", "source": "s", "type": "t"}
    encoded = encoder_of(columns, cloudevents=options).encode(pl.DataFrame({"ce_id": ["1"]}))
    assert encoded.values.to_list() == [b""]


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        ({"order": "int64"}, {}, "they have no column 'ce_id'"),
        ({"ce_id": "string", "ce_source": "string"}, {"source": "x"}, "'source' is in the options"),
        ({"ce_id": "list<string>"}, {}, "column 'ce_id' is list<string>"),
        ({"ce_id": "string", "ce_time": "timestamp[us]"}, {}, "has a zone"),
        ({"ce_id": "string", "ce_time": "string"}, {}, "is a timestamp with a zone"),
        ({"ce_specversion": "string"}, {}, "not the name of an attribute"),
        ({"ce_Big": "string"}, {}, "not the name of an attribute"),
    ],
)
def test_columns_that_are_no_events(columns: dict[str, str], options: Any, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        encoder_of(columns, cloudevents=options)
    assert caught.value.code == "E0428"


def test_options_that_do_not_fit():
    for options in (
        {"format": "json", "cloudevents": {}},
        {"format": "cloudevents", "csv": {"columns": ["a"]}},
        {"format": "cloudevents", "cloudevents": {"data": "avro"}},
        {"format": "cloudevents", "schema": "x"},
        {"format": "cloudevents", "cloudevents": {"extensions": ["Upper"]}},
        {"format": "csv", "csv": {"columns": ["a", "a"]}},
    ):
        with pytest.raises(ValidationError):
            SourceMessageOptions.model_validate(options)
    with pytest.raises(ValidationError):
        MessageOptions.model_validate({"format": "csv", "csv": {"null_values": ["NA"]}})


def test_a_field_named_like_an_attribute_is_refused():
    with pytest.raises(ConfigError, match="also the column of an attribute"):
        CloudEventsDecoder(decoder_of(Schema.of({"ce_id": "int64"}), format="json"))


def test_a_message_without_value_and_headers_is_no_event():
    assert event_of(None, None, "auto") is None


def test_messages_of_a_system_without_headers_are_structured():
    """Such as standard input, sockets, Kinesis and entries of Redis."""
    told = Schema.of({"id": "string"})
    given = [Message(structured(data={"order": 1, "price": "2"}), {"id": "a"}, "here", 1)]
    envelope = Envelope(decoder_of(), step="events")
    decoded = envelope.decode(frame_of(given, told, tuple(envelope.reads)))
    assert decoded.rows["order"].to_list() == [1]
    assert not decoded.bad.height
    with_log = envelope.decode(pl.DataFrame({"value": [given[0].value]}))
    assert with_log.rows.equals(decoded.rows)


@pytest.mark.parametrize("mode", ["auto", "structured"])
def test_a_bad_event_of_the_sample_adds_no_columns(mode: str):
    """An event that lacks its source: its other attributes are not columns of the data."""
    bad = b'{"specversion": "1.0", "id": "8", "type": "t", "data": {"order": 1}}'
    sample = [bad, structured(data={"order": 1})]
    made = decoder_of(None, sample, cloudevents={"mode": mode})
    assert (
        made.schema.names == decoder_of(None, sample[1:], cloudevents={"mode": mode}).schema.names
    )
    assert made.schema.names[-1] == "order"


def test_the_data_of_binary_events_is_the_sample():
    sample = [b'{"specversion": "1.0", "order": 1}']
    made = decoder_of(None, sample, cloudevents={"mode": "binary"})
    assert made.schema.names[-2:] == ("specversion", "order")


def test_without_headers_a_value_that_is_no_event_adds_no_columns():
    given = SourceMessageOptions.model_validate({"format": "cloudevents"})
    sample = pl.Series([b'{"id": "8", "amount": 1}', structured(data={"order": 1})])
    made = decoder(given, CONTEXT, topic="lines", sample=sample, has_headers=False)
    assert "amount" not in made.schema.names
    assert made.schema.names[-1] == "order"
    with_headers = decoder(given, CONTEXT, topic="lines", sample=sample)
    assert "amount" in with_headers.schema.names
