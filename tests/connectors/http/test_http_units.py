"""The pace of requests, places in JSON, and what a config may say."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError
from servers.web import Answer, http_server

from dataflare.connectors.http.client import HttpClient, public_url
from dataflare.connectors.http.config import HttpDestinationConfig, HttpSourceConfig
from dataflare.connectors.http.json_path import text_at


def test_requests_keep_the_rate_limit() -> None:
    moments: list[float] = []

    async def sleep(seconds: float) -> None:
        moments.append(seconds)
        now[0] += seconds

    now = [100.0]

    async def ask(url: str) -> None:
        config = HttpSourceConfig(url=url, rate_limit="4/s")
        client = HttpClient(config, "api", clock=lambda: now[0], sleep=sleep)
        for _ in range(4):
            await client.ask("GET", url)
        await client.aclose()

    with http_server(lambda asked: Answer([])) as server:
        asyncio.run(ask(server.url))
    assert moments == pytest.approx([0.25, 0.25, 0.25])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", None),
        ("$.a.b", [1, {"c d": 2}]),
        ("a.b[1]['c d']", 2),
        ("$.a.x", None),
        ("$.a.b[7]", None),
        ("$.a.b.c", None),
    ],
)
def test_places_in_json(path: str, found: object) -> None:
    text = text_at(b' {"a": {"b": [1, {"c d": 2}]}, "a": 0} ', path)
    if path == "$":
        assert text == b'{"a": {"b": [1, {"c d": 2}]}, "a": 0}'
    else:
        assert (None if text is None else json.loads(text)) == found


@pytest.mark.parametrize(
    "config",
    [
        {"url": "ftp://host/x"},
        {"url": "http://"},
        {"url": "http://user:pass@host/"},
        {"url": "http://h/", "records": "$.[x"},
        {"url": "http://h/", "body": {"a": 1}},
        {"url": "http://h/", "pagination": {"type": "cursor"}},
        {"url": "http://h/", "pagination": {"type": "page", "path": "$.a"}},
        {"url": "http://h/", "pagination": {"type": "link", "param": "p"}},
        {"url": "http://h/", "pagination": {"type": "offset"}},
        {"url": "http://h/", "pagination": {"type": "page", "size_param": "n"}},
        {"url": "http://h/", "pagination": {"type": "link", "total": "$.n"}},
        {"url": "http://h/", "auth": {"type": "bearer"}},
        {"url": "http://h/", "auth": {"type": "bearer", "token": "t", "name": "n"}},
        {"url": "http://h/", "rate_limit": "10"},
    ],
)
def test_a_config_that_cannot_work_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HttpSourceConfig.model_validate(config)


def test_a_destination_has_rows_in_its_requests() -> None:
    with pytest.raises(ValidationError):
        HttpDestinationConfig.model_validate({"url": "http://h/", "batch_size": 0})


def test_an_address_is_shown_without_its_secrets() -> None:
    assert public_url("https://u:p@h.example:8443/a/b?token=x#y") == "https://h.example:8443/a/b"
