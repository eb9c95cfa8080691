"""Say what a statement in the log means for the rows of tables. Pure.

Always true: a statement that may have changed the table's columns or rows, and whose changes are not in the log as
rows, is never taken for harmless. In doubt it is not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from dataflare.connectors.mysql.cdc.sql_text import (
    KNOWN,
    Session,
    Unread,
    bare,
    decoded,
    folded,
    readings,
)

_MAINTAINED = ("TABLE", "TABLES", "VIEW", "LOCAL", "NO_WRITE_TO_BINLOG")
_HARMLESS: dict[str, tuple[str, ...] | None] = {
    "SAVEPOINT": None, "RELEASE": ("SAVEPOINT",), "SET": None, "FLUSH": None, "GRANT": None, "REVOKE": None,
    "ANALYZE": _MAINTAINED, "OPTIMIZE": _MAINTAINED, "CHECK": _MAINTAINED, "REPAIR": _MAINTAINED,
    "INSTALL": ("PLUGIN", "SONAME"), "UNINSTALL": ("PLUGIN", "SONAME"), "PURGE": None, "RESET": None, "USE": None,
    "LOCK": None, "UNLOCK": None, "XA": ("START", "BEGIN", "END", "PREPARE", "RECOVER"),
}  # fmt: skip
"""With the words that may come next; None: any."""
_NO_TABLES = (
    "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "USER", "ROLE", "SERVER", "PACKAGE", "DEFINER", "ALGORITHM",
    "SQL", "AGGREGATE", "TABLESPACE", "LOGFILE",
)  # fmt: skip
"""What CREATE, ALTER and DROP are about, where it is not a table."""
_OF_INDEXES = ("INDEX", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "ONLINE", "OFFLINE")
_ROUTINES = frozenset(["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"])
_ROWS = (
    "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH", "(", "SELECT", "DO", "CALL", "EXECUTE", "VALUES",
)  # fmt: skip
"""What changes rows: also of tables that it does not name, by a trigger, a view or a function."""
_OPTIONS = (
    "COMMENT", "AUTO_INCREMENT", "ALGORITHM", "LOCK", "ENGINE", "ROW_FORMAT", "STATS_PERSISTENT", "STATS_AUTO_RECALC",
    "STATS_SAMPLE_PAGES", "KEY_BLOCK_SIZE", "PAGE_COMPRESSED", "PAGE_COMPRESSION_LEVEL", "ENCRYPTED",
    "ENCRYPTION_KEY_ID", "AVG_ROW_LENGTH", "MIN_ROWS", "MAX_ROWS",
)  # fmt: skip
_HARMLESS_CLAUSES = tuple(
    tuple(each.split())
    for each in (
        "ADD INDEX", "ADD KEY", "ADD UNIQUE", "ADD FULLTEXT", "ADD SPATIAL", "ADD CHECK", "ADD PARTITION", "DROP INDEX",
        "DROP KEY", "DROP FOREIGN", "DROP CONSTRAINT", "DROP CHECK", "RENAME INDEX", "RENAME KEY", "FORCE",
        "ALTER INDEX", "ALTER KEY", "DISABLE KEYS", "ENABLE KEYS", "REBUILD PARTITION", "ANALYZE PARTITION", "OPTIMIZE PARTITION",
        "CHECK PARTITION", "REORGANIZE PARTITION", "COALESCE PARTITION",
    )
)  # fmt: skip
_NOT_COLUMNS = (
    "INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "CHECK", "PARTITION", "PRIMARY", "CONSTRAINT", "FOREIGN", "PERIOD",
    "SYSTEM", "IF", "VECTOR",
)  # fmt: skip
"""What follows ADD or DROP where the clause is not about a column. IF: the word behind it tells."""


class Verdict(enum.Enum):
    """What a statement is to a table. GOES, COMES: the table is not there any more by its name, or is there now."""

    BEGIN = enum.auto()
    COMMIT = enum.auto()
    ROLLBACK = enum.auto()
    ROLLBACK_TO = enum.auto()
    GOES = enum.auto()
    COMES = enum.auto()
    TRUNCATES = enum.auto()
    CHANGES_TABLE = enum.auto()
    CHANGES_COLUMNS = enum.auto()
    CHANGES_ROWS = enum.auto()
    NOT_UNDERSTOOD = enum.auto()
    HARMLESS = enum.auto()


class Statement:
    """text: of a statement in the log. default: the database in which it ran. folds: whether the server ignores the case of
    names of tables. is_shadowed: whether it used a temporary table. control: what it is to its transaction, or that it
    concerns no table; None where tables have to be asked for."""

    def __init__(
        self, text: str | bytes, default: str, session: Session = KNOWN, *,
        folds: bool = False, is_shadowed: bool = False,
    ) -> None:  # fmt: skip
        self._default, self._folds, self._is_shadowed = default, folds, is_shadowed
        sql = text.encode() if isinstance(text, str) else text
        self._text = sql.decode("ascii", "backslashreplace") if isinstance(text, bytes) else text
        match sql.strip().upper():
            case b"BEGIN":
                self.control: Verdict | None = Verdict.BEGIN
                return
            case b"COMMIT":
                self.control = Verdict.COMMIT
                return
            case b"ROLLBACK":
                self.control = Verdict.ROLLBACK
                return
        self._readings: list[list[str]] = []
        """The tokens that the server may have read; none: it cannot be said."""
        try:
            texts = decoded(sql, session.charset)
            self._text = texts[0]
            for each in texts:
                self._readings += [_run(tokens) for tokens in readings(each, session.mode)]
        except Unread:
            self._readings = []
            self.control = _control_of_unread(self._text)
            return
        controls = {_control(tokens) for tokens in self._readings}
        self.control = controls.pop() if len(controls) == 1 else None

    @property
    def head(self) -> str:
        """Without values."""
        return " ".join(self._text.split()[:3])

    @property
    def shown(self) -> str:
        """For a message about what changes a table: short, because it may hold values."""
        flat = " ".join(self._text.split())
        return flat if len(flat) <= 80 else flat[:80] + "..."

    def to(self, schema: str, table: str) -> Verdict:
        """What it is to a table."""
        if self.control is not None:
            return self.control
        ours = _Table(self._default, schema, table, folds=self._folds)
        verdicts = {_verdict(tokens, ours) for tokens in self._readings}
        if len(verdicts) != 1:
            return Verdict.NOT_UNDERSTOOD
        [verdict] = verdicts
        if verdict is Verdict.CHANGES_COLUMNS:
            first, *others = [_column_clauses(tokens, ours) for tokens in self._readings]
            if any(each != first for each in others):
                return Verdict.NOT_UNDERSTOOD
        if self._is_shadowed and verdict in _ON_TEMPORARY:
            return Verdict.NOT_UNDERSTOOD
        return verdict

    def column_clauses(self, schema: str, table: str) -> list[tuple[str, ...]]:
        """The clauses about columns of an ALTER TABLE that changes columns, each its tokens."""
        ours = _Table(self._default, schema, table, folds=self._folds)
        return _column_clauses(self._readings[0], ours)


_ON_TEMPORARY = (Verdict.TRUNCATES, Verdict.CHANGES_COLUMNS)
"""What may concern a temporary table of the same name."""


def _run(tokens: list[str]) -> list[str]:
    """The statement that is run in SET STATEMENT ... FOR and ANALYZE."""
    while tokens[-1:] == [";"]:
        tokens = tokens[:-1]
    while True:
        match _upper(tokens[:3]):
            case ["SET", "STATEMENT", *_]:
                at = _outside(tokens, "FOR")
                if at is None:
                    return ["SET STATEMENT"]
                tokens = tokens[at + 1 :]
            case ["ANALYZE", "FORMAT", "="]:
                tokens = tokens[4:]
            case ["ANALYZE", word, *_] if word not in _MAINTAINED:
                tokens = tokens[1:]
            case _:
                return tokens


def _outside(tokens: Sequence[str], word: str) -> int | None:
    """Where a word stands that is not in brackets."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and token.upper() == word:
            return at
    return None


