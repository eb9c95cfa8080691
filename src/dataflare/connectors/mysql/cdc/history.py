"""The columns that a table has at a place of the log, kept in positions and changed by the statements in the log. Pure.

Always true: a column is taken as it was defined at its place of the log; a statement whose outcome is not certain is
refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.mysql.cdc.sql_text import bare

_LABEL = re.compile(r"'((?:[^'\\]|''|\\.)*)'")
_SYNONYMS = {
    "integer": "int", "int1": "tinyint", "int2": "smallint", "int3": "mediumint", "int4": "int", "int8": "bigint",
    "middleint": "mediumint", "bool": "tinyint(1)", "boolean": "tinyint(1)", "dec": "decimal", "numeric": "decimal",
    "fixed": "decimal", "real": "double", "json": "longtext", "float4": "float", "float8": "double",
}  # fmt: skip
_TYPES = frozenset(
    [
        "tinyint",
        "smallint",
        "mediumint",
        "int",
        "bigint",
        "decimal",
        "float",
        "double",
        "bit",
        "year",
        "date",
        "datetime",
        "timestamp",
        "time",
        "char",
        "varchar",
        "tinytext",
        "text",
        "mediumtext",
        "longtext",
        "binary",
        "varbinary",
        "tinyblob",
        "blob",
        "mediumblob",
        "longblob",
        "enum",
        "set",
    ]
)
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_GROWING = (
    ("varchar", "text", "mediumtext", "longtext"),
    ("varbinary", "blob", "mediumblob", "longblob"),
)
"""Types of which each has room for all values of those before it."""
_WIDTHS = re.compile(r"^((?:small|medium|big)?int|tinyint|year)\(\d+\)")
_IMPLIED = {"decimal": "(10,0)", "char": "(1)", "bit": "(1)", "binary": "(1)"}


class Logged(Struct, frozen=True):
    """A column of the table. declared: its type in full, decimal(10,2) unsigned; empty where it is not known, because the
    column is not read. charset: '' for what is not text. extra: how its values come about."""

    name: str
    declared: str
    charset: str
    extra: str = ""

    @property
    def type(self) -> str:
        """int, decimal ..."""
        return re.split(r"[ (]", self.declared, maxsplit=1)[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The values of an ENUM or SET."""
        return tuple(each.replace("''", "'") for each in _LABEL.findall(self.declared))

    def equals(self, other: Logged) -> bool:
        """Whether both have the same values in the log and in the table."""
        return bool(self.declared) and (
            (_normal(self.declared), self.charset, self.extra)
            == (_normal(other.declared), other.charset, other.extra)
        )


class Columns(Struct, frozen=True):
    """In the order in which the log has them. charset: of new columns that name none."""

    columns: tuple[Logged, ...]
    charset: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def named(self, name: str) -> Logged | None:
        folded = name.casefold()
        return next((c for c in self.columns if c.name.casefold() == folded), None)

    def to_json(self) -> dict[str, Any]:
        rows = [[c.name, c.declared, c.charset, c.extra] for c in self.columns]
        return {"columns": rows, "charset": self.charset}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(tuple(Logged(*row) for row in data["columns"]), data["charset"])


class Refused(Exception):
    """A statement that cannot be followed. why: about the column. is_drop: whether a column went, so that a run which
    begins anew goes on without it."""

    def __init__(self, why: str = "", *, is_drop: bool = False) -> None:
        super().__init__(why)
        self.why, self.is_drop = why, is_drop


class _Step(Struct, frozen=True):
    """One clause about a column. old: the name that goes, or that it had. new: what comes. place: FIRST, AFTER name, or
    where it was or is put last (None)."""

    old: str | None
    new: Logged | None
    place: tuple[str, ...] | None = None


def altered(before: Columns, clauses: Sequence[Sequence[str]], read: frozenset[str]) -> Columns:
    """The columns behind an ALTER TABLE. clauses: those about columns, each its tokens. read: the columns that are read,
    in lower case. Raises Refused."""
    steps = [step for clause in clauses for step in _steps(before, list(clause), read)]
    columns = list(before.columns)
    # As the server does it: what goes or changes first, then, in their order, what comes and what is moved.
    for step in steps:
        if step.old is not None:
            at = _place_of(columns, step.old)
            columns[at : at + 1] = [] if step.new is None else [step.new]
    for step in steps:
        column = step.new
        if column is None or (step.old is not None and step.place is None):
            continue
        if step.old is not None:
            del columns[_place_of(columns, column.name)]
        match step.place:
            case None:
                columns.append(column)
            case ["FIRST"]:
                columns.insert(0, column)
            case [_, name]:
                columns.insert(_place_of(columns, name) + 1, column)
    return replace(before, columns=tuple(columns))


