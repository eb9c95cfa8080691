"""Parse the header Link (RFC 8288, appendix B.2).

Always true: no input raises. Text that breaks the grammar is passed over up to the next comma.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urljoin

_TARGET = re.compile(r"[\s,]*<([^>]*)>")
_PARAMETER = re.compile(
    r"""\s*;\s*(?P<name>[^\s=;,"]*)\s*(?:=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^;,"]*)))?""",
    re.DOTALL,
)
_REST_OF_LINK = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"]|"(?=[^"]*\Z))*,?')


def next_url(headers: Sequence[str], page_url: str) -> str | None:
    """The absolute URL of the first link with the relation `next`; None if there is none.

    headers: the values of all headers Link of one answer. A link whose `anchor` is another page is
    a statement about that page, so it does not count.
    """
    for target, parameters in _links(", ".join(headers)):
        relations = parameters.get("rel", "").lower().split()
        anchor = urljoin(page_url, parameters.get("anchor", ""))
        if "next" in relations and anchor.partition("#")[0] == page_url.partition("#")[0]:
            return urljoin(page_url, target)
    return None


def _links(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The target and the parameters of each link. Of a repeated parameter the first value counts."""
    place = 0
    while place < len(text):
        target = _TARGET.match(text, place)
        if target is not None:
            parameters: dict[str, str] = {}
            place = target.end()
            while parameter := _PARAMETER.match(text, place):
                quoted, token = parameter["quoted"], parameter["token"]
                value = (token or "").strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(parameter["name"].lower(), value)
                place = parameter.end()
            yield target[1].strip(), parameters
        rest = _REST_OF_LINK.match(text, place)
        place = rest.end() if rest is not None and rest.end() > place else place + 1
