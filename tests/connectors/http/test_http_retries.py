"""Requests that fail are made again as the step says: nothing is lost, nothing read or sent twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from http_kit import out, reading, run, sending
from servers.web import Answer, Asked, http_server

AGAIN = {"retry_policy": {"max_attempts": 3, "base_delay": "1ms"}}
ROWS = [{"id": n} for n in range(7)]


def test_a_page_that_fails_is_asked_for_again(tmp_path: Path) -> None:
    failures = {2: [500, 502], 3: [503]}

    def pages(asked: Asked) -> Answer:
        page = int(asked.params["page"])
        if failures.get(page):
            return Answer({"error": "boom"}, failures[page].pop())
        return Answer([{"id": page * 10 + n} for n in range({4: 1, 5: 0}.get(page, 2))])

    config = {"pagination": {"type": "page", "size": 2}}
    with http_server(pages) as server:
        flow = reading({"url": server.url, **config}, error_handling=AGAIN)
        ran = run(tmp_path, flow)
        asked = [each.params["page"] for each in server.asked]
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == [10, 11, 20, 21, 30, 31, 40]
    # The first failure ends the sample that columns are found on; what was read is not asked for again.
    assert asked == ["1", "2", "2", "2", "3", "3", "4", "5"]
    assert "tried again 2 times after E0611" in ran.errors


def test_what_is_used_up_says_how_often_it_was_tried(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(None, 500)) as server:
        ran = run(tmp_path, reading({"url": server.url}, error_handling=AGAIN))
        assert len(server.asked) == 3
    assert ran.code == "E0611"
    assert "(after 3 attempts)" in ran.errors


def test_a_request_that_fails_is_sent_again_with_its_key(tmp_path: Path) -> None:
    failures: list[Any] = [Answer(None, 500), Answer(None, 200, cut=False), Answer(None, 502)]
    taken: list[Asked] = []

    def hook(asked: Asked) -> Answer:
        answer = failures.pop(0) if failures else Answer()
        if answer.status == 200:
            taken.append(asked)
        return answer

    with http_server(hook) as server:
        config = {"url": server.url, "batch_size": 3}
        ran = run(tmp_path, sending(ROWS, config, error_handling=AGAIN))
        keys = [asked.headers["Idempotency-Key"] for asked in server.asked]
    assert ran.status == 0, ran.errors
    assert [row["id"] for asked in taken for row in asked.json()] == list(range(7))
    assert [len(asked.json()) for asked in taken] == [3, 3, 1]
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3
    assert ran.result["steps"]["hook"]["rows_in"] == 7


def test_refused_rows_are_left_out_though_requests_fail(tmp_path: Path) -> None:
    calls = 0

    def hook(asked: Asked) -> Answer:
        nonlocal calls
        calls += 1
        if calls % 2:
            return Answer(None, 500)
        return Answer(status=422 if any(row["id"] == 4 for row in asked.json()) else 200)

    with http_server(hook) as server:
        handling = {**AGAIN, "on_error": "skip"}
        ran = run(tmp_path, sending(ROWS, {"url": server.url}, error_handling=handling))
        sent = [asked.json() for asked in server.asked[1::2]]
    assert ran.status == 0, ran.errors
    arrived = [row["id"] for rows in sent for row in rows if all(r["id"] != 4 for r in rows)]
    assert arrived == [0, 1, 2, 3, 5, 6]
    assert ran.result["steps"]["hook"]["errors"] == 1