def _upper(tokens: Iterable[str]) -> list[str]:
    return [token.upper() for token in tokens]


def _control_of_unread(text: str) -> Verdict | None:
    """By the first word alone."""
    words = text.upper().split()[:1]
    return Verdict.HARMLESS if words in (["SAVEPOINT"], ["GRANT"], ["REVOKE"]) else None


def _control(tokens: Sequence[str]) -> Verdict | None:
    if ";" in tokens:
        return None
    match _upper(tokens[:3]):
        case []:
            return Verdict.HARMLESS
        case ["BEGIN"] | ["BEGIN", "WORK"] | ["START", "TRANSACTION", *_]:
            return Verdict.BEGIN
        case ["COMMIT"] | ["COMMIT", "WORK"]:
            return Verdict.COMMIT
        case ["ROLLBACK", *_]:
            return Verdict.ROLLBACK_TO
        case ["XA", "COMMIT" | "ROLLBACK", *_]:
            return Verdict.COMMIT
        case [first, *rest] if first in _HARMLESS:
            seconds = _HARMLESS[first]
            if seconds is None or (rest and rest[0] in seconds):
                return Verdict.HARMLESS
    return None


def _verdict(tokens: Sequence[str], ours: _Table) -> Verdict:
    control = _control(tokens)
    if control is not None:
        return control
    words = _upper(tokens)
    if ";" in tokens and not (words[0] in ("CREATE", "ALTER") and _ROUTINES & set(words[:20])):
        return Verdict.NOT_UNDERSTOOD
    try:
        match words[:2]:
            case ["DROP", _]:
                return _drop(_Cursor(tokens, 1), ours)
            case ["CREATE", _]:
                return _create(_Cursor(tokens, 1), ours)
            case ["ALTER", _]:
                return _alter(tokens, ours)
            case ["TRUNCATE", _]:
                cursor = _Cursor(tokens, 1)
                cursor.take("TABLE")
                return Verdict.TRUNCATES if ours.has(cursor.name()) else Verdict.HARMLESS
            case ["RENAME", "TABLE" | "TABLES"]:
                return _rename(_Cursor(tokens, 2), ours)
            case ["RENAME", "USER"]:
                return Verdict.HARMLESS
            case [first, *_] if first in _ROWS:
                return Verdict.CHANGES_ROWS
    except Unread:
        pass
    return Verdict.NOT_UNDERSTOOD


