"""The functions: a row for each, with its signatures, meaning, SQL and examples.

Always true: a name or alias belongs to one function; operators and syntax (`+`, `case`, `in`) are
rows too, in the groups `operator` and `conditional`, so there is one way to type and to lower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from dataflare.errors import ExpressionError, nearest
from dataflare.expr.signatures import Signature, read_signature
from dataflare.expr.tree import Node

if TYPE_CHECKING:
    from dataflare.expr.check import Call
    from dataflare.expr.sql import Speller

DATABASES = ("duckdb", "sqlite", "postgres")

Example = tuple[str, Any]
Lowering = Callable[..., Any]
Resolver = Callable[["Call"], Node]
Spelling = Callable[["Speller", Node], "str | None"]


class Function(Struct, frozen=True):
    """One function of the language.

    examples: expression and value; the tests run each. pushdown: by database, `exact`, `guarded` (for
    some types or arguments) or `never`. lower(node, *values): returns the value or a Lowered; if `lazy`
    is set, it receives the arguments' Lowered and combines their errors.
    """

    name: str
    group: str
    signature: str
    summary: str
    examples: tuple[Example, ...] = ()
    aliases: tuple[str, ...] = ()
    pushdown: Mapping[str, str] = field(default_factory=dict)
    lower: Lowering | None = None
    resolve: Resolver | None = None
    lazy: bool = False
    needs: frozenset[str] = frozenset()
    sql: Mapping[str, Spelling | str] = field(default_factory=dict)
    signatures: tuple[Signature, ...] = ()


REGISTRY: dict[str, Function] = {}
_NAMES: dict[str, str] = {}


def register(
    name: str,
    signature: str,
    summary: str,
    *examples: Example,
    group: str,
    lower: Lowering | None = None,
    resolve: Resolver | None = None,
    aliases: Iterable[str] = (),
    lazy: bool = False,
    needs: Iterable[str] = (),
    sql: Mapping[str, Spelling | str] | None = None,
) -> None:
    """Add a row. signature: one or several, a line each. sql: by database, a template with {0}, or a
    function of the speller and the node. Without an entry the function is never pushed down."""
    spellings = dict(sql or {})
    pushdown = {
        database: "never"
        if database not in spellings
        else ("exact" if isinstance(spellings[database], str) else "guarded")
        for database in DATABASES
    }
    lines = [line.strip() for line in signature.strip().splitlines()]
    REGISTRY[name] = Function(
        name=name,
        group=group,
        signature="\n".join(lines),
        summary=summary,
        examples=examples,
        aliases=tuple(aliases),
        pushdown=pushdown,
        lower=lower,
        resolve=resolve,
        lazy=lazy,
        needs=frozenset(needs),
        sql=spellings,
        signatures=tuple(read_signature(line) for line in lines) if resolve is None else (),
    )
    for each in (name, *aliases):
        assert each not in _NAMES, f"two functions are named {each}"
        _NAMES[each] = name


def load() -> None:
    """Fill the registry, once; a second thread waits in the import."""
    import dataflare.expr.functions  # noqa: F401


def row(op: str) -> Function:
    """The function of a node's operation."""
    load()
    return REGISTRY[op]


def is_known(name: str) -> bool:
    """Whether a function or alias has the name already."""
    load()
    return name in _NAMES


def forget(name: str) -> None:
    """Remove a function without aliases, so that it can be registered again."""
    del REGISTRY[name], _NAMES[name]


def lookup(name: str) -> Function | None:
    """The function of that name or alias, in any case, or None."""
    load()
    if name.lower() not in _NAMES:
        _installed(name.lower())
    row = _NAMES.get(name.lower())
    return None if row is None else REGISTRY[row]


def _installed(name: str | None = None) -> None:
    """Load functions of other packages: one by name, or all."""
    from dataflare.expr import own

    own.installed(name)


def names() -> list[str]:
    """The names and aliases that can be called."""
    load()
    _installed()
    return [name for name in _NAMES if name.replace("_", "a").isalnum()]


_ELSEWHERE = {
    "substr_index": "split_part", "nvl": "coalesce", "isnull": "is null", "len_chars": "length",
    "datediff": "date_diff", "dateadd": "date_add", "to_char": "strftime", "to_number": "cast",
    "char_length": "length", "instr": "strpos", "getdate": "now", "sysdate": "now",
    "regexp_like": "regexp_matches",
    "decode": "case", "str_to_date": "strptime", "date_format": "strftime",
}  # fmt: skip


def suggestion(name: str) -> str | None:
    """The help for an unknown function name."""
    other = _ELSEWHERE.get(name.lower()) or nearest(name, names())
    return f"did you mean '{other}'?" if other else "'dataflare functions' lists them"


def functions() -> Sequence[Function]:
    """All rows, by group and name."""
    load()
    _installed()
    return sorted(REGISTRY.values(), key=lambda row: (row.group, row.name))


def function(name: str) -> Function:
    """The row of a name or alias. Raises ExpressionError (E0202) with the nearest name."""
    row = lookup(name)
    if row is None:
        raise ExpressionError(f"unknown function '{name}'", code="E0202", help=suggestion(name))
    return row
