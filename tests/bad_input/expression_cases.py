"""Expressions: syntax, names and types before the run, values during it."""

from __future__ import annotations

from bad_case import Case


def kept(condition: str) -> str:
    """A workflow that filters by `condition`, in line 6."""
    return f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [{{id: 1, status: new, at: 2024-01-01}}]}}}}
transformations:
  keep:
    config: {{condition: "{condition}"}}
    type: filter
    inputs: [a]
destinations:
  z: {{type: blackhole, inputs: [keep]}}
"""


def derived(expression: str) -> str:
    """A workflow that derives a column from `in.csv`, in line 6."""
    return f"""\
name: w
sources:
  a: {{type: file, config: {{path: in.csv}}}}
transformations:
  more:
    config: {{derive: {{x: "{expression}"}}}}
    type: map
    inputs: [a]
destinations:
  z: {{type: blackhole, inputs: [more]}}
"""


NUMBERS = {"in.csv": "id,n,t\n1,1,10\n2,0,x7\n3,5,30\n"}

CASES = [
    Case(
        "an unknown column",
        kept("statsu == 'new'"),
        says="""\
error[E0203]: unknown column 'statsu' in step 'keep'
 --> w.yaml:6:26
  |
6 |     config: {condition: "statsu == 'new'"}
  |                          ^^^^^^
   = it receives: id, status, at
   = help: did you mean 'status'?
""",
    ),
    Case(
        "a column of another case",
        kept("STATUS == 'new'"),
        says="""\
error[E0203]: unknown column 'STATUS' in step 'keep'
 --> w.yaml:6:26
  |
6 |     config: {condition: "STATUS == 'new'"}
  |                          ^^^^^^
   = it receives: id, status, at
   = help: did you mean 'status'?
""",
    ),
    Case(
        "an unknown function",
        kept("lenght(status) > 2"),
        says="""\
error[E0202]: unknown function 'lenght' (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "lenght(status) > 2"}
  |                          ^^^^^^
   = help: did you mean 'length'?
""",
    ),
    Case(
        "too few arguments",
        kept("substr(status) = 'n'"),
        says="""\
error[E0206]: substr() takes 2 to 3 arguments, 1 given (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "substr(status) = 'n'"}
  |                          ^^^^^^
   = substr(text: string, start: int64, [length: int64]) -> string
""",
    ),
    Case(
        "text compared with a number",
        kept("status > 5"),
        says="""\
error[E0204]: cannot compare string with int32 (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "status > 5"}
  |                          ^^^^^^^^^^
   = help: write '5', or CAST(status AS int32)
""",
    ),
    Case(
        "a condition that is not a boolean",
        kept("id + 1"),
        says="""\
error[E0204]: a condition is expected, this is int64 (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "id + 1"}
  |                          ^^^^^^
   = help: write id + 1 <> 0
""",
    ),
    Case(
        "a sum of text",
        kept("status + 1 > 2"),
        says="""\
error[E0204]: cannot apply '+' to string and int32 (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "status + 1 > 2"}
  |                          ^^^^^^
   = help: texts are joined with ||, and read as numbers with CAST(... AS float64)
""",
    ),
    Case(
        "an operator at the end",
        kept("id >"),
        says="""\
error[E0201]: an operand is missing after '>' (step 'keep')
 --> w.yaml:6:29
  |
6 |     config: {condition: "id >"}
  |                             ^
""",
    ),
    Case(
        "a parenthesis that is not closed",
        kept("(id > 1"),
        says="""\
error[E0201]: expected ')' after '1' (step 'keep')
 --> w.yaml:6:32
  |
6 |     config: {condition: "(id > 1"}
  |                                ^
""",
    ),
    Case(
        "a quote that is not closed",
        kept("status == 'new"),
        says="""\
error[E0201]: a string begins here and does not end (step 'keep')
 --> w.yaml:6:36
  |
6 |     config: {condition: "status == 'new"}
  |                                    ^^^^
   = help: close it with '