class _Cursor:
    """A place in the tokens."""

    def __init__(self, tokens: Sequence[str], at: int) -> None:
        self._tokens, self.at = tokens, at

    def take(self, *words: str) -> bool:
        """Go behind words that come next."""
        is_next = _upper(self._tokens[self.at : self.at + len(words)]) == [*words]
        self.at += len(words) if is_next else 0
        return is_next

    def next(self) -> str:
        """The next word."""
        return self._tokens[self.at].upper() if self.at < len(self._tokens) else ""

    def name(self) -> tuple[str | None, str]:
        """A name of a table, and of its database. Raises Unread."""
        if self.take("."):
            return None, self.part()
        first = self.part()
        return (first, self.part()) if self.take(".") else (None, first)

    def part(self) -> str:
        token = self._tokens[self.at] if self.at < len(self._tokens) else ""
        if not token or not (
            token[0] == "`" or token[0] in "_$" or token[0].isalnum() or token[0] > "\x7f"
        ):
            raise Unread
        self.at += 1
        return bare(token)

    def waits(self) -> None:
        """Go behind WAIT n."""
        if not self.take("NOWAIT") and self.take("WAIT"):
            self.at += 1

    @property
    def rest(self) -> Sequence[str]:
        return self._tokens[self.at :]


def _drop(cursor: _Cursor, ours: _Table) -> Verdict:
    if cursor.take("DATABASE") or cursor.take("SCHEMA"):
        cursor.take("IF", "EXISTS")
        return Verdict.GOES if ours.is_in(cursor.part()) else Verdict.HARMLESS
    if cursor.take("TABLE") or cursor.take("TABLES"):
        cursor.take("IF", "EXISTS")
        goes = ours.has(cursor.name())
        while cursor.take(","):
            goes = ours.has(cursor.name()) or goes
        cursor.waits()
        if cursor.rest and cursor.next() not in ("RESTRICT", "CASCADE"):
            raise Unread
        return Verdict.GOES if goes else Verdict.HARMLESS
    if cursor.take("INDEX"):
        cursor.take("IF", "EXISTS")
        is_key = cursor.part().upper() == "PRIMARY"
        if is_key and cursor.take("ON") and ours.has(cursor.name()):
            return Verdict.CHANGES_TABLE
        return Verdict.HARMLESS
    if cursor.next() in (*_NO_TABLES, "TEMPORARY", "SEQUENCE", "PREPARE"):
        return Verdict.HARMLESS
    raise Unread


