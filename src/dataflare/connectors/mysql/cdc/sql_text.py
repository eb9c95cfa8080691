"""Read the text of a statement in the log as the server has read it: its character set, its quotes and its comments. Pure.

Always true: what the server may have read otherwise is refused, or read in each way.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

CODECS = {
    "ascii": "ascii", "utf8mb3": "utf-8", "utf8": "utf-8", "utf8mb4": "utf-8", "latin1": "cp1252", "latin2": "iso8859-2",
    "latin5": "iso8859-9", "latin7": "iso8859-13", "cp1250": "cp1250", "cp1251": "cp1251", "cp1257": "cp1257",
    "cp850": "cp850", "cp852": "cp852", "koi8r": "koi8-r", "gbk": "gbk",
}  # fmt: skip
"""Those in which Python and the server have the same characters."""
_ASCII_ALIKE = (
    *CODECS, "cp1256", "cp866", "koi8u", "greek", "hebrew", "big5", "sjis", "cp932", "ujis", "eucjpms", "euckr", "gb2312",
    "dec8", "hp8", "tis620", "keybcs2", "macce", "macroman", "geostd8",
)  # fmt: skip
"""In these, bytes below 128 are ASCII."""
_UTF8_IDS = range(2048, 2560)
"""Collations that the catalogue lists without their numbers."""
ANSI_QUOTES, NO_BACKSLASH_ESCAPES = 4, 1 << 20
_SIZES = {0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 128: 3, 129: 8}
"""Of the variables of a statement, in bytes; of those that are not listed, a byte tells."""
_SIZED = (5, 6)
_MODE, _CHARSET = 1, 4


class Spelling(Struct, frozen=True):
    """What the server says of statements. folds: whether names of tables are the same in upper and lower case. charsets:
    by the number of a collation."""

    folds: bool = False
    charsets: Mapping[int, str] = {}

    def charset(self, number: int | None) -> str | None:
        if number in _UTF8_IDS:
            return "utf8mb4"
        return None if number is None else self.charsets.get(number)


class Session(Struct, frozen=True):
    """Of a statement. charset, mode: None where they are not known."""

    charset: str | None = "utf8mb4"
    mode: int | None = 0

    @classmethod
    def of(cls, variables: bytes, spelling: Spelling) -> Session:
        """variables: of an event with a statement."""
        mode = number = None
        at = 0
        while at < len(variables):
            code, at = variables[at], at + 1
            size = 1 + sum(variables[at : at + 1]) if code in _SIZED else _SIZES.get(code)
            if size is None or at + size > len(variables):
                break
            value, at = variables[at : at + size], at + size
            if code == _MODE:
                mode = int.from_bytes(value, "little")
            elif code == _CHARSET:
                number = int.from_bytes(value[:2], "little")
        return cls(spelling.charset(number), mode)


KNOWN = Session()


class Unread(Exception):
    """A text that the server may have read otherwise."""


def decoded(sql: bytes, charset: str | None) -> list[str]:
    """The texts that the statement may be. Raises Unread."""
    if sql.isascii() and charset in _ASCII_ALIKE:
        return [sql.decode("ascii")]
    codec = CODECS.get(charset or "")
    if codec is None:
        raise Unread
    # The server writes the CREATE of a CREATE ... SELECT itself, and in UTF-8.
    codecs = [codec, "utf-8"] if sql[:6].upper() == b"CREATE" else [codec]
    texts = []
    for each in codecs:
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(sql.decode(each))
    if not texts:
        raise Unread
    return texts


def readings(text: str, mode: int | None) -> list[list[str]]:
    """The tokens that a text may be, without comments: names that are quoted in `, texts in '. Raises Unread."""
    modes = [*_PATTERNS]
    # SET STATEMENT sql_mode = ... FOR ... was read in the mode from before.
    if mode is not None and not {"SQL_MODE", "STATEMENT"} <= {*re.split(r"\W+", text.upper())}:
        modes = [mode & (ANSI_QUOTES | NO_BACKSLASH_ESCAPES)]
    found: list[list[str]] = []
    for each, runs in itertools.product(modes, (True, False)):
        tokens = [*_tokens(text, each, runs=runs)]
        if tokens not in found:
            found.append(tokens)
    return found


def _pattern(mode: int) -> re.Pattern[str]:
    escaped = "" if mode & NO_BACKSLASH_ESCAPES else r"|\\."
    plain = "" if mode & NO_BACKSLASH_ESCAPES else r"\\"
    doubled = (
        r'(?P<ansi>"(?:[^"]|"")*")'
        if mode & ANSI_QUOTES
        else rf'(?P<double>"(?:[^"{plain}]|""{escaped})*")'
    )
    return re.compile(
        rf"""
        (?P<skip>[ \t\n\v\f\r]+|/\*(?!M?!).*?\*/|\#[^\n]*|--(?=[\x00-\x20]|\Z)[^\n]*)
        |/\*(?P<run>M?!(?P<version>[0-9]{{5,6}})?)
        |(?P<name>`(?:[^`]|``)*`)
        |{doubled}
        |(?P<text>'(?:[^'{plain}]|''{escaped})*')
        |(?P<word>[0-9A-Za-z_$\u00a1-\U0010ffff]+)
        |(?P<mark>/(?!\*)|[!#%&()*+,.:;<=>?@\[\\\]^{{|}}~-])
        """,
        re.VERBOSE | re.DOTALL,
    )


_PATTERNS = {
    mode: _pattern(mode)
    for mode in (0, ANSI_QUOTES, NO_BACKSLASH_ESCAPES, ANSI_QUOTES | NO_BACKSLASH_ESCAPES)
}


def _tokens(text: str, mode: int, *, runs: bool) -> Iterator[str]:
    """runs: whether the server runs what stands in a comment for certain versions of it."""
    pattern, at, is_run = _PATTERNS[mode], 0, False
    while at < len(text):
        if is_run and text.startswith("*/", at):
            at, is_run = at + 2, False
            continue
        found = pattern.match(text, at)
        if found is None:
            raise Unread
        at = found.end()
        token = found[0]
        match found.lastgroup:
            case "skip":
                pass
            case "name" | "mark":
                yield token
            case "word":
                if any(each.isspace() for each in token):
                    raise Unread
                yield token
            case "text":
                yield _quoted(token[1:-1], mode)
            case "double":
                content = re.sub(r'\\.|""|\'', _requoted, token[1:-1], flags=re.DOTALL)
                yield _quoted(content, mode)
            case "ansi":
                yield "`" + token[1:-1].replace('""', '"').replace("`", "``") + "`"
            case _:  # a comment that is run
                if is_run:
                    raise Unread
                is_run = True
                if _is_always_run(found["version"]):
                    continue
                if not runs:
                    at = text.find("*/", at)
                    if at < 0 or "/*" in text[found.end() : at]:
                        raise Unread
    if is_run:
        raise Unread


def _requoted(found: re.Match[str]) -> str:
    return {'""': '"', "'": "''"}.get(found[0], found[0])


def _is_always_run(version: str | None) -> bool:
    """MariaDB leaves out what is for MySQL 5.7 and later."""
    return version is None or int(version) < 50_700


def _quoted(content: str, mode: int) -> str:
    """A text as it is written where \\ escapes."""
    return "'" + (content.replace("\\", "\\\\") if mode & NO_BACKSLASH_ESCAPES else content) + "'"


def bare(token: str) -> str:
    """A name without its quotes."""
    if token[:1] == "`" and len(token) > 1:
        return token[1:-1].replace("``", "`")
    return token


def folded(name: str) -> str:
    """As a server compares that ignores case: each character for itself."""
    return "".join(low if len(low := each.lower()) == 1 else each for each in name)
