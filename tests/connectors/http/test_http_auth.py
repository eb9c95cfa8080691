"""Tokens of OAuth 2, signed requests, GraphQL, and pages by a header or a flag."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from http_kit import out, reading, run, sending
from pydantic import ValidationError
from servers.web import Answer, Asked, http_server

from dataflare.connectors.http.config import HttpSourceConfig


class Tokens:
    """A server of tokens and of rows. lives: seconds; uses: after so many requests a token is refused."""

    def __init__(self, lives: int | None = 3_600, uses: int = 1_000) -> None:
        self.lives, self.uses = lives, uses
        self.given = 0
        self.left = 0
        self.questions: list[tuple[dict[str, list[str]], str | None]] = []

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            self.questions.append(
                (parse_qs(asked.body.decode()), asked.headers.get("Authorization"))
            )
            self.given += 1
            self.left = self.uses
            more = {} if self.lives is None else {"expires_in": self.lives}
            token = {"access_token": f"t{self.given}", "token_type": "Bearer", **more}
            return Answer({**token, "refresh_token": f"r{self.given}"})
        if asked.headers.get("Authorization") != f"Bearer t{self.given}" or self.left <= 0:
            return Answer({"error": "expired"}, 401)
        self.left -= 1
        page = int(asked.params.get("page", "1"))
        return Answer([{"n": page}] if page <= 4 else [])


def auth(url: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "oauth2",
        "token_url": f"{url}/token",
        "client_id": "me",
        "client_secret": "s3cret",
        **more,
    }


@pytest.mark.parametrize(
    ("more", "form", "header"),
    [
        ({"scope": "a b"}, {"grant_type": ["client_credentials"], "scope": ["a b"]},
         "Basic " + base64.b64encode(b"me:s3cret").decode()),
        ({"client_auth": "form", "token_params": {"audience": "x"}},
         {"grant_type": ["client_credentials"], "client_id": ["me"], "client_secret": ["s3cret"],
          "audience": ["x"]}, None),
        ({"refresh_token": "r0"}, {"grant_type": ["refresh_token"], "refresh_token": ["r0"]},
         "Basic " + base64.b64encode(b"me:s3cret").decode()),
    ],
)  # fmt: skip
def test_a_token_is_asked_for_and_shown(
    tmp_path: Path, more: Any, form: Any, header: str | None
) -> None:
    tokens = Tokens()
    with http_server(tokens.answer) as server:
        config = {
            "url": f"{server.url}/rows",
            "auth": auth(server.url, **more),
            "pagination": {"type": "page"},
        }
        ran = run(tmp_path, reading(config))
    assert ran.status == 0, ran.errors
    assert [row["n"] for row in out(tmp_path)] == [1, 2, 3, 4]
    assert tokens.questions == [(form, header)]


def test_a_token_that_is_refused_is_replaced(tmp_path: Path) -> None:
    tokens = Tokens(lives=None, uses=2)
    with http_server(tokens.answer) as server:
        given = auth(server.url, refresh_token="r0")
        config = {"url": f"{server.url}/rows", "auth": given, "pagination": {"type": "page"}}
        ran = run(tmp_path, reading(config))
    assert ran.status == 0, ran.errors
    assert [row["n"] for row in out(tmp_path)] == [1, 2, 3, 4]
    asked = [form["refresh_token"] for form, _ in tokens.questions]
    assert asked[:3] == [["r0"], ["r1"], ["r2"]]


@pytest.mark.parametrize(
    ("status", "content", "code"),
    [(400, {"error": "invalid_client", "error_description": "no s3cret"}, "E0606"), (200, {"x": 1}, "E0606"),
     (503, None, "E0611")],
)  # fmt: skip
def test_no_token_is_an_error_without_the_secret(
    tmp_path: Path, status: int, content: Any, code: str
) -> None:
    with http_server(lambda asked: Answer(content, status)) as server:
        ran = run(tmp_path, reading({"url": f"{server.url}/rows", "auth": auth(server.url)}))
    assert (ran.status, ran.code) == (1, code), ran.errors
    assert "gives no token" in ran.errors


def test_each_request_is_signed(tmp_path: Path) -> None:
    refused: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        time = asked.headers["X-Time"]
        digest = hashlib.sha256(asked.body).hexdigest()
        signed = f"{asked.method}\n{asked.path}\n{time}\n{digest}".encode()
        wanted = hmac.new(b"s3cret", signed, "sha512").digest()
        if asked.headers["X-Sign"] != "v1=" + base64.b64encode(wanted).decode():
            refused.append(asked)
            return Answer(None, 401)
        return Answer(None, 204)

    config = {
        "type": "hmac", "name": "X-Sign", "secret": "s3cret", "algorithm": "sha512", "encoding": "base64",
        "prefix": "v1=", "timestamp": "X-Time", "sign": "{method}\n{path}\n{timestamp}\n{body_sha256}",
    }  # fmt: skip
    with http_server(answer) as server:
        rows = [{"n": n} for n in range(5)]
        ran = run(
            tmp_path, sending(rows, {"url": f"{server.url}/hook", "batch_size": 2, "auth": config})
        )
        assert ran.status == 0, ran.errors
        assert len(server.asked) == 3
    assert refused == []


def question(asked: Asked) -> Answer:
    body = asked.json()
    assert body["query"].startswith("query Orders")
    after = body["variables"].get("after", 0)
    nodes = [{"id": n} for n in range(after, min(after + 3, 7))]
    info = {"hasNextPage": after + 3 < 7, "endCursor": after + 3}
    return Answer({"data": {"orders": {"nodes": nodes, "pageInfo": info}}})


GRAPHQL = {
    "graphql": {"query": "query Orders($after: Int, $first: Int) { … }", "variables": {"first": 3}},
    "records": "$.data.orders.nodes",
    "pagination": {
        "type": "cursor", "param": "after", "path": "$.data.orders.pageInfo.endCursor",
        "more": "$.data.orders.pageInfo.hasNextPage",
    },
}  # fmt: skip


def test_graphql_is_read_page_by_page(tmp_path: Path) -> None:
    with http_server(question) as server:
        ran = run(tmp_path, reading({"url": f"{server.url}/graphql", **GRAPHQL}))
        assert {asked.method for asked in server.asked} == {"POST"}
        assert all(asked.json()["variables"]["first"] == 3 for asked in server.asked)
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == list(range(7))


def test_errors_of_graphql_are_errors_of_the_run(tmp_path: Path) -> None:
    content = {"data": {"orders": {"nodes": []}}, "errors": [{"message": "no such field"}]}
    with http_server(lambda asked: Answer(content)) as server:
        ran = run(tmp_path, reading({"url": server.url, **GRAPHQL}))
    assert (ran.status, ran.code) == (1, "E0503")
    assert "no such field" in ran.errors


def test_a_flag_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    content = {"data": {"orders": {"nodes": [{"id": 1}], "pageInfo": {"endCursor": 1}}}}
    with http_server(lambda asked: Answer(content)) as server:
        ran = run(tmp_path, reading({"url": server.url, **GRAPHQL}))
    assert (ran.status, ran.code) == (1, "E0503")
    assert "hasNextPage" in ran.errors


def test_pages_by_a_header(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        page = int(asked.params.get("page", "1"))
        headers = {"X-Next-Page": str(page + 1)} if page < 3 else {"X-Next-Page": ""}
        return Answer([{"n": page}], headers=headers)

    with http_server(answer) as server:
        config = {"url": server.url, "pagination": {"type": "header", "name": "x-next-page"}}
        ran = run(tmp_path, reading(config))
    assert ran.status == 0, ran.errors
    assert [row["n"] for row in out(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"auth": {"type": "oauth2", "token_url": "https://a/t"}}, "needs 'client_id'"),
        ({"auth": {"type": "oauth2", "token_url": "a", "client_id": "b"}}, "not https"),
        ({"auth": {"type": "bearer", "token": "t", "scope": "x"}}, "takes no 'scope'"),
        ({"auth": {"type": "hmac", "secret": "s"}}, "needs 'name'"),
        (
            {"auth": {"type": "hmac", "secret": "s", "name": "n", "sign": "{timestamp}"}},
            "must be sent",
        ),
        ({"graphql": {"query": "q"}}, "needs 'records'"),
        ({"graphql": {"query": "q"}, "records": "$.a", "method": "POST"}, "leave out 'method'"),
        ({"pagination": {"type": "header"}}, "needs 'name'"),
        ({"pagination": {"type": "page", "more": "$.a"}}, "takes no 'more'"),
    ],
)
def test_wrong_options_are_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        HttpSourceConfig.model_validate({"url": "https://a/", **config})
