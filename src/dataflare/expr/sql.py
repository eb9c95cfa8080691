"""Write an expression as SQL for a source, if the source gives exactly the same results.

Always true: an expression that can fail on a row is never pushed down; text and values from variables are
bound parameters and not part of the SQL; column names are quoted. An expression that may differ in the
database is not pushed down.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any

from msgspec import Struct, field

from dataflare.expr import registry
from dataflare.expr.tree import CAST, COLUMN, LITERAL, Node
from dataflare.model.types import DataType


class SqlText(Struct, frozen=True):
    """A condition or value in SQL. Each `?` is one of `params`, in order."""

    text: str
    params: tuple[Any, ...] = ()


class Speller(Struct):
    """Writes one expression. `spell` returns None if the database would give another result."""

    dialect: str
    params: list[Any] = field(default_factory=list)

    def spell(self, node: Node) -> str | None:
        if node.op == COLUMN:
            return self._column(node)
        if node.op == LITERAL:
            return self._literal(node)
        if node.op == CAST:
            return self._cast(node)
        spelling = registry.row(node.op).sql.get(self.dialect)
        if spelling is None:
            return None
        if isinstance(spelling, str):
            return self.template(spelling, node.args)
        return spelling(self, node)

    def template(self, template: str, args: tuple[Node, ...]) -> str | None:
        parts = [self.spell(arg) for arg in args]
        return None if None in parts else str.format(template, *parts)

    def _column(self, node: Node) -> str | None:
        name = str(node.value)
        if "?" in name or "\0" in name or not self.holds(node.type):
            return None
        if self.dialect == "mysql":
            return "`" + name.replace("`", "``") + "`"
        if self.dialect == "clickhouse":
            return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
        return '"' + name.replace('"', '""') + '"'

    def holds(self, type_: DataType) -> bool:
        """Whether the database compares a column of this type as we do."""
        if self.dialect == "mysql":  # text by its collation; a date may be 0000-00-00
            return type_.is_integer or type_.name == "decimal"
        if self.dialect == "clickhouse":
            return type_.is_integer or type_.name in ("string", "date", "timestamp")
        if type_.is_integer or type_.name in ("string", "float64"):
            return True
        if self.dialect == "sqlite":
            return False
        return type_.name in ("bool", "date", "timestamp", "decimal", "float32")

    def _literal(self, node: Node) -> str | None:
        value = node.value
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return None if self.dialect in ("sqlite", "mysql") else ("TRUE" if value else "FALSE")
        if isinstance(value, int) and node.shown is None:
            return f"({value})" if value < 0 else str(value)
        if not self.holds(node.type):
            return None
        if isinstance(value, datetime) and self.dialect == "duckdb":
            zone = "TIMESTAMPTZ" if value.tzinfo is not None else "TIMESTAMP"
            moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            self.params.append(moment.isoformat(" ") + ("+00" if value.tzinfo else ""))
            return f"CAST(? AS {zone})"
        self.params.append(value)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return "CAST(? AS timestamptz)"
        return (
            f"CAST(? AS {_NAMES[node.type.name]})"
            if self.dialect == "postgres" and node.type.name in _NAMES
            else "?"
        )

    def _cast(self, node: Node) -> str | None:
        """An implicit cast, if it loses no value and is the same everywhere: to a wider number."""
        source, to = node.args[0].type, node.type
        if self.dialect == "duckdb" and node.value == "implicit":
            name = _DUCKDB.get(str(to))
            inner = self.spell(node.args[0])
            if name is None or inner is None or not (source.is_numeric and to.is_numeric):
                return None
            return f"CAST({inner} AS {name})"
        if source.is_integer and to.is_integer and self.dialect != "duckdb":
            return self.spell(node.args[0])
        return None


_NAMES = {"date": "date", "timestamp": "timestamp", "float64": "double precision", "string": "text"}
_DUCKDB = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "uint8": "UTINYINT",
    "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT", "float32": "FLOAT",
    "float64": "DOUBLE",
}  # fmt: skip


OPERATIONS_MAX = 900


def to_sql(node: Node, dialect: str) -> SqlText | None:
    """The node in that database's SQL, or None. Databases limit the size and the depth of a statement
    (SQLite: 1,000). A larger expression is not pushed down."""
    operations = (each for each in node.walk() if each.op != LITERAL)
    if sum(1 for _ in islice(operations, OPERATIONS_MAX + 1)) > OPERATIONS_MAX:
        return None
    speller = Speller(dialect)
    text = speller.spell(node)
    return None if text is None else SqlText(text, tuple(speller.params))


def operator(speller: Speller, node: Node) -> str | None:
    """Arithmetic. It is the same on DuckDB only."""
    if speller.dialect != "duckdb" or not node.type.is_numeric:
        return None
    if node.op == "/":
        return speller.template("({0} / {1})", node.args)
    return speller.template("({0} " + node.op + " {1})", node.args)


def _comparison(speller: Speller, node: Node) -> str | None:
    type_ = node.args[0].type
    if not speller.holds(type_) or not all(speller.holds(arg.type) for arg in node.args):
        return None
    if type_.name == "timestamp" and type_.timezone not in (None, "UTC"):
        return None
    ordered = node.op not in ("=", "<>", "in")
    collate = ' COLLATE "C"' if type_.is_text and ordered and speller.dialect == "postgres" else ""
    if node.op == "between":
        return speller.template("({0}" + collate + " BETWEEN {1} AND {2})", node.args)
    if node.op == "in":
        subject = speller.spell(node.args[0])
        items = [speller.spell(item) for item in node.args[1:]]
        if subject is None or None in items:
            return None
        if speller.dialect == "clickhouse" and "NULL" in items:
            return None  # it leaves a NULL out of the list
        return f"({subject} IN ({', '.join(item or '' for item in items)}))"
    return speller.template("({0}" + collate + f" {node.op} " + "{1})", node.args)


def _distinct(speller: Speller, node: Node) -> str | None:
    words = "IS DISTINCT FROM" if node.op == "is_distinct" else "IS NOT DISTINCT FROM"
    if speller.dialect == "sqlite":
        words = "IS NOT" if node.op == "is_distinct" else "IS"
    if not speller.holds(node.args[0].type):
        return None
    return speller.template("({0} " + words + " {1})", node.args)


def _logic(speller: Speller, node: Node) -> str | None:
    if node.op == "is_null":
        return speller.template("({0} IS NULL)", node.args)
    if node.op == "not":
        return speller.template("(NOT {0})", node.args)
    return speller.template("({0} " + node.op.upper() + " {1})", node.args)


def _like(speller: Speller, node: Node) -> str | None:
    """SQLite's LIKE ignores case; PostgreSQL escapes with a backslash unless told otherwise."""
    if speller.dialect == "sqlite":
        return None
    subject, pattern = speller.spell(node.args[0]), speller.spell(node.args[1])
    if subject is None or pattern is None:
        return None
    escape = node.value or ""
    if escape == "'":
        return None
    return (
        f"({subject} LIKE {pattern} ESCAPE '{escape}')"
        if escape or speller.dialect == "postgres"
        else f"({subject} LIKE {pattern})"
    )


_ALL = ("duckdb", "sqlite", "postgres", "mysql", "clickhouse")
COMPARISON = dict.fromkeys(_ALL, _comparison)
DISTINCT = dict.fromkeys(_ALL[:3], _distinct)
LOGIC = dict.fromkeys(_ALL, _logic)
LIKE = {"duckdb": _like, "postgres": _like}
