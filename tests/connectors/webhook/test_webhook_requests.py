"""What a webhook answers, and what it takes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from webhook_kit import described, free_port, line, rows_of, taking

from dataflare.connectors.webhook.source import WebhookSource
from dataflare.errors import SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.source import ChunkReader


def answers(source: WebhookSource, requests: list[dict[str, Any]]) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        async with taking(source) as (_, client):
            return [
                await client.request(**{"method": "POST", "url": "/", **request})
                for request in requests
            ]

    return asyncio.run(ask())


def statuses(source: WebhookSource, requests: list[dict[str, Any]]) -> list[int]:
    return [answer.status_code for answer in answers(source, requests)]


def test_a_request_is_a_row_with_what_belongs_to_it(tmp_path: Path) -> None:
    names = ["time", "method", "path", "query", "headers", "address", "offset"]
    source = described(tmp_path, path="/in", metadata=names)

    async def ask() -> list[dict[str, Any]]:
        async with taking(source) as (reader, client):
            answer = await client.post("/in?a=1&a=2", content=line(7), headers={"X-Id": "42"})
            assert (answer.status_code, answer.content) == (202, b"")
            return await rows_of(reader)

    (row,) = asyncio.run(ask())
    assert (row["n"], row["text"]) == (7, "row 7")
    assert (row["_method"], row["_path"], row["_query"]) == ("POST", "/in", "a=1&a=2")
    assert (row["_address"], row["_offset"]) == ("127.0.0.1", 0)
    assert {"key": "X-Id", "value": b"42"} in row["_headers"]
    assert abs(row["_time"].timestamp() - time.time()) < 120


@pytest.mark.parametrize(
    ("rows", "body", "taken"),
    [
        ("one", b'{"n": 1}', [1]),
        ("list", b'[{"n": 1}, {"n": 2}\n, {"n": 3}]', [1, 2, 3]),
        ("lines", b'{"n": 1}\r\n\n{"n": 2}\n', [1, 2]),
        ("list", b"[]", []),
        ("lines", b"", []),
    ],
)
def test_a_body_has_one_row_or_several(
    tmp_path: Path, rows: str, body: bytes, taken: list[int]
) -> None:
    source = described(tmp_path, rows=rows)

    async def ask() -> list[int]:
        async with taking(source) as (reader, client):
            assert (await client.post("/", content=body)).status_code == 202
            return [row["n"] for row in await rows_of(reader)] if taken else []

    assert asyncio.run(ask()) == taken


@pytest.mark.parametrize(
    ("rows", "body"),
    [
        ("one", b""),
        ("one", b"{"),
        ("one", b"[1]"),
        ("one", b'{"n": 1}{"n": 2}'),
        ("one", b'{"n": "\xff"}'),
        ("list", b'{"n": 1}'),
        ("list", b'[{"n": 1}, 2]'),
        ("list", b'[{"n": 1},]'),
        ("lines", b'{"n": 1}\n{"n": \n'),
        ("lines", b"1"),
    ],
)
def test_what_is_not_json_is_refused_whole(tmp_path: Path, rows: str, body: bytes) -> None:
    source = described(tmp_path, rows=rows)
    (answer,) = answers(source, [{"content": body}])
    assert answer.status_code == 400
    assert "JSON" in answer.text
    folder = tmp_path / "state" / "push" / "inbox"
    assert [path.stat().st_size for path in folder.glob("*.log")] == [0]


def test_other_paths_methods_and_sizes_are_refused(tmp_path: Path) -> None:
    source = described(tmp_path, path="/in", max_body="100B")
    big, small = b'{"text": "%s"}' % (b"x" * 100), b'{"n": 1}'

    async def parts() -> Any:
        yield big

    assert statuses(
        source,
        [
            {"content": small},
            {"url": "/in/", "content": small},
            {"url": "/in", "method": "GET"},
            {"url": "/in", "method": "PUT", "content": small},
            {"url": "/in", "content": big},
            {"url": "/in", "content": parts()},
            {"url": "/in", "content": gzip.compress(big), "headers": {"content-encoding": "gzip"}},
            {"url": "/in", "content": gzip.compress(b" " * 50_000_000)[:90],
             "headers": {"content-encoding": "gzip"}},
            {"url": "/in", "content": b"no", "headers": {"content-encoding": "gzip"}},
            {"url": "/in", "content": small, "headers": {"content-encoding": "br"}},
            {"url": "/in", "content": gzip.compress(small), "headers": {"content-encoding": "gzip"}},
        ],
    ) == [404, 404, 405, 405, 413, 413, 413, 413, 400, 415, 202]  # fmt: skip


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    source = described(tmp_path, timeout="100ms")

    async def ask() -> bytes:
        async with taking(source):
            host, port = source.config.listen.split(":")
            reading, writing = await asyncio.open_connection(host, int(port))
            writing.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n{")
            answer = await reading.read()
            writing.close()
            await writing.wait_closed()
            return answer

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("auth", "good", "bad"),
    [
        ({"type": "bearer", "token": "s3"}, {"Authorization": "Bearer s3"}, {"Authorization": "Bearer s"}),
        ({"type": "basic", "username": "u", "password": "p:q"}, {"Authorization": "Basic dTpwOnE="},
         {"Authorization": "Basic dTpw"}),
        ({"type": "header", "name": "X-Key", "value": "s3"}, {"x-key": "s3"}, {"X-Key": b"\xff"}),
    ],
)  # fmt: skip
def test_credentials(tmp_path: Path, auth: Any, good: Any, bad: Any) -> None:
    source = described(tmp_path, auth=auth, metadata=["headers"])

    async def ask() -> tuple[list[int], list[dict[str, Any]]]:
        async with taking(source) as (reader, client):
            found = [
                (await client.post("/", content=line(1), headers=headers)).status_code
                for headers in ({}, bad, good)
            ]
            return found, await rows_of(reader)

    found, rows = asyncio.run(ask())
    assert found == [401, 401, 202]
    names = {header["key"].lower() for header in rows[0]["_headers"]}
    assert not names & {"authorization", "x-key"}


def test_a_key_in_the_query_is_not_kept(tmp_path: Path) -> None:
    auth = {"type": "query", "name": "key", "value": "s3"}
    source = described(tmp_path, auth=auth, metadata=["query"])

    async def ask() -> Any:
        async with taking(source) as (reader, client):
            found = [(await client.post(url, content=line(1))).status_code
                     for url in ("/", "/?key=s", "/?key=s3")]  # fmt: skip
            return found, await rows_of(reader)

    assert asyncio.run(ask()) == ([401, 401, 202], [{"n": 1, "text": "row 1", "_query": None}])


def _digest(secret: bytes, signed: bytes, algorithm: str = "sha256") -> hmac.HMAC:
    return hmac.new(secret, signed, algorithm)


def signatures(body: bytes, at: int) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """By kind, the config and the headers of a request that is signed right."""
    key, stamp = b"k3y", str(at).encode()
    standard = base64.b64encode(_digest(b"raw", b"id1." + stamp + b"." + body).digest()).decode()
    stripe = _digest(key, stamp + b"." + body).hexdigest()
    slack = _digest(key, b"v0:" + stamp + b":" + body).hexdigest()
    secret = "k3y"
    return {
        "github": ({"type": "github", "secret": ["older", secret]},
                   {"X-Hub-Signature-256": "sha256=" + _digest(key, body).hexdigest()}),
        "hmac": ({"header": "X-Sign", "secret": secret, "algorithm": "sha512", "encoding": "base64"},
                 {"X-Sign": base64.b64encode(_digest(key, body, "sha512").digest()).decode()}),
        "sha1": ({"header": "X-Sign", "secret": secret, "algorithm": "sha1", "prefix": "v="},
                 {"X-Sign": "v=" + _digest(key, body, "sha1").hexdigest().upper()}),
        "stripe": ({"type": "stripe", "secret": secret},
                   {"Stripe-Signature": f"t={at},v0=00,v1=00ff,v1={stripe}"}),
        "slack": ({"type": "slack", "secret": secret},
                  {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": f"v0={slack}"}),
        "standard": ({"type": "standard", "secret": "whsec_" + base64.b64encode(b"raw").decode()},
                     {"webhook-id": "id1", "webhook-timestamp": str(at),
                      "webhook-signature": f"v1,AAAA v1,{standard}"}),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["github", "hmac", "sha1", "stripe", "slack", "standard"])
def test_requests_that_are_signed_right_are_taken(tmp_path: Path, kind: str) -> None:
    body = line(1)
    config, headers = signatures(body, int(time.time()))[kind]
    requests: list[dict[str, Any]] = [
        {"content": body},
        {"content": body + b" ", "headers": headers},
        {"content": body, "headers": {name: value[:-2] + "00" for name, value in headers.items()}},
        {"content": body, "headers": dict.fromkeys(headers, "é".encode())},
    ]
    if kind in ("stripe", "slack", "standard"):
        _, old = signatures(body, int(time.time()) - 400)[kind]
        requests.append({"content": body, "headers": old})
    source = described(tmp_path, signature=config)
    assert set(statuses(source, requests)) == {401}
    assert statuses(source, [{"content": body, "headers": headers}]) == [202]


def test_a_known_signature() -> None:
    # The example of GitHub's documentation.
    digest = hmac.new(b"It's a Secret to Everybody", b"Hello, World!", hashlib.sha256).hexdigest()
    assert digest == "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_a_challenge_is_sent_back(tmp_path: Path) -> None:
    source = described(tmp_path, challenge="hub.challenge", auth={"type": "bearer", "token": "t"})
    found = answers(
        source,
        [{"method": "GET", "url": "/?hub.challenge=%3Cb%3E7"}, {"method": "GET", "url": "/?a=1"}],
    )
    assert (found[0].status_code, found[0].text) == (200, "<b>7")
    assert found[0].headers["content-type"].startswith("text/plain")
    assert found[1].status_code == 405


def test_a_full_log_answers_503_and_loses_nothing(tmp_path: Path) -> None:
    source = described(tmp_path, log={"max_size": "64KiB"}, max_body="4KiB")

    async def ask() -> None:
        async with taking(source) as (reader, client):
            taken = 0
            text = "x" * 3_000
            while True:
                body = json.dumps({"n": taken, "text": text}).encode()
                answer = await client.post("/", content=body)
                if answer.status_code == 503:
                    break
                taken += 1
            assert answer.headers["retry-after"] == "1"
            assert taken > 10
            rows: list[int] = []
            while len(rows) < taken:
                rows += [row["n"] for row in await rows_of(reader)]
            assert (await client.post("/", content=body)).status_code == 503
            await source.committed({"log": reader.position()})
            assert (await client.post("/", content=body)).status_code == 202
            assert rows == list(range(taken))
            assert [row["n"] for row in await rows_of(reader)] == [taken]
            told = "requests were refused with 503, because the log was full"
            assert reader.warnings == {told: 2}

    asyncio.run(ask())


def test_what_was_taken_is_read_by_the_next_reader(tmp_path: Path) -> None:
    source = described(tmp_path)
    assert statuses(source, [{"content": line(n)} for n in range(5)]) == [202] * 5

    async def again() -> None:
        (split,) = await source.splits()
        async with taking(source) as (reader, client):
            rows = await rows_of(reader)
            position = reader.position()
            assert (await client.post("/", content=line(5))).status_code == 202
        later = await source.open(split, position)
        assert isinstance(later, ChunkReader)
        try:
            rows += await rows_of(later)
        finally:
            await later.aclose()
        assert [row["n"] for row in rows] == [0, 1, 2, 3, 4, 5]

    asyncio.run(again())


def test_a_position_of_another_log_is_an_error(tmp_path: Path) -> None:
    first, second = described(tmp_path / "a"), described(tmp_path / "b")

    async def ask() -> None:
        (split,) = await first.splits()
        async with taking(first) as (reader, client):
            await client.post("/", content=line(0))
            await rows_of(reader)
            position = reader.position()
        with pytest.raises(SystemError_, match="does not have the messages") as caught:
            await second.open(split, position)
        assert caught.value.code == "E0605"
        skipping = described(tmp_path / "b", log={"lost": "skip"})
        reader = await skipping.open(split, position)
        assert reader.position().value["offset"] == 0
        assert len(reader.warnings) == 1
        await reader.aclose()

    asyncio.run(ask())


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        source = described(tmp_path, listen=place)
        with pytest.raises(SystemError_, match=f"cannot listen at {place}") as caught:
            answers(source, [])
    assert caught.value.code == "E0614"
    assert answers(source, [{"content": line(0)}])[0].status_code == 202


def test_columns_are_found_in_what_the_log_has(tmp_path: Path) -> None:
    source = described(tmp_path, Schema(()), format="text", log={"path": "log"})
    assert statuses(source, [{"content": b'{"a": 1, "b": "x"}'}]) == [202]
    asked = described(tmp_path, None, log={"path": "log"})
    schema = asyncio.run(asked.schema())
    assert {field.name: str(field.type) for field in schema} == {"a": "int64", "b": "string"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"listen": "8080"}, "expected host:port"),
        ({"listen": "::1:80"}, "expected host:port"),
        ({"path": "in"}, "match"),
        ({"rows": "list", "format": "text"}, "needs format: json"),
        ({"max_body": "200MiB"}, "an eighth"),
        ({"auth": {"type": "bearer"}}, "needs 'token'"),
        ({"signature": {"secret": "s"}}, "needs 'header'"),
        ({"signature": {"type": "standard", "secret": "%%"}}, "base64"),
        ({"key_format": "json"}, "extra"),
    ],
)
def test_wrong_options_are_named_without_secrets(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        WebhookSource.Config.model_validate({"listen": f":{free_port()}", **config})


def test_attributes_of_an_event_are_in_headers_of_any_case_and_decoded(tmp_path: Path) -> None:
    """Go sends Ce-Specversion; the HTTP binding encodes what is not ASCII."""
    source = described(tmp_path, Schema.of({"n": "int64"}), format="cloudevents")
    headers = {"Ce-Specversion": "1.0", "CE-ID": "a%20b", "ce-source": "/caf%C3%A9", "Ce-Type": "t",
               "Ce-Subject": "100%"}  # fmt: skip

    async def ask() -> list[dict[str, Any]]:
        async with taking(source) as (reader, client):
            answer = await client.post("/", content=b'{"n": 7}', headers=headers)
            assert answer.status_code == 202
            return await rows_of(reader)

    (row,) = asyncio.run(ask())
    assert (row["n"], row["ce_id"], row["ce_source"], row["ce_type"]) == (7, "a b", "/café", "t")
    assert row["ce_subject"] == "100%"
