"""Take secrets and passwords out of text that people or files will see.

Always true: `redact` of a text without secrets or connection strings is the text itself; redacting
twice is redacting once; a remembered value is found as it is, percent-encoded, JSON-escaped and as
base64.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"

_SHORT = 4
"""Values shorter than this are hidden only where they stand as a word of their own: a secret `a`
must not turn every text into asterisks."""

_NAMES = (
    r"password|passwd|passphrase|pwd|secret|secret_key|client_secret|api_?key|access_?key"
    r"|secret_access_key|account_?key|private_key|access_token|auth_token|sasl_password|token|sig"
)
_NAMES_LIST = ("pass", "pwd", "secret", "key", "token", "sig")
"""One of these is in each of the names."""

_VALUE_MAX = 4000
"""Longer passwords in URLs are not looked for: the search must stay linear on any text."""
_URL = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.\-]{0,40}://[^\s/?#:'\"]{0,256}:)"
    rf"(?P<value>[^\s'\"]{{0,{_VALUE_MAX}}})(?=@)",
    re.I,
)
_PAIR = re.compile(
    rf"(?P<head>(?<![a-z])(?:{_NAMES})\s*=\s*)"
    r"(?P<value>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\{[^}]*\}|[^\s;&,'\"{}]+)",
    re.I,
)
_KEY = re.compile(
    rf"(?P<head>(?<![a-z])(?:{_NAMES})[\"']?\s*:\s+)"
    r"(?P<value>'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|(?:\$\{[^}]*\}|[^\s,{}#'\"])(?:\$\{[^}]*\}|[^\s,}#])*)",
    re.I,
)
_HINT = re.compile(rf"://|{_NAMES}", re.I)
_NAME = re.compile(_NAMES, re.I)


def is_secret_name(name: str) -> bool:
    """Does a config key of this name hold a password, a token or the like?"""
    return _NAME.fullmatch(name) is not None


def redact_connections(text: str) -> str:
    """The text with passwords in URLs and `password=...` pairs hidden."""
    if _HINT.search(text) is None:
        return text
    if "@" in text:
        text = _URL.sub(lambda m: m["head"] + (MASK if m["value"] else ""), text)
    return _PAIR.sub(lambda m: m["head"] + MASK, text)


def mask_line(line: str) -> str:
    """A line of a workflow file with passwords masked by as many asterisks, so that columns stay.
    Variables are left: their names are no secret."""
    if _HINT.search(line) is None:
        return line
    for pattern in (_URL, _PAIR, _KEY):
        line = pattern.sub(_same_length, line)
    return line


def _same_length(match: re.Match[str]) -> str:
    value = match["value"]
    quote = value[0] if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0] else ""
    inner = value[1:-1] if quote else value
    parts = re.split(r"(\$\{[^}]*\})", inner)
    shown = "".join(part if part.startswith("${") else "*" * len(part) for part in parts)
    return match["head"] + quote + shown + quote


class Redactor:
    """Hides given values, and passwords in connection strings. Its repr shows none of them."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for value in values:
            self.remember(value)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def remember(self, value: str) -> None:
        """Hide this value from now on. The lines of a value of several lines are hidden one by one
        too, for logs are cut into lines."""
        for part in {value, *value.splitlines()}:
            if part.strip():
                self._values.add(part)
        self._pattern = None

    def redact(self, text: str) -> str:
        """The text without secrets."""
        if self._values:
            if self._pattern is None:
                self._pattern = _pattern_of(self._values)
            text = self._pattern.sub(MASK, text)
        return redact_connections(text)

    def suspects(self) -> list[str]:
        """Texts without any of these are left as they are by `redact`, whatever their case."""
        return sorted(_spellings(self._values) | {"://", *_NAMES_LIST})


def _spellings(values: Iterable[str]) -> set[str]:
    """Every form in which one of the values may stand in a text."""
    spellings: set[str] = set()
    for value in values:
        escaped = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
        encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
        spellings |= {value, *escaped, repr(value)[1:-1], quote(value, safe=""), quote_plus(value)}
        spellings |= {encoded} if len(value) >= _SHORT else set()
    return spellings


def _pattern_of(values: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(_spellings(values), key=lambda each: (-len(each), each))
    return re.compile(
        "|".join(
            re.escape(each) if len(each) >= _SHORT else rf"(?<!\w){re.escape(each)}(?!\w)"
            for each in ordered
        )
    )


_process = Redactor()
_lock = threading.Lock()


def remember_secret(value: str) -> None:
    """Hide this value in everything that this process shows from now on."""
    with _lock:
        _process.remember(value)


def redact(text: str) -> str:
    """The text without any secret this process has seen, and without passwords in connection
    strings. For errors, logs and API answers."""
    return _process.redact(text)


def redact_all(value: Any) -> Any:
    """The same maps, lists and scalars with every text redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def suspects() -> list[str]:
    """A text that holds none of these, in any case of letters, is left as it is by `redact`."""
    return _process.suspects()
