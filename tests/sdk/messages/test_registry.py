"""The client of a schema registry, against a strict one: what it finds, keeps, tries again and says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import httpx
import polars as pl
import pytest
from pydantic import ValidationError
from servers.registry import SchemaRegistry, schema_registry
from servers.web import Answer, http_server

from dataflare.errors import ConfigError, DataError, DataFlareError, Retry, render
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.messages.build import decoder, encoder, envelope
from dataflare.sdk.messages.config import MessageOptions, RegistryConfig, SourceMessageOptions
from dataflare.sdk.messages.registry import RegistryClient

V1 = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}
V2 = {
    **V1,
    "fields": [
        *V1["fields"],  # type: ignore[misc]
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
BREAKS = {**V1, "fields": [*V1["fields"], {"name": "must", "type": "string"}]}  # type: ignore[misc]


def client(server: Any, **options: Any) -> RegistryClient:
    config = RegistryConfig(url=server.url, **options)
    return RegistryClient(config, "orders", Path(), sleep=lambda seconds: None)


def message(schema: Any, id_: int, row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), row)
    return b"\0" + id_.to_bytes(4, "big") + out.getvalue()


def test_schemas_are_registered_found_and_kept():
    with schema_registry() as (_, server):
        registry = client(server)
        id_ = registry.register("orders-value", json.dumps(V1), "AVRO")
        assert registry.register("orders-value", json.dumps(V1), "AVRO") == id_
        assert registry.register("other/odd name", json.dumps(V1), "AVRO") == id_
        assert registry.schema(id_).text == json.dumps(V1)
        before = len(server.asked)
        assert registry.schema(id_).text == json.dumps(V1)
        assert len(server.asked) == before
        newer = registry.register("orders-value", json.dumps(V2), "AVRO")
        latest = registry.latest("orders-value")
        assert latest is not None
        assert (latest.id, latest.text) == (newer, json.dumps(V2))
        assert registry.latest("nothing") is None
        assert registry.find("orders-value", json.dumps(V1), "AVRO") is not None
        assert registry.find("orders-value", json.dumps(BREAKS), "AVRO") is None
        assert registry.find("nothing", json.dumps(V1), "AVRO") is None
        with pytest.raises(DataError, match="no schema with the id 77") as caught:
            registry.schema(77)
        assert caught.value.code == "E0571"


def test_references_come_with_the_schema():
    address = '{"type": "record", "name": "Address", "fields": [{"name": "zip", "type": "string"}]}'
    person = '{"type": "record", "name": "P", "fields": [{"name": "home", "type": "Address"}]}'
    with schema_registry() as (registry, server):
        registry.add("address", address)
        reference = {"name": "Address", "subject": "address", "version": 1}
        registry.add("people-value", person, references=[reference])
        options = SourceMessageOptions(format="avro", registry=RegistryConfig(url=server.url))
        made = decoder(options, ConnectorContext("people"), topic="people")
        assert str(made.schema["home"]) == "struct<zip: string>"


def test_a_schema_that_does_not_fit_says_so():
    with schema_registry() as (_, server):
        registry = client(server)
        registry.register("orders-value", json.dumps(V1), "AVRO")
        with pytest.raises(
            ConfigError, match="incompatible with the newest one of 'orders-value'"
        ) as caught:
            registry.register("orders-value", json.dumps(BREAKS), "AVRO")
        assert caught.value.code == "E0424"
        assert "Schema being registered is incompatible" in caught.value.notes[0]
        with pytest.raises(ConfigError, match="does not take the schema") as caught:
            registry.register("orders-value", '{"type": "nonsense"}', "AVRO")
        assert caught.value.code == "E0424"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_call_that_fails_for_a_while_is_made_again(status: int):
    with schema_registry() as (registry, server):
        registry.add("orders-value", json.dumps(V1))
        registry.broken = [Answer({"error_code": 50001, "message": "no leader"}, status)] * 3
        found = client(server).latest("orders-value")
        assert found is not None
        assert len(server.asked) == 4
        registry.broken = [Answer({"error_code": 50001, "message": "no leader"}, status)] * 4
        with pytest.raises(DataFlareError, match="no leader") as caught:
            client(server).latest("orders-value")
        assert (caught.value.code, caught.value.retry) == ("E0611", Retry.LATER)


@pytest.mark.parametrize(
    ("answer", "code", "retry"),
    [
        (Answer({"error_code": 40301, "message": "Forbidden"}, 403), "E0602", Retry.NEVER),
        (Answer({"error_code": 404, "message": "HTTP 404"}, 404), "E0612", Retry.NEVER),
        (Answer(b"<html>hello</html>"), "E0612", Retry.NEVER),
        (Answer([1]), "E0612", Retry.NEVER),
        (Answer({"id": 1}), "E0612", Retry.NEVER),
    ],
)
def test_odd_answers_are_errors_that_say_what_they_are(answer: Answer, code: str, retry: Retry):
    with http_server(lambda asked: answer) as server:
        with pytest.raises(DataFlareError) as caught:
            client(server).latest("orders-value")
        assert (caught.value.code, caught.value.retry) == (code, retry)
        assert server.url in caught.value.message
        assert caught.value.help


def test_a_registry_that_is_away_is_worth_another_try():
    waits: list[float] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")

    config = RegistryConfig(url="http://registry.test:8081")
    for transport, code in ((refuse, "E0607"), (hang, "E0608")):
        waits.clear()
        registry = RegistryClient(
            config, "orders", Path(), sleep=waits.append, transport=httpx.MockTransport(transport)
        )
        with pytest.raises(DataFlareError) as caught:
            registry.schema(1)
        assert (caught.value.code, caught.value.retry) == (code, Retry.LATER)
        assert len(waits) == 3


def test_credentials_are_sent_and_never_shown():
    basic = httpx.BasicAuth("me", "s3cret")._auth_header
    for credentials, auth in (
        (basic, {"type": "basic", "username": "me", "password": "s3cret"}),
        ("Bearer t0ken", {"type": "bearer", "token": "t0ken"}),
    ):
        with schema_registry(credentials=credentials) as (registry, server):
            registry.add("orders-value", json.dumps(V1))
            assert client(server, auth=auth).latest("orders-value") is not None
            wrong = {k: v if k in ("type", "username") else "wrong" for k, v in auth.items()}
            with pytest.raises(DataFlareError) as caught:
                client(server, auth=wrong).latest("orders-value")
            assert caught.value.code == "E0606"
            assert "wrong" not in render(caught.value)
            assert "s3cret" not in repr(RegistryConfig(url=server.url, auth=auth))
            assert "t0ken" not in repr(RegistryConfig(url=server.url, auth=auth))


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path):
    config = RegistryConfig(url="https://registry.test", tls={"ca": "missing.pem"})
    with pytest.raises(ConfigError, match=r"missing\.pem") as caught:
        RegistryClient(config, "orders", tmp_path)
    assert caught.value.code == "E0425"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "avro"}, "needs 'schema' or 'registry'"),
        ({"format": "json", "schema": "x.avsc"}, "'schema' has no effect"),
        ({"format": "json", "registry": {"url": "http://h"}}, "'registry' has no effect"),
        ({"format": "avro", "registry": {"url": "ftp://h"}}, "expected http"),
        ({"format": "avro", "registry": {"url": "http://u:p@h"}}, "put name and password"),
        ({"key_format": "text"}, "'key_format' has no effect"),
        ({"format": "avro", "registry": {"url": "http://h", "auth": {"type": "basic"}}}, "needs"),
        ({"metadata": ["key", "key"]}, "twice"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: Any, problem: str):
    with pytest.raises(ValidationError, match=problem):
        SourceMessageOptions(**options)


def test_messages_of_several_versions_are_read_and_written():
    """A destination registers the schema of its rows; a source reads them with the newest one."""
    registry: SchemaRegistry
    with schema_registry() as (registry, server):
        old = registry.add("orders-value", json.dumps(V1))
        new = registry.add("orders-value", json.dumps(V2))
        context = ConnectorContext("orders")
        options = SourceMessageOptions(
            format="avro", registry=RegistryConfig(url=server.url), metadata=["offset"]
        )
        made = envelope(
            options,
            context,
            decoder(options, context, topic="orders"),
            Schema.of({"offset": "int64"}),
        )
        messages = pl.DataFrame(
            {
                "value": [message(V1, old, {"id": 1}), message(V2, new, {"id": 2, "note": "x"})],
                "offset": [7, 8],
            }
        )
        rows = made.decode(messages).rows
        assert rows.rows() == [(1, None, 7), (2, "x", 8)]
        written = encoder(
            MessageOptions(format="avro", registry=RegistryConfig(url=server.url)),
            context,
            Schema.of({"id": "int64", "note": "string"}),
            topic="copies",
        ).encode(rows.select("id", "note"))
        assert [*registry.subjects] == ["orders-value", "copies-value"]
        copies = SourceMessageOptions(format="avro", registry=RegistryConfig(url=server.url))
        again = decoder(copies, context, topic="copies").decode(written.values)
        assert again.rows.rows() == [(1, None), (2, "x")]


def test_a_subject_that_is_not_there_is_named():
    with schema_registry() as (_, server):
        options = SourceMessageOptions(format="avro", registry=RegistryConfig(url=server.url))
        with pytest.raises(ConfigError, match="no subject 'orders-value'") as caught:
            decoder(options, ConnectorContext("orders"), topic="orders")
        assert caught.value.code == "E0405"


def test_a_schema_may_be_a_file(tmp_path: Path):
    (tmp_path / "order.avsc").write_text(json.dumps(V1))
    options = SourceMessageOptions(format="avro", schema="order.avsc")
    context = ConnectorContext("orders", tmp_path)
    made = decoder(options, context, topic="orders", contract=Schema.of({"id": "int64"}))
    assert made.decode(pl.Series([b"\x02"])).rows.rows() == [(1,)]
    with pytest.raises(ConfigError, match="'schema' says string"):
        decoder(options, context, topic="orders", contract=Schema.of({"id": "string"}))
    with pytest.raises(ConfigError, match=r"missing\.avsc cannot be read"):
        decoder(SourceMessageOptions(format="avro", schema="missing.avsc"), context, topic="orders")


ORDER = 'syntax = "proto3"; package shop; message Order { int64 id = 1; string name = 2; }'
NEWER = ORDER.replace("string name = 2;", "string name = 2; optional int32 age = 3;")
BROKEN = ORDER.replace("string name = 2;", "double name = 2;")


def test_protobuf_messages_find_their_schemas_in_the_registry():
    with schema_registry() as (registry, server):
        registry.add(
            "other-value", 'syntax = "proto3"; message Other { int64 id = 1; }', "PROTOBUF"
        )
        context = ConnectorContext("orders")
        options = MessageOptions(format="protobuf", registry=RegistryConfig(url=server.url))
        with pytest.raises(ConfigError, match="no subject 'orders-value'"):
            encoder(options, context, Schema.of({"id": "int64"}), topic="orders")
        old = registry.add("orders-value", ORDER, "PROTOBUF")
        rows = pl.DataFrame({"id": [1, 2], "name": ["x", ""]})
        schema = Schema.from_polars(rows.schema)
        written = encoder(options, context, schema, topic="orders").encode(rows).values
        assert [value[:6] for value in written] == [b"\0\0\0\0" + bytes([old]) + b"\0"] * 2
        registry.add("orders-value", NEWER, "PROTOBUF")
        broken = registry.add("broken-value", BROKEN, "PROTOBUF")
        source = SourceMessageOptions(format="protobuf", registry=RegistryConfig(url=server.url))
        made = decoder(source, context, topic="orders")
        assert str(made.schema["age"]) == "int32"
        batch = [
            *written,
            b"\0\0\0\0" + bytes([broken]) + written[0][5:],
            b"\0\0\0\0\x01" + written[0][5:],
            b"\0\0\0\0\x63" + written[0][5:],
        ]
        decoded = made.decode(pl.Series(batch, dtype=pl.Binary))
        assert decoded.rows.rows() == [(1, "x", None), (2, "", None)]
        errors = decoded.bad["error"].to_list()
        assert errors[0] == f"the schema with id {broken} has other types: shop.Order.name"
        assert errors[1] == "it is a message Other, and shop.Order is read here"
        assert "no schema with the id 99" in errors[2]


def test_protobuf_schemas_may_be_files(tmp_path: Path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "money.proto").write_text(
        'syntax = "proto3"; message Money { int64 cents = 1; }'
    )
    (tmp_path / "order.proto").write_text(
        'syntax = "proto3"; import "money.proto"; message Order { int64 id = 1; Money price = 2; }'
    )
    context = ConnectorContext("orders", tmp_path)
    options = SourceMessageOptions(format="protobuf", schema="order.proto", includes=["common"])
    made = decoder(options, context, topic="orders")
    assert made.schema.to_json() == {"id": "int64", "price": "struct<cents: int64>"}
    rows = pl.DataFrame({"id": [1], "price": [{"cents": 5}]})
    out = encoder(options, context, made.schema, topic="orders").encode(rows)
    assert made.decode(out.values).rows.equals(rows)
    without = SourceMessageOptions(format="protobuf", schema="order.proto")
    with pytest.raises(ConfigError, match="is not compiled"):
        decoder(without, context, topic="orders")
