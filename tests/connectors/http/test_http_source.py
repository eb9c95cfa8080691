"""The pages of an API, from a real server, by every way of paging; and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from http_kit import out, reading, run
from servers.web import Answer, Asked, http_server, silent_server

ROWS = [{"id": n, "name": f"n{n}", "at": f"2024-01-0{n + 1}T00:00:00Z"} for n in range(7)]


def page_of(asked: Asked, start: int, size: int) -> list[dict[str, Any]]:
    return ROWS[start : start + size]


def by_page(asked: Asked) -> Answer:
    number = int(asked.params["page"])
    return Answer({"items": page_of(asked, (number - 1) * 3, 3)})


def by_offset(asked: Asked) -> Answer:
    size = int(asked.params["limit"])
    return Answer({"items": page_of(asked, int(asked.params["offset"]), size)})


def by_cursor(asked: Asked) -> Answer:
    start = int(asked.params.get("after", 0))
    following = str(start + 3) if start + 3 < len(ROWS) else None
    return Answer({"items": page_of(asked, start, 3), "meta": {"next": following}})


def by_link(asked: Asked) -> Answer:
    start = int(asked.params.get("from", 0))
    link = {"Link": f'</v1?from={start + 3}>; rel="next", </v1>; rel="first"'}
    return Answer(
        {"items": page_of(asked, start, 3)}, headers=link if start + 3 < len(ROWS) else {}
    )


def by_next_url(asked: Asked) -> Answer:
    start = int(asked.params.get("from", 0))
    following = f"/v1?from={start + 3}" if start + 3 < len(ROWS) else ""
    return Answer({"items": page_of(asked, start, 3), "next": following})


WAYS = {
    "page": (by_page, {"type": "page", "size": 3}),
    "page without a size": (by_page, {"type": "page"}),
    "offset": (by_offset, {"type": "offset", "size": 2, "size_param": "limit"}),
    "cursor": (by_cursor, {"type": "cursor", "path": "$.meta.next", "param": "after"}),
    "link": (by_link, {"type": "link"}),
    "next_url": (by_next_url, {"type": "next_url", "path": "$.next"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_paging_gives_each_row_once(way: str, tmp_path: Path) -> None:
    answer, pagination = WAYS[way]
    with http_server(answer) as server:
        config = {"url": f"{server.url}/v1", "records": "$.items", "pagination": pagination}
        ran = run(tmp_path, reading(config))
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == list(range(7))
    assert str(out(tmp_path)[0]["at"]) == "2024-01-01 00:00:00+00:00"


def test_an_object_is_a_row_where_records_says_so(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer({"id": 1, "tags": ["a"]})) as server:
        assert run(tmp_path, reading({"url": server.url, "records": "$"})).status == 0
    assert out(tmp_path) == [{"id": 1, "tags": ["a"]}]


def test_one_answer_is_all_without_paging(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(ROWS)) as server:
        assert run(tmp_path, reading({"url": server.url})).status == 0
    assert len(out(tmp_path)) == 7


def test_params_headers_and_body_are_sent(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        number = asked.json()["page"]
        return Answer(ROWS if number == 1 else [])

    with http_server(answer) as server:
        config = {
            "url": f"{server.url}/search?fixed=1",
            "method": "POST",
            "body": {"query": "all"},
            "headers": {"X-Team": "data"},
            "pagination": {"type": "page"},
        }
        assert run(tmp_path, reading(config)).status == 0
        first = server.asked[0]
    assert (first.method, first.params, first.json()) == (
        "POST",
        {"fixed": "1"},
        {"query": "all", "page": 1},
    )
    assert first.headers["X-Team"] == "data"


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": "${secret:KEY}"}, "Authorization", "Bearer s3cret-key"),
        ({"type": "basic", "username": "u", "password": "${secret:KEY}"}, "Authorization",
         "Basic dTpzM2NyZXQta2V5"),
        ({"type": "header", "name": "X-Key", "value": "${secret:KEY}"}, "X-Key", "s3cret-key"),
    ],
)  # fmt: skip
def test_credentials_are_sent_and_never_shown(
    auth: dict[str, str], header: str, value: str, tmp_path: Path
) -> None:
    with http_server(lambda asked: Answer({"error": "no: s3cret-key"}, 401)) as server:
        ran = run(tmp_path, reading({"url": server.url, "auth": auth}), KEY="s3cret-key")
        assert server.asked[0].headers[header] == value
    assert (ran.status, ran.code) == (1, "E0606")
    assert "s3cret-key" not in ran.errors + str(ran.result)


def test_a_key_in_the_query_is_sent_and_not_shown(tmp_path: Path) -> None:
    auth = {"type": "query", "name": "api_key", "value": "${secret:KEY}"}
    with http_server(lambda asked: Answer(None, 404)) as server:
        ran = run(tmp_path, reading({"url": server.url, "auth": auth}), KEY="s3cret-key")
        assert server.asked[0].params == {"api_key": "s3cret-key"}
    assert (ran.status, ran.code) == (1, "E0604")
    assert "s3cret-key" not in ran.errors


@pytest.mark.parametrize("wait", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_asked_again(status: int, wait: str, tmp_path: Path) -> None:
    refused = []

    def answer(asked: Asked) -> Answer:
        if len(refused) < 3:
            refused.append(1)
            return Answer(None, status, {"Retry-After": wait})
        return Answer(ROWS)

    with http_server(answer) as server:
        again = {"retry_policy": {"base_delay": "1ms"}}
        assert run(tmp_path, reading({"url": server.url}, error_handling=again)).status == 0
    assert len(out(tmp_path)) == 7


def test_a_wait_of_hours_is_said_and_not_waited_for(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(None, 429, {"Retry-After": "7200"})) as server:
        ran = run(tmp_path, reading({"url": server.url}))
    assert (ran.status, ran.code) == (1, "E0611")
    assert "7200 s" in ran.errors


def bad_answer(kind: str) -> Answer:
    return {
        "server error": Answer({"error": "boom"}, 500),
        "forbidden": Answer(None, 403),
        "no JSON": Answer(b"<html>hello", headers={"Content-Type": "text/html"}),
        "no list": Answer({"data": {"rows": []}}),
        "cut": Answer(ROWS, cut=True),
        "elsewhere": Answer(None, 302, {"Location": "http://127.0.0.1:1/x?token=abc"}),
        "in circles": Answer(None, 302, {"Location": "/"}),
        "empty": Answer([]),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "status", "code", "said"),
    [
        ("server error", 1, "E0611", "answered 500 Internal Server Error"),
        ("forbidden", 1, "E0602", "the credentials may not do this"),
        ("no JSON", 1, "E0503", "it is text/html, and begins: <html>hello"),
        ("no list", 1, "E0503", "its keys: data"),
        ("cut", 1, "E0607", "no connection to"),
        ("elsewhere", 2, "E0415", "redirects to another server: http://127.0.0.1:1/x (step"),
        ("in circles", 1, "E0611", "redirects without end"),
        ("empty", 2, "E0405", "list the columns in 'schema'"),
    ],
)
def test_what_goes_wrong_is_said(
    kind: str, status: int, code: str, said: str, tmp_path: Path
) -> None:
    with http_server(lambda asked: bad_answer(kind)) as server:
        ran = run(tmp_path, reading({"url": server.url}))
    assert (ran.status, ran.code) == (status, code), ran.errors
    assert said in ran.errors
    assert "Traceback" not in ran.errors


def test_a_page_of_html_behind_pages_of_rows_says_what_came(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        page = int(asked.params["page"])
        if page < 3:
            return Answer({"items": [{"id": page}]})
        return Answer(b"<html>Please log in", headers={"Content-Type": "text/html"})

    with http_server(answer) as server:
        config = {"url": server.url, "records": "$.items"}
        ran = run(tmp_path, reading(config | {"pagination": {"type": "page", "param": "page"}}))
    assert (ran.status, ran.code) == (1, "E0503")
    assert "page 3" in ran.errors
    assert "it is text/html, and begins: <html>Please log in" in ran.errors


def test_a_server_that_hangs_or_is_not_there(tmp_path: Path) -> None:
    with silent_server() as url:
        ran = run(tmp_path, reading({"url": url, "timeout": "200ms"}))
    assert (ran.status, ran.code) == (1, "E0608")
    assert "did not answer within 0.2 s" in ran.errors
    ran = run(tmp_path, reading({"url": url}))
    assert (ran.status, ran.code) == (1, "E0607")


def test_rows_that_do_not_fit_become_dead_letters_with_their_place(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        page = int(asked.params["page"])
        if page == 4:  # types are found on the first three
            return Answer(b'[{"id": 4}, null, {"id": "five",  "n": 1.50}, 5]')
        return Answer([{"id": page}] if page < 4 else [])

    with http_server(answer) as server:
        config = {"url": f"{server.url}/v1", "pagination": {"type": "page"}}
        flow = reading(config, error_handling={"on_error": "dead_letter"})
        ran = run(tmp_path, flow)
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == [1, 2, 3, 4]
    letters = list((tmp_path / ".dataflare/reading/dead_letters").glob("*.ndjson"))
    text = "".join(path.read_text() for path in letters)
    assert text.count("\n") == 2
    assert "/v1 page 4 row 3" in text
    assert "/v1 page 4 row 4" in text
    # The item as the API wrote it.
    rows = [json.loads(line)["row"] for line in text.splitlines()]
    assert {"raw": '{"id": "five",  "n": 1.50}'} in [
        json.loads(row) if isinstance(row, str) else row for row in rows
    ]


def test_an_item_that_is_broken_or_too_deep_is_one_bad_row(tmp_path: Path) -> None:
    deep = b'{"id": 2, "n": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"

    def answer(asked: Asked) -> Answer:
        broken = b'{"id": 4, "n": nul}'
        items = deep if "page" not in asked.params else broken
        following = b"null" if "page" in asked.params else b'"?page=2"'
        return Answer(
            b'{"items": [{"id": 1}, ' + items + b', {"id": 3}], "next": ' + following + b"}"
        )

    with http_server(answer) as server:
        pages = {"type": "next_url", "path": "$.next"}
        config = {"url": f"{server.url}/v1", "records": "$.items", "pagination": pages}
        ran = run(tmp_path, reading(config, error_handling={"on_error": "dead_letter"}))
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == [1, 3, 1, 3]
    letters = list((tmp_path / ".dataflare/reading/dead_letters").glob("*.ndjson"))
    found = [json.loads(line) for path in letters for line in path.read_text().splitlines()]
    assert [each["position"].rpartition("/v1 ")[2] for each in found] == [
        "page 1 row 2",
        "page 2 row 2",
    ]
    assert json.loads(found[0]["row"])["raw"] == deep.decode()


def test_a_run_that_dies_resumes_at_its_page_where_pages_are_stable(tmp_path: Path) -> None:
    with http_server(by_page) as server:
        config = {
            "url": server.url,
            "records": "$.items",
            "pagination": {"type": "page", "size": 3},
            "stable_pages": True,
        }
        flow = reading(config)
        flow["settings"]["checkpoint"] = {"interval": "1ms"}
        died = subprocess_dies(tmp_path, flow)
        assert died
        before = len(server.asked)
        assert run(tmp_path, flow).status == 0
        assert before
    assert [row["id"] for row in out(tmp_path)] == list(range(7))


def subprocess_dies(folder: Path, flow: dict[str, Any]) -> bool:
    """Run it until it kills itself after its first manifest."""
    import os
    import subprocess
    import sys

    import yaml

    (folder / "flow.yaml").write_text(yaml.safe_dump(flow, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--quiet"],
        cwd=folder,
        env={**os.environ, "DATAFLARE_CRASH_AT": "engine.after_prepare:1"},
        timeout=60,
    )
    return done.returncode == -9