def _create(cursor: _Cursor, ours: _Table) -> Verdict:
    replaces = cursor.take("OR", "REPLACE")
    if cursor.take("TABLE") or cursor.take("SEQUENCE"):
        cursor.take("IF", "NOT", "EXISTS")
        if not ours.has(cursor.name()):
            return Verdict.HARMLESS
        return Verdict.CHANGES_TABLE if replaces else Verdict.COMES
    if cursor.take("DATABASE") or cursor.take("SCHEMA"):
        cursor.take("IF", "NOT", "EXISTS")
        is_ours = replaces and ours.is_in(cursor.part())
        return Verdict.CHANGES_TABLE if is_ours else Verdict.HARMLESS
    if cursor.next() in (*_NO_TABLES, *_OF_INDEXES, "TEMPORARY"):
        return Verdict.HARMLESS
    raise Unread


def _rename(cursor: _Cursor, ours: _Table) -> Verdict:
    """RENAME TABLE a TO b, c TO d"""
    goes = comes = False
    cursor.take("IF", "EXISTS")
    while True:
        goes = ours.has(cursor.name()) or goes
        cursor.waits()
        if not cursor.take("TO"):
            raise Unread
        comes = ours.has(cursor.name()) or comes
        if not cursor.take(","):
            break
    if cursor.rest:
        raise Unread
    if goes and comes:
        return Verdict.CHANGES_TABLE
    return Verdict.GOES if goes else Verdict.COMES if comes else Verdict.HARMLESS


def _alter(tokens: Sequence[str], ours: _Table) -> Verdict:
    parsed = _alter_clauses(tokens)
    if parsed is None:
        words = _upper(tokens[1:20])
        is_other = words[0] in (*_NO_TABLES, "DATABASE", "SCHEMA", "SEQUENCE")
        if not is_other or "UPGRADE" in words:
            raise Unread
        return Verdict.HARMLESS
    if not ours.has(parsed.name):
        return _alter_of_other(parsed.clauses, ours)
    if any(_is_rename(clause) for clause in parsed.clauses):
        return Verdict.GOES
    others = [clause for clause in parsed.clauses if not _is_harmless(clause)]
    if parsed.ignores or not all(_is_of_column(clause) for clause in others):
        return Verdict.CHANGES_TABLE
    return Verdict.CHANGES_COLUMNS if others else Verdict.HARMLESS


def _alter_of_other(clauses: Sequence[Sequence[str]], ours: _Table) -> Verdict:
    """What an ALTER TABLE of another table does: partitions are exchanged with tables, or become them."""
    for clause in clauses:
        words = _upper(clause)
        if _is_rename(clause):
            cursor = _Cursor(clause, 1)
            if not cursor.take("TO") and not cursor.take("AS"):
                cursor.take("=")
            if ours.has(cursor.name()):
                return Verdict.COMES
        is_about_table = words[:1] in (["EXCHANGE"], ["CONVERT"]) and "TABLE" in words
        if is_about_table and ours.has(_Cursor(clause, words.index("TABLE") + 1).name()):
            return Verdict.CHANGES_TABLE
    return Verdict.HARMLESS


