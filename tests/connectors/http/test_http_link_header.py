"""The header Link, as RFC 8288 writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_kit import out, reading, run
from hypothesis import given
from hypothesis import strategies as st
from servers.web import Answer, Asked, http_server

from dataflare.connectors.http.link_header import next_url

PAGE = "http://host/items?page=1"
NEXT = "http://host/items?page=2"


@pytest.mark.parametrize(
    "link",
    [
        '<?page=2>; rel="next"',
        "<?page=2>;rel=next",
        '<?page=2>; rel="next last"',
        '<?page=2>; rel="last  next"',
        '<?page=2>; REL="Next"',
        '<?page=2>; title="a rel=x, <z>; rel=prev"; rel="next"',
        r'<?page=2>; title="a \" rel=x"; rel="next"',
        '<?page=2>; rel = "next" ; type=text/html',
        '<?page=2>; crossorigin; rel=next',
        '<?page=2>; rel=next; rel=last',
        '</items?page=9>; rel="prev", <?page=2>; rel="next"',
        '</a,b>; rel=last,<?page=2>;rel=next',
        ', ,<?page=2>; rel="next",',
        'nonsense "; rel=next, <?page=2>; rel=next',
        '<?page=7>; rel=next; anchor="/other", <?page=2>; rel=next',
        '<?page=2>; rel=next; anchor="#items"',
        '<?page=2>; rel=next; title="never closed',
    ],
)  # fmt: skip
def test_the_next_page_is_named(link: str) -> None:
    assert next_url([link], PAGE) == NEXT


@pytest.mark.parametrize(
    "link",
    [
        "",
        "<?page=2>",
        '<?page=2>; rel="nextpage"',
        '<?page=2>; rel="last"; rel="next"',
        '<?page=2>; title="rel=next"',
        '<?page=2>; title="x; rel=next"',
        '<?page=2; rel="next"',
        '?page=2; rel="next"',
    ],
)
def test_no_next_page_is_named(link: str) -> None:
    assert next_url([link], PAGE) is None


def test_several_headers_are_one_list() -> None:
    assert next_url(['</z>; rel="last"', '<?page=2>; rel="next"'], PAGE) == NEXT


@given(st.text('<>;,="\\ \treln ext', max_size=60))
def test_no_text_stops_the_reader(text: str) -> None:
    next_url([text], PAGE)
    if not set(text) & set('"<\\'):
        assert next_url([text + ", <?page=2>; rel=next"], PAGE) == NEXT


def test_all_pages_are_read_by_a_list_of_relations(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        page = int(asked.params.get("page", 1))
        link = {"Link": f'<?page={page + 1}>; title="rel=x"; REL="last Next"'} if page < 3 else {}
        return Answer([{"id": page}], headers=link)

    with http_server(answer) as server:
        ran = run(tmp_path, reading({"url": server.url, "pagination": {"type": "link"}}))
    assert ran.status == 0, ran.errors
    assert [row["id"] for row in out(tmp_path)] == [1, 2, 3]
