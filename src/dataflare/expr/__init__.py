"""The expression language: SQL expressions in workflow files, parsed, typed, and lowered to Polars.

It does not read rows, does not run Python for each row, and does not raise for a row: a lowered
expression has a value and an error mask. It depends on `model` (types, text with places) and sqlglot.
Expressions mean the same as in DuckDB.
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