def _place_of(columns: Sequence[Logged], name: str) -> int:
    for at, column in enumerate(columns):
        if column.name.casefold() == name.casefold():
            return at
    raise Refused(f"column '{name}' is not known at this place of the log")


def _steps(before: Columns, clause: list[str], read: frozenset[str]) -> list[_Step]:
    words = [token.upper() for token in clause]
    verb, rest = words[0], clause[1:]
    if words[1:2] == ["COLUMN"]:
        rest = rest[1:]
    is_optional = [word.upper() for word in rest[:2]] in (["IF", "EXISTS"], ["IF", "NOT"])
    if is_optional:
        rest = rest[3:] if rest[1].upper() == "NOT" else rest[2:]
    if not rest:
        raise Refused
    if verb == "ADD":
        parts = _listed(rest[1:-1]) if rest[0] == "(" else [rest]
        return [s for part in parts for s in _added(before, part, is_optional=is_optional)]
    name = bare(rest[0])
    if is_optional and before.named(name) is None:
        return []
    if verb == "DROP":
        if name.casefold() in read:
            raise Refused(f"column '{name}' was dropped", is_drop=True)
        return [_Step(name, None)]
    return _changed(before, verb, name, rest[1:], read)


def _added(before: Columns, tokens: list[str], *, is_optional: bool) -> list[_Step]:
    name = bare(tokens[0])
    if before.named(name) is not None:
        if is_optional:
            return []
        raise Refused(f"column '{name}' is there already")
    definition, place = _placed(tokens[1:])
    return [_Step(None, _defined(name, definition, before.charset), place)]


def _changed(
    before: Columns, verb: str, name: str, rest: list[str], read: frozenset[str]
) -> list[_Step]:
    """RENAME COLUMN a TO b, CHANGE a b ..., MODIFY a ..."""
    new = name
    if verb == "RENAME" and [w.upper() for w in rest[:1]] == ["TO"] and len(rest) == 2:
        new = bare(rest[1])
    elif verb == "CHANGE" and rest:
        new = bare(rest[0])
    elif verb != "MODIFY":
        raise Refused
    if verb != "RENAME" and name == new and name.casefold() in read:
        return [_widened(before, name, rest[1:] if verb == "CHANGE" else rest)]
    for each in (name, new):
        if each.casefold() in read:
            what = f"renamed to '{new}'" if name != new else "changed"
            raise Refused(f"column '{name}' was {what}")
    place = None if verb == "RENAME" else _placed(rest)[1]
    old = before.named(name)
    kept = old if verb == "RENAME" and old is not None else Logged(new, "", "")
    return [_Step(name, replace(kept, name=new), place)]


def _widened(before: Columns, name: str, tokens: list[str]) -> _Step:
    """MODIFY of a column that is read, which keeps its values. Raises Refused for another one."""
    definition, place = _placed(tokens)
    new = _defined(name, definition, before.charset, is_new=False)
    old = before.named(name)
    if old is None or old.extra or not (old.equals(new) or widens(old, new)):
        raise Refused(f"column '{name}' was changed")
    return _Step(name, new, place)


