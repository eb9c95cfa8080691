"""Rows to a real server as requests: how they are cut, and what happens to refused ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml
from http_kit import Ran, run, sending
from servers.web import Answer, Asked, http_server

ROWS = [{"id": n, "name": f"n{n}"} for n in range(7)]


def test_rows_go_out_in_order_in_full_batches(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(None, 204)) as server:
        ran = run(tmp_path, sending(ROWS, {"url": f"{server.url}/hook", "batch_size": 3}))
        bodies = [asked.json() for asked in server.asked]
    assert ran.status == 0, ran.errors
    assert [len(body) for body in bodies] == [3, 3, 1]
    assert [row for body in bodies for row in body] == ROWS


def test_a_batch_of_one_is_an_object(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer()) as server:
        config = {"url": server.url, "batch_size": 1, "method": "PUT"}
        assert run(tmp_path, sending(ROWS[:2], config)).status == 0
        assert [(asked.method, asked.json()) for asked in server.asked] == [
            ("PUT", ROWS[0]),
            ("PUT", ROWS[1]),
        ]


def test_lines_of_json(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer()) as server:
        assert run(tmp_path, sending(ROWS, {"url": server.url, "format": "ndjson"})).status == 0
        (asked,) = server.asked
    assert [json.loads(line) for line in asked.body.splitlines()] == ROWS
    assert asked.headers["Content-Type"] == "application/x-ndjson"


def refusing(asked: Asked) -> Answer:
    if any(row["id"] in (2, 5) for row in asked.json()):
        return Answer({"error": "no such id"}, 422)
    return Answer()


def test_refused_rows_are_found_and_the_others_arrive_once(tmp_path: Path) -> None:
    with http_server(refusing) as server:
        flow = sending(ROWS, {"url": server.url}, error_handling={"on_error": "dead_letter"})
        ran = run(tmp_path, flow)
        taken = [a.json() for a in server.asked if not any(r["id"] in (2, 5) for r in a.json())]
    assert ran.status == 0, ran.errors
    assert [row["id"] for body in taken for row in body] == [0, 1, 3, 4, 6]
    letters = list((tmp_path / ".dataflare/sending/dead_letters").glob("*.ndjson"))
    found = [json.loads(line) for path in letters for line in path.read_text().splitlines()]
    assert [json.loads(letter["row"])["id"] for letter in found] == [2, 5]
    assert {letter["code"] for letter in found} == {"E0510"}
    assert "no such id" in found[0]["message"]


def test_a_refused_row_is_replayed_with_its_nanoseconds(tmp_path: Path) -> None:
    exact = {"id": 2, "at": "2024-01-01T00:00:00.000000001Z", "time": "12:00:00.123456789"}
    with http_server(refusing) as server:
        flow = sending([exact], {"url": server.url}, error_handling={"on_error": "dead_letter"})
        flow["sources"]["rows"]["schema"] = {"at": "timestamp[ns, UTC]", "time": "time"}
        assert run(tmp_path, flow).status == 0
    with http_server(lambda asked: Answer()) as server:
        flow["destinations"]["hook"]["config"]["url"] = server.url
        (tmp_path / "flow.yaml").write_text(yaml.safe_dump(flow))
        command = [sys.executable, "-m", "dataflare", "dlq", "replay", "sending"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        taken = [asked.json() for asked in server.asked]
    assert done.returncode == 0, done.stderr
    assert taken == [[exact]]


def test_a_refused_row_fails_the_run_where_it_must_not_be_left_out(tmp_path: Path) -> None:
    with http_server(refusing) as server:
        ran = run(tmp_path, sending(ROWS, {"url": server.url, "batch_size": 1}))
    assert ran.status == 1


def test_a_refusal_names_the_row(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer({"error": "no"}, 400)) as server:
        ran = run(tmp_path, sending(ROWS, {"url": server.url}))
    assert (ran.status, ran.code) == (1, "E0510")
    assert "refuses a batch of 7 rows: 400 Bad Request" in ran.errors
    assert "id=0, name='n0'" in ran.errors


def test_a_wrong_address_is_the_system_s_error(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(None, 404)) as server:
        ran = run(tmp_path, sending(ROWS, {"url": server.url}))
    assert (ran.status, ran.code) == (1, "E0604")


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    busy = [1, 1]

    def answer(asked: Asked) -> Answer:
        return Answer(None, 429, {"Retry-After": "0"}) if busy and busy.pop() else Answer()

    with http_server(answer) as server:
        assert run(tmp_path, sending(ROWS, {"url": server.url})).status == 0
        assert [len(asked.json()) for asked in server.asked] == [7, 7, 7]


def test_rows_that_were_not_sent_are_not_counted(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer({"error": "no"}, 400) if asked.json()[0]["id"] == 3 else Answer()

    def written(ran: Ran) -> list[int]:
        return [step["rows_out"] for name, step in ran.result["steps"].items() if name == "hook"]

    with http_server(answer) as server:
        some = run(tmp_path, sending(ROWS, {"url": server.url, "batch_size": 3}))
        every = run(tmp_path, sending(ROWS, {"url": server.url, "batch_size": 9}), "--fresh")
    none = run(tmp_path, sending(ROWS, {"url": server.url, "batch_size": 9}), "--fresh")
    assert [ran.status for ran in (some, every, none)] == [1, 0, 1]
    assert [written(ran) for ran in (some, every, none)] == [[3], [7], [0]]
