"""Lookups in a real JSON API: one request per key, what is found, and what is said when it fails."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
from http_kit import out, run
from servers.web import Answer, Asked, http_server, silent_server

from dataflare.connectors.http.lookup import HttpLookup
from dataflare.testing import check_lookup, description

ROWS = [
    {"id": 1, "customer": "a/b"},
    {"id": 2, "customer": "ü"},
    {"id": 3},
    {"id": 4, "customer": "a/b"},
]


def flow(source: dict[str, Any], rows: list[dict[str, Any]] = ROWS, **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "source": {"type": "http", **source},
        "mapping": {"key": "customer", "fields": ["name", "level"]},
    }
    return {
        "name": "enrich",
        "settings": {"parallelism": 1, "restart": {"attempts": 0}},
        "sources": {"orders": {"type": "inline", "config": {"rows": rows}}},
        "transformations": {
            "named": {"type": "lookup", "inputs": ["orders"], "config": config | more}
        },
        "destinations": {
            "out": {"type": "file", "inputs": ["named"], "config": {"path": "out.parquet"}}
        },
    }


def people(asked: Asked) -> Answer:
    name = unquote(asked.path.rpartition("/")[2])
    if name != "a/b":
        return Answer({"error": "unknown"}, 404)
    return Answer({"data": {"name": f"<{name}>", "level": 3, "other": []}})


def test_each_key_is_asked_once_and_missing_ones_are_null(tmp_path: Path) -> None:
    source = {"records": "$.data", "schema": {"level": "int32"}}
    with http_server(people) as server:
        ran = run(tmp_path, flow({"url": server.url + "/people/{customer}", **source}))
        asked = sorted(each.path for each in server.asked)
    assert ran.status == 0, ran.errors
    assert asked == ["/people/%C3%BC", "/people/a%2Fb"]
    assert out(tmp_path) == [
        {"id": 1, "customer": "a/b", "name": "<a/b>", "level": 3},
        {"id": 2, "customer": "ü", "name": None, "level": None},
        {"id": 3, "customer": None, "name": None, "level": None},
        {"id": 4, "customer": "a/b", "name": "<a/b>", "level": 3},
    ]


def test_keys_may_stand_in_parameters_and_in_the_body(tmp_path: Path) -> None:
    def found(asked: Asked) -> Answer:
        return Answer([{"name": asked.params["who"], "level": asked.json()["filter"]["id"]}])

    source = {
        "method": "POST",
        "params": {"who": "id-{customer}"},
        "body": {"filter": {"id": "{customer}"}, "fields": ["name"]},
    }
    with http_server(found) as server:
        ran = run(tmp_path, flow({"url": server.url, **source}, [{"customer": 7}]))
    assert ran.status == 0, ran.errors
    assert out(tmp_path) == [{"customer": 7, "name": "id-7", "level": "7"}]


def test_several_objects_of_a_key_follow_on_many(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer([{"name": "x"}, {"name": "y"}])) as server:
        source = {"url": server.url + "/{customer}"}
        failed = run(tmp_path, flow(source))
        assert failed.code == "E0543"
        ran = run(tmp_path, flow(source, ROWS[:1], on_many="all"), "--fresh")
    assert ran.status == 0, ran.errors
    assert [row["name"] for row in out(tmp_path)] == ["x", "y"]


def test_no_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    lock, here, most = threading.Lock(), 0, 0
    three = threading.Barrier(3)

    def busy(asked: Asked) -> Answer:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        three.wait(20)
        with lock:
            here -= 1
        return Answer({"name": "x"})

    rows = [{"customer": n} for n in range(12)]
    with http_server(busy) as server:
        ran = run(tmp_path, flow({"url": server.url + "/{customer}", "concurrency": 3}, rows))
    assert ran.status == 0, ran.errors
    assert most == 3


def test_the_credentials_are_sent_and_never_shown(tmp_path: Path) -> None:
    source = {"auth": {"type": "bearer", "token": "${secret:TOKEN}"}}
    with http_server(lambda asked: Answer({"why": asked.headers["Authorization"]}, 401)) as server:
        flow_ = flow({"url": server.url + "/{customer}", **source})
        ran = run(tmp_path, flow_, TOKEN="very-hidden")
        assert server.asked[0].headers["Authorization"] == "Bearer very-hidden"
    assert ran.status == 1
    assert ran.code == "E0606"
    assert "very-hidden" not in ran.errors + str(ran.result)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(b"<html>", 200), "E0503"),
        (Answer([1, 2]), "E0503"),
        (Answer({"level": 1}, 400), "E0611"),
        (Answer({"level": 1}, 500), "E0611"),
        (Answer({"level": "much", "name": "x"}), "E0501"),
        (Answer({"level": 1, "name": "x" * 9000}, cut=True), "E0607"),
        (Answer(None, 302, {"Location": "http://elsewhere.invalid/"}), "E0415"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, answer: Answer, code: str) -> None:
    with http_server(lambda asked: answer) as server:
        source = {"url": server.url + "/{customer}", "schema": {"level": "int64"}}
        ran = run(tmp_path, flow(source))
    assert ran.code == code, ran.errors
    assert ran.result["error"]["step"] == "named"
    assert "Traceback" not in ran.errors


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with silent_server() as url:
        ran = run(tmp_path, flow({"url": url + "/{customer}", "timeout": "200ms"}))
    assert ran.code == "E0608"


def test_a_failed_request_is_made_again_as_the_step_says(tmp_path: Path) -> None:
    failures = [500, 503]

    def flaky(asked: Asked) -> Answer:
        return Answer(status=failures.pop()) if failures else Answer({"name": "x"})

    with http_server(flaky) as server:
        flow_ = flow({"url": server.url + "/{customer}"}, ROWS[:1])
        named = flow_["transformations"]["named"]
        named["error_handling"] = {"retry_policy": {"max_attempts": 3, "initial_backoff": "1ms"}}
        ran = run(tmp_path, flow_)
    assert ran.status == 0, ran.errors
    assert out(tmp_path)[0]["name"] == "x"


def test_a_name_in_braces_must_be_a_key(tmp_path: Path) -> None:
    ran = run(tmp_path, flow({"url": "http://localhost/{customers}"}))
    assert ran.status == 2
    assert ran.code == "E0407"
    assert "did you mean 'customer'" in ran.errors


def test_without_braces_the_api_is_read_whole(tmp_path: Path) -> None:
    rows = [{"customer": "ü", "name": "U", "level": 1}]
    with http_server(lambda asked: Answer(rows)) as server:
        ran = run(tmp_path, flow({"url": server.url}))
    assert ran.status == 0, ran.errors
    assert [row["name"] for row in out(tmp_path)] == [None, "U", None, None]


def test_the_contract_of_lookups_is_kept(tmp_path: Path) -> None:
    def found(asked: Asked) -> Answer:
        number = int(asked.path[1:])
        return Answer({"name": f"n{number}"}) if number % 2 else Answer(None, 404)

    with http_server(found) as server:
        config = {"url": server.url + "/{id}", "schema": {"name": "string"}}
        keys = pl.DataFrame({"id": range(12)})
        asyncio.run(check_lookup(description(HttpLookup, config, base=tmp_path), keys))


BAD_ANSWERS = {
    "2": ({"level": "much", "name": "x"}, "E0501"),
    "4": ([{"level": 1, "name": "x"}, {"level": "2x", "name": "y"}], "E0501"),
    "5": (7, "E0503"),
    "6": ({"level": 12345678901234567890, "name": "x"}, "E0501"),
}


@pytest.mark.parametrize("on_many", ["fail", "all"])
def test_an_answer_that_cannot_be_read_is_an_error_of_its_rows(
    tmp_path: Path, on_many: str
) -> None:
    """The other keys of the batch have their rows, and a key that was refused is asked again."""

    def answer(asked: Asked) -> Answer:
        customer = asked.path[1:]
        content = BAD_ANSWERS.get(customer, ({"name": f"n{customer}", "level": int(customer)}, ""))
        return Answer(content[0])

    rows = [{"id": n, "customer": n % 8} for n in range(16)]
    with http_server(answer) as server:
        source = {"url": server.url + "/{customer}", "schema": {"level": "int64"}}
        flow_ = flow(source, rows, on_many=on_many, cache={"size": 100})
        flow_["settings"]["error_handling"] = {"on_error": "dead_letter"}
        ran = run(tmp_path, flow_)
    assert ran.status == 0, ran.errors
    good = [n for n in range(16) if str(n % 8) not in BAD_ANSWERS]
    assert out(tmp_path) == [
        {"id": n, "customer": n % 8, "name": f"n{n % 8}", "level": n % 8} for n in good
    ]
    step = ran.result["steps"]["named"]
    assert (step["rows_in"], step["rows_out"]) == (16, 8)
    assert (step["errors"], step["dead_letters"]) == (8, 8)


def test_keys_are_told_apart_by_their_nanoseconds(tmp_path: Path) -> None:
    """Each is asked for whole, and one whose answer cannot be read is refused alone."""
    stamps = [f"2024-01-01T00:00:00.00000000{n}Z" for n in range(1, 4)]

    def answer(asked: Asked) -> Answer:
        last = unquote(asked.path)[-2]
        return Answer({"name": f"n{last}", "level": "high" if last == "2" else int(last)})

    rows = [{"id": n, "customer": stamp} for n, stamp in enumerate(stamps, 1)]
    with http_server(answer) as server:
        source = {"url": server.url + "/{customer}", "schema": {"level": "int64"}}
        flow_ = flow(source, rows)
        flow_["sources"]["orders"]["schema"] = {"customer": "timestamp[ns, UTC]"}
        flow_["settings"]["error_handling"] = {"on_error": "dead_letter"}
        ran = run(tmp_path, flow_)
        asked = sorted(unquote(each.path)[1:] for each in server.asked)
    assert ran.status == 0, ran.errors
    assert asked == stamps
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.select("id", "name", "level").rows() == [(1, "n1", 1), (3, "n3", 3)]
    assert ran.result["steps"]["named"]["dead_letters"] == 1
