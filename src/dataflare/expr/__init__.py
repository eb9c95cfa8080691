"""The expression language: SQL expressions in workflow files, parsed, typed, and lowered to Polars.

Never reads a row itself, never runs Python per row, never raises for one: a lowered expression gives
a value and an error mask.
Leans on model (types, text with places) and sqlglot; the meaning is DuckDB's.
"""

from dataflare.expr.lowered import Lowered
from dataflare.expr.measures import Aggregation, check_measures
from dataflare.expr.parse import Parsed, parse
from dataflare.expr.registry import Function, function
from dataflare.expr.rowerrors import error_text
from dataflare.expr.sql import SqlText
from dataflare.expr.text import ExprText
from dataflare.expr.tree import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.expr.typed import Typed, check, check_condition

__all__ = [
    "NOW_COLUMN",
    "ROWKEY_COLUMN",
    "Aggregation",
    "ExprText",
    "Function",
    "Lowered",
    "Parsed",
    "SqlText",
    "Typed",
    "check",
    "check_condition",
    "check_measures",
    "error_text",
    "function",
    "parse",
]