""",
    ),
    Case(
        "two statements",
        kept("id > 1; DROP TABLE users"),
        says="""\
error[E0205]: one expression is expected, here are several (step 'keep')
 --> w.yaml:6:32
  |
6 |     config: {condition: "id > 1; DROP TABLE users"}
  |                                ^^^^^^^^^^^^^^^^^^
""",
    ),
    Case(
        "a subquery",
        kept("id IN (SELECT id FROM users)"),
        says="""\
error[E0205]: a subquery is not allowed in an expression (step 'keep')
 --> w.yaml:6:33
  |
6 |     config: {condition: "id IN (SELECT id FROM users)"}
  |                                 ^^^^^^^^^^^^^^^^^^^^
""",
    ),
    Case(
        "a window clause",
        kept("row_number() OVER () = 1"),
        says="""\
error[E0205]: a window clause (OVER) is not allowed in an expression (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "row_number() OVER () = 1"}
  |                          ^^^^^^^^^^
""",
    ),
    Case(
        "an aggregate in a filter",
        kept("sum(id) > 3"),
        says="""\
error[E0205]: the aggregate function sum() is not allowed here (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: "sum(id) > 3"}
  |                          ^^^
   = aggregates belong in the measures of 'aggregate' and 'window'
""",
    ),
    Case(
        "an alias",
        kept("id > 1 AS big"),
        says="""\
error[E0205]: an alias is not allowed here (step 'keep')
 --> w.yaml:6:33
  |
6 |     config: {condition: "id > 1 AS big"}
  |                                 ^^^^^^
   = help: the name of a result is its key in the workflow file
""",
    ),
    Case(
        "an empty expression",
        kept(""),
        says="""\
error[E0201]: the expression is empty (step 'keep')
 --> w.yaml:6:26
  |
6 |     config: {condition: ""}
  |                          ^
""",
    ),
    Case(
        "an invalid pattern",
        kept("regexp_matches(status, '(new')"),
        says="""\
error[E0208]: the pattern is not valid: unclosed group (step 'keep')
 --> w.yaml:6:49
  |
6 |     config: {condition: "regexp_matches(status, '(new')"}
  |                                                 ^^^^^^
""",
    ),
    Case(
        "a cast to an unknown type",
        kept("CAST(status AS int65) > 1"),
        says="""\
error[E0204]: unknown type 'int65' (step 'keep')
 --> w.yaml:6:41
  |
6 |     config: {condition: "CAST(status AS int65) > 1"}
  |                                         ^^^^^
   = for example: int64, float64, string, bool, date, timestamp, decimal(10, 2)
   = help: did you mean 'int64'?
""",
    ),
    Case(
        "a cast that cannot be",
        kept("CAST('abc' AS int64) > 1"),
        status=1,
        says="""\
error[E0512]: step 'keep': CAST('abc' AS int64) > 1: a value does not fit the type it is cast to
 --> w.yaml:6:26
  |
