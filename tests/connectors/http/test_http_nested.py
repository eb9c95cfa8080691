"""Rows of a second request for each row of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from http_kit import out, reading, run
from servers.web import Answer, Asked, http_server

from dataflare.errors import ConfigError
from dataflare.testing import source_of

ORDERS = [{"id": n, "customer": {"code": f"c/{n % 2}"}, "at": f"2024-01-0{n}"} for n in range(1, 5)]


def shop(asked: Asked) -> Answer:
    """Two orders in a page; an order has so many lines as its number, three in a page."""
    if asked.path == "/orders":
        start = int(asked.params.get("offset", 0))
        since = asked.params.get("since", "")
        listed = [order for order in ORDERS if order["at"] >= since]
        return Answer({"items": listed[start : start + 2]})
    number = int(asked.path.split("/")[2])
    first = int(asked.params.get("after", 0))
    lines = [{"line": n, "qty": 10 * number + n} for n in range(number)][first : first + 3]
    following = first + 3 if first + 3 < number else None
    return Answer({"lines": lines, "next": following})


def config(server: str, **nested: Any) -> dict[str, Any]:
    return {
        "url": f"{server}/orders",
        "records": "$.items",
        "pagination": {"type": "offset", "size": 2},
        "auth": {"type": "bearer", "token": "t0ken"},
        "nested": {
            "url": f"{server}/orders/{{id}}/lines",
            "records": "$.lines",
            "pagination": {"type": "cursor", "path": "$.next", "param": "after", "absent": "end"},
            "columns": {"order_id": "id", "customer": "customer.code"},
            **nested,
        },
    }


def test_each_order_gives_its_lines_with_the_fields_of_the_order(tmp_path: Path) -> None:
    with http_server(shop) as server:
        ran = run(tmp_path, reading(config(server.url)))
        assert ran.code is None, ran.errors
        asked = [each.path for each in server.asked]
    assert out(tmp_path) == [
        {"order_id": n, "customer": f"c/{n % 2}", "line": line, "qty": 10 * n + line}
        for n in range(1, 5)
        for line in range(n)
    ]
    # Each page once, also those that the types are found in: three of orders, and five of lines.
    assert (asked.count("/orders"), len(asked)) == (3, 8)
    assert all(each.headers["Authorization"] == "Bearer t0ken" for each in server.asked)


def test_only_new_orders_are_asked_for_their_lines(tmp_path: Path) -> None:
    with http_server(shop) as server:
        given = config(server.url, columns={"order_id": "id", "at": "at"})
        incremental = {"column": "at", "param": "since", "key": ["order_id", "line"]}
        flow = reading({**given, "incremental": incremental})
        flow["destinations"]["out"]["config"] = {"path": "out", "format": "ndjson"}
        for expected in (10, 0):
            before = len(server.asked)
            ran = run(tmp_path, flow)
            assert ran.code is None, ran.errors
            assert ran.result["steps"]["api"]["rows_out"] == expected
        asked = [each.path for each in server.asked[before:]]
    # The first page of all is asked for its types.
    assert [each for each in asked if each.endswith("/lines")] == [
        f"/orders/{n}/lines" for n in (1, 2, 4, 4)
    ]


@pytest.mark.parametrize(("absent", "code"), [("error", "E0604"), ("skip", None)])
def test_an_order_that_was_deleted_meanwhile(tmp_path: Path, absent: str, code: str | None) -> None:
    def lacks_one(asked: Asked) -> Answer:
        return Answer({}, 404) if asked.path == "/orders/2/lines" else shop(asked)

    with http_server(lacks_one) as server:
        ran = run(tmp_path, reading(config(server.url, absent=absent)))
    assert ran.code == code
    if code is None:
        assert {row["order_id"] for row in out(tmp_path)} == {1, 3, 4}


@pytest.mark.parametrize(
    ("nested", "says"),
    [
        ({"url": "{url}/orders/{{number}}/lines"}, "has nothing in 'number'"),
        ({"columns": {"qty": "id"}}, "have a field 'qty' themselves"),
        (
            {"pagination": {"type": "cursor", "path": "$.lines[0].line", "param": "x"}},
            "read before",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(
    tmp_path: Path, nested: dict[str, Any], says: str
) -> None:
    with http_server(shop) as server:
        if "url" in nested:
            nested = {"url": nested["url"].format(url=server.url)}
        ran = run(tmp_path, reading(config(server.url, **nested)))
    assert (ran.code, says in ran.result["error"]["message"]) == ("E0503", True), ran.result


@pytest.mark.parametrize("url", ["https://other.example.com/{id}", "https://api.example.com/lines"])
def test_a_url_without_a_field_or_of_another_server_is_refused(url: str) -> None:
    given = {"url": "https://api.example.com/orders", "nested": {"url": url}}
    with pytest.raises(ConfigError):
        source_of("http", given)
