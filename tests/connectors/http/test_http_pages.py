"""Where pages end, and where they lead: no page is missed, none is asked for twice, none elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from http_kit import out, reading, run
from servers.web import Answer, Asked, http_server

pytestmark = pytest.mark.rotates(2)

ROWS = [{"id": n} for n in range(7)]
AGAIN = {"retry_policy": {"max_attempts": 4, "base_delay": "1ms"}}


def read_pages(
    folder: Path, answer: Any, pagination: dict[str, Any] | None, **more: Any
) -> tuple[Any, list[Asked]]:
    with http_server(answer) as server:
        config = {"url": f"{server.url}/v1", **more}
        if pagination is not None:
            config["pagination"] = pagination
        return run(folder, reading(config)), server.asked


def ids(folder: Path) -> list[int]:
    return [row["id"] for row in out(folder)]


def test_a_server_that_caps_its_pages_gives_all_its_rows(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        start = int(asked.params["offset"])
        return Answer(ROWS[start : start + min(2, int(asked.params["limit"]))])

    ran, asked = read_pages(tmp_path, answer, {"type": "offset", "size_param": "limit", "size": 3})
    assert ran.status == 0, ran.errors
    assert ids(tmp_path) == list(range(7))
    assert [each.params["offset"] for each in asked] == ["0", "2", "4", "6", "7"]


def test_a_short_page_in_the_middle_is_not_the_last(tmp_path: Path) -> None:
    pages = {1: [0, 1], 2: [2], 3: [3, 4], 4: [5]}

    def answer(asked: Asked) -> Answer:
        return Answer([{"id": n} for n in pages.get(int(asked.params["page"]), [])])

    ran, _ = read_pages(tmp_path, answer, {"type": "page", "size": 2})
    assert ran.status == 0, ran.errors
    assert ids(tmp_path) == list(range(6))


@pytest.mark.parametrize(("status", "size"), [(404, None), (404, 2), (410, 2), (400, 3), (422, 3)])
def test_a_refusal_after_the_last_page_is_the_end(
    status: int, size: int | None, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Answer:
        rows = ROWS[(int(asked.params["page"]) - 1) * 2 :][:2]
        return Answer(rows) if rows else Answer({"error": "no such page"}, status)

    pagination = {"type": "page", **({"size": size} if size else {})}
    ran, _ = read_pages(tmp_path, answer, pagination)
    assert ran.status == 0, ran.errors
    assert ids(tmp_path) == list(range(7))


def test_a_total_says_the_end_without_an_empty_page(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        start = int(asked.params["offset"])
        return Answer({"items": ROWS[start : start + 3], "meta": {"total": 7}})

    pagination = {"type": "offset", "size": 3, "total": "$.meta.total"}
    ran, asked = read_pages(tmp_path, answer, pagination, records="$.items")
    assert ran.status == 0, ran.errors
    assert ids(tmp_path) == list(range(7))
    assert len(asked) == 3


@pytest.mark.parametrize(("total", "said"), [(9, "says that there are 9"), ("9", "whole number")])
def test_rows_that_a_total_promises_and_no_page_has_are_missed_aloud(
    total: Any, said: str, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Answer:
        start = int(asked.params["offset"])
        return Answer({"items": ROWS[start : start + 3], "total": total})

    pagination = {"type": "offset", "size": 3, "total": "$.total"}
    ran, _ = read_pages(tmp_path, answer, pagination, records="$.items")
    assert (ran.status, ran.code) == (1, "E0503")
    assert said in ran.errors


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("way", ["cursor", "next_url", "link"])
def test_pages_that_lead_in_a_circle_are_refused(way: str, length: int, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        number = int(asked.params.get("cursor", 0))
        following = number % length + 1
        url = f"/v1?cursor={following}"
        return Answer(
            {"items": [{"id": number}], "next": url if way == "next_url" else following},
            headers={"Link": f'<{url}>; rel="next"'} if way == "link" else {},
        )

    pagination = {"type": way} | ({} if way == "link" else {"path": "$.next"})
    ran, asked = read_pages(tmp_path, answer, pagination, records="$.items")
    assert (ran.status, ran.code) == (1, "E0503")
    assert "followed by" in ran.errors
    assert len(asked) <= length + 3


def test_a_server_that_does_not_look_at_the_page_is_refused(tmp_path: Path) -> None:
    ran, asked = read_pages(tmp_path, lambda asked: Answer(ROWS), {"type": "page"})
    assert (ran.status, ran.code) == (1, "E0503")
    assert "the same rows" in ran.errors
    assert len(asked) <= 20


@pytest.mark.parametrize("way", ["cursor", "next_url"])
def test_a_path_that_the_first_answer_lacks_is_refused(way: str, tmp_path: Path) -> None:
    pagination = {"type": way, "path": "$.meta.nxet"}
    answer = Answer({"items": ROWS, "meta": {"next": None}})
    ran, _ = read_pages(tmp_path, lambda asked: answer, pagination, records="$.items")
    assert (ran.status, ran.code) == (1, "E0503")
    assert "$.meta.nxet" in ran.errors
    pagination["absent"] = "end"
    ran, _ = read_pages(tmp_path, lambda asked: answer, pagination, records="$.items")
    assert (ran.status, ids(tmp_path)) == (0, list(range(7)))


@pytest.mark.parametrize(
    ("last", "rows"),
    [
        (Answer(None, 204), [0]),
        (Answer({"items": None}), [0]),
        (Answer({"items": [None, {"id": 9}, None]}), [0, 9]),
    ],
)
def test_no_content_and_null_are_not_rows(last: Answer, rows: list[int], tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        return last if asked.params else Answer({"items": [{"id": 0}], "next": "b"})

    pagination = {"type": "cursor", "path": "$.next"}
    ran, _ = read_pages(tmp_path, answer, pagination, records="$.items")
    assert (ran.status, ids(tmp_path)) == (0, rows), ran.errors


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ('﻿[{"id": "é"}]'.encode(), "application/json"),
        ('[{"id": "é"}]'.encode("latin-1"), "application/json; charset=iso-8859-1"),
        ('[{"id": "é"}]'.encode("utf-16"), "application/json; charset=utf-16"),
        ('[{"id": "é"}]'.encode("utf-16"), "application/json"),
        ('[{"id": "é"}]'.encode(), "text/plain; charset=us-ascii"),
    ],
)
def test_a_mark_of_byte_order_and_a_charset_are_read(
    content: bytes, content_type: str, tmp_path: Path
) -> None:
    answer = Answer(content, headers={"Content-Type": content_type})
    ran, _ = read_pages(tmp_path, lambda asked: answer, None)
    assert (ran.status, out(tmp_path)) == (0, [{"id": "é"}]), ran.errors


def test_a_charset_that_nobody_knows_is_named(tmp_path: Path) -> None:
    answer = Answer([], headers={"Content-Type": "application/json; charset=klingon"})
    ran, _ = read_pages(tmp_path, lambda asked: answer, None)
    assert ran.status == 1
    assert "klingon" in ran.errors


@pytest.mark.parametrize("content", [[1, 2], ["a"], [[1]]])
def test_items_that_are_not_objects_are_named(content: Any, tmp_path: Path) -> None:
    ran, _ = read_pages(tmp_path, lambda asked: Answer(content), None)
    assert (ran.status, ran.code) == (1, "E0503")
    assert "not JSON objects" in ran.errors


def test_the_first_pages_find_the_types_and_are_asked_for_once(tmp_path: Path) -> None:
    pages: list[list[Any]] = [[{"id": 1}], [{"id": 2.5}], [{"id": 3, "more": "x"}], [{"id": 4}], []]

    def answer(asked: Asked) -> Answer:
        return Answer(pages[int(asked.params["page"]) - 1])

    ran, asked = read_pages(tmp_path, answer, {"type": "page"})
    assert ran.status == 0, ran.errors
    assert [each.params["page"] for each in asked] == ["1", "2", "3", "4", "5"]
    assert out(tmp_path) == [
        {"id": float(n), "more": "x" if n == 3 else None} for n in (1, 2.5, 3, 4)
    ]


@pytest.mark.parametrize("way", ["link", "next_url"])
@pytest.mark.parametrize(
    "private", [{"auth": {"type": "bearer", "token": "T"}}, {"headers": {"X-Key": "K"}}]
)
def test_credentials_do_not_follow_a_page_to_another_server(
    way: str, private: dict[str, Any], tmp_path: Path
) -> None:
    with http_server(lambda asked: Answer({"items": [{"id": 2}]})) as other:

        def answer(asked: Asked) -> Answer:
            url = f"{other.url}/x?token=abc"
            link = {"Link": f'<{url}>; rel="next"'}
            return Answer({"items": [{"id": 1}], "next": url}, headers=link)

        pagination = {"type": way} | ({"path": "$.next"} if way == "next_url" else {})
        ran, _ = read_pages(tmp_path, answer, pagination, records="$.items", **private)
        assert (ran.status, ran.code) == (2, "E0415"), ran.errors
        assert f"leads to another server: {other.url}/x" in ran.errors
        assert not other.asked
        # What carries nothing private may go there.
        ran, _ = read_pages(tmp_path, answer, pagination, records="$.items")
        assert (ran.status, ids(tmp_path)) == (0, [1, 2])


@pytest.mark.parametrize(
    "failures", [[Answer(None, 500)], [Answer(None, 503)], [Answer(ROWS, cut=True)]]
)
def test_the_first_call_is_tried_again(failures: list[Answer], tmp_path: Path) -> None:
    with http_server(lambda asked: failures.pop() if failures else Answer(ROWS)) as server:
        made = reading({"url": server.url}, error_handling=AGAIN)
        ran = run(tmp_path, made)
    assert (ran.status, ids(tmp_path)) == (0, list(range(7))), ran.errors


def test_calls_are_tried_again_without_being_told_to(tmp_path: Path) -> None:
    failures = [Answer(None, 502)]
    with http_server(lambda asked: failures.pop() if failures else Answer(ROWS)) as server:
        made = reading({"url": server.url})
        del made["settings"]["error_handling"]
        ran = run(tmp_path, made)
    assert (ran.status, ids(tmp_path)) == (0, list(range(7))), ran.errors


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("when", ["now", "in 0 s"])
def test_a_spent_rate_limit_is_waited_for(status: int, when: str, tmp_path: Path) -> None:
    reset = str(int(time.time())) if when == "now" else "0"
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    refusals = [Answer(None, status, spent)]
    with http_server(lambda asked: refusals.pop() if refusals else Answer(ROWS)) as server:
        ran = run(tmp_path, reading({"url": server.url}, error_handling=AGAIN))
    assert (ran.status, ids(tmp_path)) == (0, list(range(7))), ran.errors


def test_a_rate_limit_that_is_reset_in_hours_is_said(tmp_path: Path) -> None:
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 7200)}
    with http_server(lambda asked: Answer(None, 403, spent)) as server:
        ran = run(tmp_path, reading({"url": server.url}, error_handling=AGAIN))
        assert len(server.asked) == 1
    assert (ran.status, ran.code) == (1, "E0611")
    assert "accepts the next request only in" in ran.errors


@pytest.mark.parametrize("where", ["first page", "later page"])
def test_digits_and_texts_come_through_as_they_were_written(where: str, tmp_path: Path) -> None:
    big = b'[{"id": 12345678901234567890123, "v": "a", "v": "b"}, {"id": "x", "v": 1.50}]'
    plain = b'[{"id": "y", "v": "c"}]'

    def answer(asked: Asked) -> Answer:
        page = int(asked.params["page"])
        if page > 4:
            return Answer([])
        return Answer(big if page == (1 if where == "first page" else 4) else plain)

    ran, _ = read_pages(tmp_path, answer, {"type": "page"})
    assert ran.status == 0, ran.errors
    rows = [(row["id"], row["v"]) for row in out(tmp_path)]
    assert [row for row in rows if row != ("y", "c")] == [
        ("12345678901234567890123", "a"),
        ("x", "1.50"),
    ]


def test_half_of_a_character_is_a_bad_row_of_its_page(tmp_path: Path) -> None:
    answer = Answer(rb'{"items": [{"id": "a"}, {"id": "\ud83d"}, {"id": "b"}]}')
    with http_server(lambda asked: answer) as server:
        config = {"url": server.url, "records": "$.items"}
        ran = run(tmp_path, reading(config, error_handling={"on_error": "skip"}))
    assert (ran.status, out(tmp_path)) == (0, [{"id": "a"}, {"id": "b"}]), ran.errors
    assert ran.result["steps"]["api"]["errors"] == 1