6 |     config: {condition: "CAST('abc' AS int64) > 1"}
  |                          ^^^^^^^^^^^^^^^^^^^^^^^^
   = the row: id=1, status='new', at=2024-01-01
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "an invalid date",
        kept("at > DATE '2024-02-30'"),
        says="""\
error[E0208]: '2024-02-30' is not a date (step 'keep')
 --> w.yaml:6:36
  |
6 |     config: {condition: "at > DATE '2024-02-30'"}
  |                                    ^^^^^^^^^^^^
   = help: write it as '2024-12-31' or '2024-12-31 23:59:59'
""",
    ),
    Case(
        "an unknown time zone",
        kept("timezone('Europe/Berln', at) > at"),
        says="""\
error[E0208]: unknown time zone 'Europe/Berln' (step 'keep')
 --> w.yaml:6:35
  |
6 |     config: {condition: "timezone('Europe/Berln', at) > at"}
  |                                   ^^^^^^^^^^^^^^
   = zones have names like UTC, Europe/Paris, America/New_York
   = help: did you mean 'Europe/Berlin'?
""",
    ),
    Case(
        "a parameter inside quotes",
        kept("status == '${param:status}'").replace(
            "sources:", "params: {status: {type: string, default: new}}\nsources:"
        ),
        says="""\
error[E0207]: the variable ${param:status} stands inside quotes (step 'keep')
 --> w.yaml:7:37
  |
7 |     config: {condition: "status == '${param:status}'"}
  |                                     ^^^^^^^^^^^^^^^
   = in an expression a variable is a value, never text
   = help: write ${param:status}
""",
    ),
    Case(
        "a struct field that is not there",
        kept("status.code > 1"),
        says="""\
error[E0204]: string has no field 'code', only a struct has fields (step 'keep')
 --> w.yaml:6:33
  |
6 |     config: {condition: "status.code > 1"}
  |                                 ^^^^
   = help: write json_extract_string(doc, '$.field')
""",
    ),
    Case(
        "a remainder by zero",
        derived("id % n"),
        status=1,
        files=NUMBERS,
        says="""\
error[E0519]: step 'more': x: id % n: division by zero (in.csv line 3)
 --> w.yaml:6:27
  |
6 |     config: {derive: {x: "id % n"}}
  |                           ^^^^^^
   = the row: id=2, n=0, t='x7'
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "an integer overflow",
        derived("id * 9223372036854775807"),
        status=1,
        files=NUMBERS,
        says="""\
error[E0518]: step 'more': x: id * 9223372036854775807: a number does not fit its type (overflow) (in.csv line 3)
 --> w.yaml:6:27
  |
6 |     config: {derive: {x: "id * 9223372036854775807"}}
  |                           ^^^^^^^^^^^^^^^^^^^^^^^^
   = the row: id=2, n=0, t='x7'
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a cast that fails",
        derived("CAST(t AS int64)"),
        status=1,
        files=NUMBERS,
        says="""\
error[E0512]: step 'more': x: CAST(t AS int64): a value does not fit the type it is cast to (in.csv line 3)
 --> w.yaml:6:27
  |
6 |     config: {derive: {x: "CAST(t AS int64)"}}
  |                           ^^^^^^^^^^^^^^^^
   = the row: id=2, n=0, t='x7'
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a date that does not parse",
        derived("CAST(t AS date)"),
        status=1,
        files=NUMBERS,
        says="""\
error[E0512]: step 'more': x: CAST(t AS date): a value does not fit the type it is cast to (in.csv line 2)
 --> w.yaml:6:27
  |
6 |     config: {derive: {x: "CAST(t AS date)"}}
  |                           ^^^^^^^^^^^^^^^
   = the row: id=1, n=1, t='10'
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a cast in map that fails",
        derived("id").replace('derive: {x: "id"}', "cast: {t: int64}"),
        status=1,
        files=NUMBERS,
        says="""\
error[E0512]: step 'more': t: CAST("t" AS int64): a value does not fit the type it is cast to (in.csv line 3)
 --> w.yaml:7:11
  |
7 |     type: map
  |           ^^^
   = the row: id=2, n=0, t='x7'
   = help: fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "an unknown measure",
        kept("id > 1")
        .replace("filter", "aggregate")
        .replace('condition: "id > 1"', 'measures: {n: "summ(id)"}'),
        says="""\
error[E0202]: unknown function 'summ' (step 'keep')
 --> w.yaml:6:29
  |
6 |     config: {measures: {n: "summ(id)"}}
  |                             ^^^^
   = help: did you mean 'sum'?
""",
    ),
    Case(
        "a measure that does not aggregate",
        kept("id > 1")
        .replace("filter", "aggregate")
        .replace('condition: "id > 1"', 'measures: {n: "id + 1"}'),
        says="""\
error[E0205]: column 'id' must be inside of an aggregate function (step 'keep')
 --> w.yaml:6:29
  |
6 |     config: {measures: {n: "id + 1"}}
  |                             ^^
   = help: write first(id), or add it to group_by
""",
    ),
]