def _column_clauses(tokens: Sequence[str], ours: _Table) -> list[tuple[str, ...]]:
    parsed = _alter_clauses(tokens)
    if parsed is None or not ours.has(parsed.name):
        return []
    return [each for each in parsed.clauses if _is_of_column(each)]


def _is_rename(clause: Sequence[str]) -> bool:
    """Whether it gives the table another name."""
    words = [token.upper() for token in clause[:2]]
    return words[:1] == ["RENAME"] and words[1:] not in (["COLUMN"], ["INDEX"], ["KEY"])


class _Alter(NamedTuple):
    """ignores: whether rows that violate something are deleted in silence."""

    name: tuple[str | None, str]
    clauses: list[tuple[str, ...]]
    ignores: bool


def _alter_clauses(tokens: Sequence[str]) -> _Alter | None:
    """None where no table is altered. Raises Unread."""
    cursor, ignores = _Cursor(tokens, 1), False
    while cursor.next() in ("ONLINE", "OFFLINE", "IGNORE"):
        ignores = ignores or cursor.next() == "IGNORE"
        cursor.at += 1
    if not cursor.take("TABLE"):
        return None
    cursor.take("IF", "EXISTS")
    name = cursor.name()
    cursor.waits()
    return _Alter(name, [*_clauses(cursor.rest)], ignores)


def _is_harmless(clause: Sequence[str]) -> bool:
    words = tuple(token.upper() for token in clause)
    if words[:1] == ("DROP",) and any(bare(word) == "PRIMARY" for word in words):
        return False
    is_default = words[:1] == ("ALTER",) and (
        words[-2:] == ("DROP", "DEFAULT") or ("SET", "DEFAULT") in pairwise(words)
    )
    if is_default or any(words[: len(each)] == each for each in _HARMLESS_CLAUSES):
        return True
    return _has_only_options(words)


def _has_only_options(words: Sequence[str]) -> bool:
    """COMMENT = 'x' ROW_FORMAT DYNAMIC: one clause may have several."""
    while words:
        at = 2 if words[1:2] == ("=",) else 1
        if bare(words[0]) not in _OPTIONS or len(words) <= at:
            return False
        if words[0] == "ENGINE" and bare(words[at]) not in ("INNODB", "'INNODB'"):
            return False
        words = words[at + 1 :]
    return True


def _is_of_column(clause: Sequence[str]) -> bool:
    match [token.upper() for token in clause[:2]]:
        case ["ADD" | "DROP" | "MODIFY" | "CHANGE" | "RENAME", "COLUMN"]:
            return True
        case ["MODIFY" | "CHANGE", _]:
            return True
        case ["ADD" | "DROP", word]:
            return word not in _NOT_COLUMNS
    return False


def _clauses(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The tokens of each clause of an ALTER TABLE."""
    clause: list[str] = []
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and depth == 0:
            yield tuple(clause)
            clause = []
        else:
            clause.append(token)
    if clause:
        yield tuple(clause)


class _Table:
    """Names of the table in statements, compared as the server does."""

    def __init__(self, default: str, schema: str, table: str, *, folds: bool) -> None:
        self._fold = folded if folds else str
        self._schema, self._table = self._fold(schema), self._fold(table)
        self._is_default = self.is_in(default)

    def is_in(self, schema: str) -> bool:
        return self._fold(schema) == self._schema

    def has(self, name: tuple[str | None, str]) -> bool:
        """Whether it is its name."""
        schema, table = name
        is_there = self._is_default if schema is None else self.is_in(schema)
        return is_there and self._fold(table) == self._table