def _placed(tokens: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """A definition without its place, and the place."""
    if tokens and tokens[-1].upper() == "FIRST":
        return tokens[:-1], ("FIRST",)
    if len(tokens) > 1 and tokens[-2].upper() == "AFTER":
        return tokens[:-2], ("AFTER", bare(tokens[-1]))
    return tokens, None


def _listed(tokens: Sequence[str]) -> list[list[str]]:
    """ADD (a int, b int)"""
    found: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return [each for each in found if each]


def _defined(name: str, tokens: list[str], charset: str, *, is_new: bool = True) -> Logged:
    """A column from its definition. Raises Refused for one that would change values of the rows that are there: a new one is
    to be NULL in them, and another one may not refuse NULL."""
    words = [token.upper() for token in tokens]
    if not words:
        raise Refused
    type_ = _SYNONYMS.get(words[0].lower(), words[0].lower())
    at = 2 if words[:2] == ["DOUBLE", "PRECISION"] else 1
    if type_.partition("(")[0] not in _TYPES:
        raise Refused(f"column '{name}' was added with a type that is not known: {words[0]}")
    if words[at : at + 1] == ["("]:
        end = words.index(")", at)
        type_ += "".join(tokens[at : end + 1])
        at = end + 1
    own, extra, is_null = "", "", False
    while at < len(words):
        match words[at:]:
            case ["UNSIGNED", *_]:
                type_ += " unsigned"
                at += 1
            case ["SIGNED", *_]:
                at += 1
            case ["NULL", *_]:
                is_null, at = True, at + 1
            case ["DEFAULT", "NULL", *_]:
                at += 2
            case ["COMPRESSED", "=", _, *_]:
                at += 3
            case ["COMPRESSED", *_]:
                at += 1
            case ["INVISIBLE", *_]:
                extra, at = "INVISIBLE", at + 1
            case ["DEFAULT", _, *_] if not is_new:
                at += 2
            case ["COMMENT", _, *_]:
                at += 2
            case ["CHARACTER", "SET", _, *_]:
                own, at = bare(tokens[at + 2]).lower(), at + 3
            case ["CHARSET", _, *_]:
                own, at = bare(tokens[at + 1]).lower(), at + 2
            case ["COLLATE", _, *_]:
                collated = bare(tokens[at + 1]).lower().partition("_")[0]
                own, at = own or collated, at + 2
            case _ if not is_new:
                raise Refused(f"column '{name}' was changed with {' '.join(words[at : at + 2])}")
            case _:
                raise Refused(
                    f"column '{name}' was added with {' '.join(words[at : at + 2])}, so that rows which were read before "
                    "may have a value in the database and not in what was written"
                )
    if type_.startswith("timestamp") and not is_null:
        raise Refused(f"column '{name}' was added, and a timestamp without NULL has a default")
    is_text = type_.partition("(")[0] in _TEXTS
    if words[0] == "JSON":
        own = "utf8mb4"
    return Logged(name, type_, (own or charset) if is_text else "", extra)


def widens(old: Logged, new: Logged) -> bool:
    """Whether a column that is converted keeps each of its values."""
    if not old.declared or not new.declared or (old.charset, old.extra) != (new.charset, new.extra):
        return False
    before, after = _normal(old.declared), _normal(new.declared)
    if old.type in ("enum", "set"):
        return old.type == new.type and new.labels[: len(old.labels)] == old.labels
    match (
        re.fullmatch(r"decimal\((\d+),(\d+)\)(\D*)", before),
        re.fullmatch(r"decimal\((\d+),(\d+)\)(\D*)", after),
    ):
        case re.Match() as a, re.Match() as b:
            digits = int(b[1]) - int(b[2]) >= int(a[1]) - int(a[2])
            return digits and int(b[2]) >= int(a[2]) and a[3] == b[3]
    signs = [each.removesuffix("unsigned") for each in (before, after)]
    if all(each in _INTEGERS for each in signs):
        is_wider = _INTEGERS.index(signs[1]) >= _INTEGERS.index(signs[0])
        return is_wider and before.endswith("unsigned") == after.endswith("unsigned")
    for group in _GROWING:
        if old.type in group and new.type in group:
            if old.type == new.type == group[0]:
                return int(before[len(group[0]) + 1 : -1]) <= int(after[len(group[0]) + 1 : -1])
            return group.index(new.type) > group.index(old.type)
    return False


def _normal(declared: str) -> str:
    """A type as it is compared: int(11) and INT are one."""
    labels, head = "", declared
    if declared.lower().startswith(("enum", "set")):
        head, _, labels = declared.partition("(")
        labels = "(" + ",".join(f"'{each}'" for each in _LABEL.findall(labels)) + ")"
    head = head.lower().replace(" ", "") if labels == "" else head.lower()
    is_bool = head.startswith("tinyint(1)")
    head = head if is_bool else _WIDTHS.sub(r"\1", head)
    head = re.sub(r"^(decimal\(\d+)\)", r"\1,0)", head)
    head = re.sub(r"^((?:date)?time(?:stamp)?)\(0\)", r"\1", head)
    name = re.split(r"[^a-z]", head, maxsplit=1)[0].removesuffix("unsigned")
    if name in _IMPLIED and "(" not in head:
        head = head.replace(name, name + _IMPLIED[name], 1)
    return head + labels
