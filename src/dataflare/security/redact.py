"""Remove secrets and passwords from text that is shown or written.

Always true: `redact` does not change a text without secrets or connection strings; to redact twice gives
the same text as once; a remembered value is hidden as it is, percent-encoded, JSON-escaped and as
base64.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from dataflare.sdk.runtime import Masks, current

if TYPE_CHECKING:
    from dataflare.security.hidden import HiddenValues

MASK = "***"

_SHORT = 4
"""Values shorter than this are hidden only as whole words: a secret `a` must not turn every text into
asterisks."""

_PIECE = 6
"""The shortest piece of a secret that is hidden in messages of other systems."""

_NAMES = (
    r"password|passwd|passphrase|pwd|secret|secret_key|client_secret|api_?key|access_?key"
    r"|secret_access_key|account_?key|private_key|access_token|auth_token|sasl_password|token|sig"
)
_NAMES_LIST = ("pass", "pwd", "secret", "key", "token", "sig")
"""Each of the names contains one of these."""

_VALUE_MAX = 4000
"""Longer passwords in URLs are not hidden: the search must stay linear on any text."""
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
    """Whether a config key of this name holds a password, a token or another secret."""
    return _NAME.fullmatch(name) is not None


def redact_connections(text: str) -> str:
    """The text with passwords in URLs and `password=...` pairs hidden."""
    if _HINT.search(text) is None:
        return text
    if "@" in text:
        text = _URL.sub(lambda m: m["head"] + _masked(m["value"]), text)
    return _PAIR.sub(lambda m: m["head"] + MASK, text)


def _masked(value: str) -> str:
    """MASK for a password. A line in which it was hidden already stays as long as it is."""
    return MASK if value.strip("*") else value


def mask_line(line: str) -> str:
    """A line of a workflow file with each character of a password replaced by an asterisk, so that columns
    stay the same. Variables are shown: their names are not secrets."""
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
    masked = "".join(part if part.startswith("${") else "*" * len(part) for part in parts)
    return match["head"] + quote + masked + quote


class Redactor:
    """Hides the values it remembers, and passwords in connection strings. Its repr does not show them."""

    def __init__(self, values: Iterable[str] = (), hidden: HiddenValues | None = None) -> None:
        """hidden: the values of masked columns, which no text of another system shows."""
        self._hidden = hidden
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for value in values:
            self.remember(value)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def remember(self, value: str) -> None:
        """Hide this value from now on. Each line of a value is hidden on its own too, because logs are
        split into lines."""
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

    def redact_pieces(self, text: str) -> str:
        """The same, and without pieces of six and more characters of a secret, in upper or lower case: a
        server may quote a part of a statement in its error. Of a connection string only the passwords
        are secret in pieces, because hosts and tables are part of many messages."""
        if self._hidden is not None:
            text = self._hidden.outside(text)
        text = self.redact(text)
        pieces = {
            part[start : start + _PIECE].lower()
            for value in self._values
            for part in _secret_parts(value)
            for start in range(len(part) - _PIECE + 1)
        }
        lower = text.lower()
        if not pieces or len(lower) != len(text):
            return text
        hits = [n for n in range(len(text) - _PIECE + 1) if lower[n : n + _PIECE] in pieces]
        masked: list[str] = []
        end = 0
        for place in hits:
            if place > end or not masked:
                masked += [text[end:place], MASK]
            end = place + _PIECE
        return "".join(masked) + text[end:]

    def suspects(self) -> list[str]:
        """`redact` does not change a text that contains none of these, in upper or lower case."""
        return sorted(_spellings(self._values) | {"://", *_NAMES_LIST})


def text_of(error: object) -> str:
    """What a client library says, on one line and without secrets."""
    return redact_pieces(" ".join(str(error).split())) or type(error).__name__


def _secret_parts(value: str) -> list[str]:
    """A secret as it is, or the passwords in it if it is a connection string."""
    if _HINT.search(value) is None:
        return [value]
    found = [m["value"] for pattern in (_URL, _PAIR) for m in pattern.finditer(value)]
    return found if found or "://" in value else [value]


def _spellings(values: Iterable[str]) -> set[str]:
    """Every form in which a text may contain one of the values."""
    spellings: set[str] = set()
    for value in values:
        escaped = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
        encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
        spellings |= {value, *escaped, repr(value)[1:-1], quote(value, safe=""), quote_plus(value)}
        spellings |= {encoded} if len(value) >= _SHORT else set()
    return spellings


def _pattern_of(values: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(_spellings(values), key=lambda spelling: (-len(spelling), spelling))
    return re.compile(
        "|".join(
            re.escape(spelling)
            if len(spelling) >= _SHORT
            else rf"(?<!\w){re.escape(spelling)}(?!\w)"
            for spelling in ordered
        )
    )


_process = Redactor()
_lock = threading.Lock()


def remember_secret(value: str) -> None:
    """Hide this value from now on in everything that this process shows outside of runs. A run hides the
    secrets of its own workflow."""
    with _lock:
        _process.remember(value)


def _known() -> Masks:
    """What hides secrets here: the run's own redactor, or that of the process."""
    return current().masks or _process


def redact(text: str) -> str:
    """The text without the secrets of the run that calls, or outside of runs without any that this process
    remembers, and without passwords in connection strings. For errors, logs and API responses."""
    return _known().redact(text)


def redact_pieces(text: str) -> str:
    """As `redact`, for messages of other systems, which may quote a piece of a secret."""
    return _known().redact_pieces(text)


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
    """`redact` does not change a text that contains none of these, in upper or lower case."""
    return _known().suspects()
