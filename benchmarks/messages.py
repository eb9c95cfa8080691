"""Messages decoded a CPU second, beside a loop over each message with the usual library.

python -m benchmarks.messages [ROWS]
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import fastavro
import orjson
import polars as pl

from dataflare.formats.messages.avro import AvroDecoder
from dataflare.formats.messages.avro_encode import AvroEncoder
from dataflare.formats.messages.avro_schema import parse
from dataflare.formats.messages.json import JsonDecoder, JsonEncoder, sampled
from dataflare.formats.messages.protobuf import ProtobufCodec, ProtobufDecoder
from dataflare.formats.messages.protobuf_encode import ProtobufEncoder
from dataflare.formats.messages.protobuf_schema import ProtobufSchema, compiled

AVRO = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "amount", "type": "double"},
        {"name": "paid", "type": "boolean"},
        {"name": "count", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
PROTO = """
syntax = "proto3";
message Order {
  int64 id = 1; string customer = 2; optional string note = 3; double amount = 4; bool paid = 5;
  int32 count = 6; int64 at = 7; repeated string tags = 8;
}
"""


def row(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "customer": f"customer {number % 1000}",
        "note": None if number % 3 else f"a note of order {number}",
        "amount": number / 7,
        "paid": number % 2 == 0,
        "count": number % 100,
        "at": 1_700_000_000_000_000 + number,
        "tags": ["new", "web"][: number % 3],
    }


def rate(rows: int, call: Callable[[], Any]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return rows / min(times)


def main(rows: int) -> None:
    given = [row(number) for number in range(rows)]
    print("| format | decode | encode | loop over each message, decode |")
    print("| --- | --- | --- | --- |")

    def line(name: str, decoder: Any, encoder: Any, messages: list[bytes], loop: Any) -> None:
        values = pl.Series(messages, dtype=pl.Binary)
        decoded = decoder.decode(values).rows
        assert decoded.height == rows
        figures = [
            rate(rows, lambda: decoder.decode(values)),
            rate(rows, lambda: encoder.encode(decoded)),
            rate(rows, lambda: [loop(each) for each in messages]),
        ]
        print(f"| {name} | {' | '.join(f'{each:,.0f}' for each in figures)} |", flush=True)

    texts = [orjson.dumps(each) for each in given]
    json_decoder = JsonDecoder(sampled(pl.Series(texts[:1000], dtype=pl.Binary)))
    line("json (orjson)", json_decoder, JsonEncoder(), texts, orjson.loads)

    schema = fastavro.parse_schema(json.loads(json.dumps(AVRO)))
    messages = []
    for each in given:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, each)
        messages.append(out.getvalue())
    type_ = parse(json.dumps(AVRO))
    line(
        "avro (fastavro)",
        AvroDecoder(type_),
        AvroEncoder(type_.schema(), type_),
        messages,
        lambda data: fastavro.schemaless_reader(io.BytesIO(data), schema, None),
    )

    found = ProtobufSchema(compiled({"order.proto": PROTO}, [], "order.proto"), "order.proto")
    codec = ProtobufCodec(found.message())
    line(
        "protobuf (protobuf)",
        ProtobufDecoder(codec),
        ProtobufEncoder(codec.schema, codec),
        [codec.message(**each).SerializeToString() for each in given],
        lambda data: {f.name: v for f, v in codec.message.FromString(data).ListFields()},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
