"""Find the secrets that are written literally in a workflow's config, so that no output shows them.

Always true: a value is a secret because of the name of its option, or because of its place in a URL or
a connection string. The rules do not depend on a connector.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, unquote_plus

_NAME = re.compile(
    r"pass?w(or)?d|passphrase|\bpwd\b|secret|token|credential|authorization|cookie|signature|\bsig\b"
    r"|(api|access|account|private|shared|storage|sas)[-_ ]?key\b|connection_key",
    re.I,
)
_KEY = re.compile(r"(^|[-_])(key|sig|auth|code)$", re.I)
"""Names that mean a secret in the query of a URL and in a header, and a column elsewhere."""

_LOGIN = re.compile(r"auth\w*|pass\w*|login|token|bearer", re.I)
"""Words with which a message begins that shows a secret."""
_MESSAGES = {"subscribe"}
"""Options that are messages to a server."""

_NO_SECRET = re.compile(r"_?(file|path|env|url|uri|type|name)$|^(max|n|num)_?tokens?$", re.I)
_CONNECTION = re.compile(r"connection|dsn|conninfo", re.I)
"""Names of options whose text may be a connection string; elsewhere `=` means a comparison."""

_URL = re.compile(r"^[a-z][a-z0-9+.\-]*://", re.I)
_PAIR = re.compile(r"(?P<name>[A-Za-z][\w .-]{0,40}?)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|[^\s;&]+)")
_VARIABLES = re.compile(r"(\$\{[^}]*\})+")
"""A variable without its value. The name of a variable is not a secret."""
_KEY_LEAST = 16
"""A shorter `key` in a message is not taken for a secret."""
_LEAST = 4
"""Shorter parts of a password are not hidden on their own."""


def literal_secrets(config: Any, name: str = "") -> Iterator[str]:
    """Every text in a config that must be hidden, in each form in which output may contain it.

    config: maps, lists and scalars. name: the key of this value.
    """
    if name in _MESSAGES:
        yield from _of_message(config, "")
    if isinstance(config, Mapping):
        yield from _of_pairs(config)
        for key, value in config.items():
            yield from literal_secrets(value, str(key))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from literal_secrets(value, name)
    elif isinstance(config, str):
        if is_secret(name) and _VARIABLES.fullmatch(config) is None:
            yield from _forms(config)
        if _URL.match(config):
            yield from _of_url(config)
        elif _CONNECTION.search(name):
            yield from _of_connection(config)
    elif isinstance(config, int) and not isinstance(config, bool) and is_secret(name):
        yield str(config)


def is_secret(name: str) -> bool:
    """Whether an option of this name holds a secret."""
    return _NAME.search(name) is not None and _NO_SECRET.search(name) is None


def _of_message(value: Any, name: str) -> Iterator[str]:
    """What a message to a server shows it: values by their names, in maps, in JSON and in words (`PASS abc`). name: of this value."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _of_message(each, str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _of_message(each, name)
    elif isinstance(value, str):
        if _is_shown_secret(name, value):
            yield from _forms(value)
        elif value.lstrip()[:1] in ("{", "["):
            yield from _of_message(_json(value), name)
        else:
            yield from _of_words(value)


def _json(text: str) -> Any:
    """The value, or the words of a text that is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return re.sub(r"[{}\[\]\"',]+", " ", text).strip()


def _of_words(text: str) -> Iterator[str]:
    """`AUTH name secret`, `token: secret`, `token=secret`: what follows such a name."""
    first = re.match(r"\s*([\w-]+)[\s:=]+(\S.*)", text, re.S)
    if first is not None and _LOGIN.fullmatch(first[1]):
        yield from _forms(first[2].strip())
    for match in re.finditer(r"([\w-]+)\s*[:=]\s*(\S+)", text):
        if _is_shown_secret(match[1], match[2]):
            yield from _forms(match[2])


def _is_shown_secret(name: str, value: str) -> bool:
    """Of a value in a message. `key` is often the name of what is subscribed."""
    if is_secret(name) or name.lower().endswith(("auth", "sig", "sign")):
        return len(value) > _LEAST
    return _KEY.search(name) is not None and len(value) >= _KEY_LEAST


def _of_pairs(config: Mapping[Any, Any]) -> Iterator[str]:
    """Secrets that need two options to be recognised: user and password, header and value, key and value."""
    password = config.get("password")
    user = config.get("username", config.get("user"))
    if isinstance(password, str) and isinstance(user, str):
        yield _basic(user, password)
    if config.get("type") in ("header", "query") and isinstance(config.get("value"), str):
        yield from _forms(config["value"])
    headers = config.get("headers")
    if isinstance(headers, Mapping):
        for key, value in headers.items():
            if isinstance(value, str) and (is_secret(str(key)) or _KEY.search(str(key))):
                yield from _forms(value)


def _of_connection(text: str) -> Iterator[str]:
    """A connection string of pairs, such as `host=db password=...`."""
    for match in _PAIR.finditer(text):
        if is_secret(match["name"]):
            yield from _forms(match["value"].strip("'"))


def _of_url(text: str) -> Iterator[str]:
    rest = text.partition("://")[2]
    user_info, at, _ = rest.rpartition("@")
    if at:
        user, colon, password = user_info.partition(":")
        if colon and password:
            yield from _forms(password)
            yield _basic(unquote(user), unquote(password))
    for pair in re.split(r"[&;]", rest.partition("?")[2].partition("#")[0]):
        key, _, value = pair.partition("=")
        if value and (is_secret(key) or (_KEY.search(key) and len(value) > _LEAST)):
            yield from _forms(value)


def _forms(value: str) -> Iterator[str]:
    """A secret, its decoded forms, and its parts. Parts, because a server may read a part of a password
    with special characters as a host or a path, and show it in its message."""
    scheme, _, rest = value.partition(" ")
    values = {value, unquote(value), unquote_plus(value)}
    if scheme.lower() in ("bearer", "basic", "token", "apikey", "digest"):
        values.add(rest)
    for form in tuple(values):
        values |= {part for part in re.split(r"[\s/?#@:&=]+", form) if len(part) >= _LEAST}
    yield from sorted(values - {"", scheme if rest else ""})


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()
