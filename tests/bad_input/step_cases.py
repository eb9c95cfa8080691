"""Steps whose config is wrong, and steps that fail at a row."""

from __future__ import annotations

from bad_case import Case


def through(type_: str, config: str) -> str:
    """A workflow with one step, whose config stands in line 6, over `in.csv`."""
    return f"""\
name: w
sources:
  a: {{type: file, config: {{path: in.csv}}}}
transformations:
  s:
    config: {{{config}}}
    type: {type_}
    inputs: [a]
destinations:
  z: {{type: blackhole, inputs: [s]}}
"""


def looked_up(options: str) -> str:
    """A workflow that looks country codes up in `lands.csv`; the options stand in line 10."""
    return f"""\
name: w
sources:
  a: {{type: file, config: {{path: in.csv}}}}
  lands: {{type: file, config: {{path: lands.csv}}}}
transformations:
  s:
    type: lookup
    inputs: [a]
    config:
      {options}
      source: lands
destinations:
  z: {{type: blackhole, inputs: [s]}}
"""


FUNCTIONS = """\
NUMBER = 7


def raises(rows):
    raise KeyError("price")


def raises_record(record):
    if record["id"] == 2:
        raise ValueError("two is too many")
    return {"id": record["id"]}


def number(rows):
    return NUMBER


def none(record):
    return "nothing"


def nothing(rows):
    return rows.select("id")


def text(rows):
    return rows.select(rows["land"].alias("id"))
"""
ROWS = {"in.csv": "id,land\n1,DE\n2,FR\n3,XX\n"}
PYTHON = ROWS | {"steps.py": FUNCTIONS}
LANDS = ROWS | {"lands.csv": "code,name\nDE,Germany\nFR,France\nFR,Frankreich\n"}
MAPPING = "mapping: {key: land, remote_key: code, fields: [name]}"

CASES = [
    Case(
        "an unknown option",
        through("filter", "conditon: id > 1"),
        files=ROWS,
        says="""\
error[E0403]: unknown key 'conditon' in step 's'
 --> w.yaml:6:14
  |
6 |     config: {conditon: id > 1}
  |              ^^^^^^^^
   = known keys: condition
   = help: did you mean 'condition'?
""",
    ),
    Case(
        "a missing option",
        through("filter", ""),
        files=ROWS,
        says="""\
error[E0404]: missing key 'condition' in step 's'
 --> w.yaml:6:5
  |
6 |     config: {}
  |     ^^^^^^
   = condition: A boolean expression; rows where it is not true (false or NULL) leave.
   = help: add 'condition'
""",
    ),
    Case(
        "an option of another type",
        through("limit", "rows: many"),
        files=ROWS,
        says="""\
error[E0405]: wrong value for 'rows' in step 's'
 --> w.yaml:6:20
  |
6 |     config: {rows: many}
  |                    ^^^^
   = expected: a whole number
   = found: text 'many'
""",
    ),
    Case(
        "a drop of an unknown column",
        through("map", "drop: [lnad]"),
        files=ROWS,
        says="""\
error[E0203]: unknown column 'lnad' in step 's'
 --> w.yaml:6:21
  |
6 |     config: {drop: [lnad]}
  |                     ^^^^
   = it receives: id, land
   = help: did you mean 'land'?
""",
    ),
    Case(
        "a rename onto a column that is there",
        through("map", "rename: {land: id}"),
        files=ROWS,
        says="""\
error[E0311]: step 's' gives the column 'id' twice
 --> w.yaml:6:29
  |
6 |     config: {rename: {land: id}}
  |                             ^^
   = help: choose another name, or rename the column that has this one too
""",
    ),
    Case(
        "a cast to an unknown type",
        through("map", "cast: {id: int65}"),
        files=ROWS,
        says="""\
error[E0112]: unknown type 'int65' (step 's')
 --> w.yaml:6:25
  |
6 |     config: {cast: {id: int65}}
  |                         ^^^^^
   = a type is written with its Arrow name: int64, string, timestamp[us, UTC], decimal(10, 2), list<string>, ...
   = help: did you mean 'int64'?
""",
    ),
    Case(
        "a select of nothing",
        through("map", "select: []"),
        files=ROWS,
        says="""\
error[E0405]: step 's' leaves no column
 --> w.yaml:7:11
  |
7 |     type: map
  |           ^^^
   = help: list at least one in 'select', or 'drop' fewer
""",
    ),
    Case(
        "routes of no boolean",
        through("route", "routes: {x: id + 1}").replace("[s]}", "[s.x]}"),
        files=ROWS,
        says="""\
error[E0204]: a condition is expected, this is int64 (step 's')
 --> w.yaml:6:26
  |
6 |     config: {routes: {x: id + 1}}
  |                          ^^^^^^
   = help: write id + 1 <> 0
""",
    ),
    Case(
        "a rule that fails the run",
        through("validate", "rules: [{name: known land, expect: land <> 'XX', on_fail: fail}]"),
        status=1,
        files=ROWS,
        says="""\
error[E0540]: step 's': rule 'known land': land <> 'XX': the row breaks the rule (in.csv line 4)
 --> w.yaml:6:29
  |
6 |     config: {rules: [{name: known land, expect: land <> 'XX', on_fail: fail}]}
  |                             ^^^^^^^^^^
   = the row: id=3, land='XX'
   = help: fix the data, or set the rule's on_fail to drop, dead_letter, tag or warn
""",
    ),
    Case(
        "an unknown on_fail",
        through("validate", "rules: [{name: r, expect: id > 0, on_fail: explode}]"),
        files=ROWS,
        says="""\
error[E0405]: wrong value for 'rules.0.on_fail' in step 's'
 --> w.yaml:6:57
  |
6 |     config: {rules: [{name: r, expect: id > 0, on_fail: explode}]}
  |                                                         ^^^^^^^
   = expected: one of 'drop', 'dead_letter', 'fail', 'tag', 'warn'
   = found: text 'explode'
""",
    ),
    Case(
        "an unknown mask",
        through("mask", "columns: {land: scramble}"),
        files=ROWS,
        says="""\
error[E0405]: wrong value for 'columns.land' in step 's'
 --> w.yaml:6:30
  |
6 |     config: {columns: {land: scramble}}
  |                              ^^^^^^^^
   = expected: one of 'email', 'keep_last', 'hash', 'hmac', 'redact', 'null', or a mapping
   = found: text 'scramble'
""",
    ),
    Case(
        "a key to deduplicate by that is not there",
        through("deduplicate", "key: [idd]"),
        files=ROWS,
        says="""\
error[E0203]: unknown column 'idd' in step 's'
 --> w.yaml:6:20
  |
6 |     config: {key: [idd]}
  |                    ^^^
   = it receives: id, land
   = help: did you mean 'id'?
""",
    ),
    Case(
        "an explode of no list",
        through("explode", "column: land"),
        files=ROWS,
        says="""\
error[E0204]: step 's' explodes 'land', which is string, not a list
 --> w.yaml:6:22
  |
6 |     config: {column: land}
  |                      ^^^^
   = the types of 'a' come from a sample of its rows: name the type of a column in its 'schema'
   = help: name another column, or cast this one in a map before
""",
    ),
    Case(
        "an invalid pattern",
        through("parse", "column: land, format: regex, pattern: '(?P<x>'"),
        files=ROWS,
        says="""\
error[E0405]: step 's': the pattern is not a regular expression: missing ), unterminated subpattern at position 0
 --> w.yaml:6:53
  |
6 |     config: {column: land, format: regex, pattern: '(?P<x>'}
  |                                                     ^^^^^^
   = help: fix the pattern
""",
    ),
    Case(
        "a group that is not there",
        through("aggregate", "group_by: [lnad], measures: {n: count(*)}"),
        files=ROWS,
        says="""\
error[E0203]: unknown column 'lnad' in step 's'
 --> w.yaml:6:25
  |
6 |     config: {group_by: [lnad], measures: {n: count(*)}}
  |                         ^^^^
   = it receives: id, land
   = help: did you mean 'land'?
""",
    ),
    Case(
        "invalid JSON in a column",
        through("parse", "column: land, format: json, schema: {x: int64}"),
        status=1,
        files=ROWS,
        says="""\
error[E0541]: step 's': parse land as json: the text does not parse (in.csv line 2)
 --> w.yaml:7:11
  |
7 |     type: parse
  |           ^^^^^
   = the row: id=1, land='DE'
   = help: fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a lookup that misses",
        looked_up(MAPPING + "\n      on_miss: fail"),
        status=1,
        files=LANDS | {"lands.csv": "code,name\nDE,Germany\nFR,France\n"},
        says="""\
error[E0542]: step 's': land in lands: the table has no row for the key (in.csv line 4)
 --> w.yaml:7:11
  |
7 |     type: lookup
  |           ^^^^^^
   = the row: id=3, land='XX'
   = help: add the key to the table, or set on_miss to null, drop or dead_letter
""",
    ),
    Case(
        "a lookup of many",
        looked_up(MAPPING),
        status=1,
        files=LANDS,
        says="""\
error[E0543]: step 's': land in lands: the table has several rows for the key (in.csv line 3)
 --> w.yaml:7:11
  |
7 |     type: lookup
  |           ^^^^^^
   = the row: id=2, land='FR'
   = help: make the keys of the table unique, or set on_many to first or all
""",
    ),
    Case(
        "an optional lookup in a table that is read whole",
        looked_up(MAPPING).replace("source: lands", "source: lands\n      optional: true"),
        files=LANDS,
        says="""\
error[E0406]: step 's' cannot be optional: its table is read whole, before the first row
 --> w.yaml:7:11
  |
7 |     type: lookup
  |           ^^^^^^
   = help: leave 'optional' out, or use a system that is asked key by key, with 'on_miss: null'
""",
    ),
    Case(
        "a rate without a unit of time",
        looked_up(MAPPING).replace("{path: in.csv}}", "{path: in.csv}, rate: 100 rows}"),
        files=LANDS,
        says="""\
error[E0105]: 'rate' of step 'a' must be such as 1000/s, 10MiB/s or {rows: 1000/s, bytes: 10MiB/s}
 --> w.yaml:3:49
  |
3 |   a: {type: file, config: {path: in.csv}, rate: 100 rows}
  |                                                 ^^^^^^^^
   = found: text
   = help: write it in that form
""",
    ),
    Case(
        "a lookup of an unknown column",
        looked_up(MAPPING.replace("remote_key: code", "remote_key: cod")),
        files=LANDS,
        says="""\
error[E0203]: unknown column 'cod' of lands in step 's'
  --> w.yaml:10:40
   |
10 |       mapping: {key: land, remote_key: cod, fields: [name]}
   |                                        ^^^
   = it has: code, name
   = help: did you mean 'code'?
""",
    ),
    Case(
        "a lookup of an unknown field",
        looked_up(MAPPING.replace("[name]", "[nmae]")),
        files=LANDS,
        says="""\
error[E0203]: unknown column 'nmae' of lands in step 's'
  --> w.yaml:10:55
   |
10 |       mapping: {key: land, remote_key: code, fields: [nmae]}
   |                                                       ^^^^
   = it has: code, name
   = help: did you mean 'name'?
""",
    ),
    Case(
        "a lookup by an unknown key",
        looked_up(MAPPING.replace("key: land", "key: lnad", 1)),
        files=LANDS,
        says="""\
error[E0203]: unknown column 'lnad' in step 's'
  --> w.yaml:10:22
   |
10 |       mapping: {key: lnad, remote_key: code, fields: [name]}
   |                      ^^^^
   = it receives: id, land
   = help: did you mean 'land'?
""",
    ),
    Case(
        "a lookup in no source",
        looked_up(MAPPING).replace("source: lands", "source: landes"),
        files=LANDS,
        says="""\
error[E0108]: step 's' looks up in 'landes', which is not a source of this workflow
  --> w.yaml:11:15
   |
11 |       source: landes
   |               ^^^^^^
   = its sources: a, lands
   = help: did you mean 'lands'?
""",
    ),
    Case(
        "keys of unlike types",
        looked_up(MAPPING.replace("key: land", "key: id", 1)),
        files=LANDS,
        says="""\
error[E0204]: step 's' compares 'id' of type int64 with 'code' of type string
  --> w.yaml:10:22
   |
10 |       mapping: {key: id, remote_key: code, fields: [name]}
   |                      ^^
   = the types of 'a' come from a sample of its rows: name the type of a column in its 'schema'
   = help: cast one side in a map before, for example cast: {id: string}
""",
    ),
    Case(
        "a python module that is missing",
        through("python", "function: 'nowhere_at_all:f'"),
        files=ROWS,
        says="""\
error[E0408]: cannot import 'nowhere_at_all:f': ModuleNotFoundError: No module named 'nowhere_at_all' (step 's')
 --> w.yaml:6:25
  |
6 |     config: {function: 'nowhere_at_all:f'}
  |                         ^^^^^^^^^^^^^^^^
   = help: write "package.module:function"; the workflow's own folder is searched first
""",
    ),
    Case(
        "a python function that is missing",
        through("python", "function: 'steps:nowhere'"),
        files=PYTHON,
        says="""\
error[E0408]: cannot import 'steps:nowhere': AttributeError: module 'steps' has no attribute 'nowhere' (step 's')
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:nowhere'}
  |                         ^^^^^^^^^^^^^
   = help: define 'nowhere' in steps, or name another function of it
""",
    ),
    Case(
        "a python function that does not exist",
        through("python", "function: 'steps:NUMBER'"),
        files=PYTHON,
        says="""\
error[E0408]: 'steps:NUMBER' is not a function (step 's')
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:NUMBER'}
  |                         ^^^^^^^^^^^^
   = help: name a function, or another thing that can be called
""",
    ),
    Case(
        "limits of a python function without a process",
        through("python", "function: 'steps:number', limits: {timeout: 5s}"),
        files=PYTHON,
        says="""\
error[E0405]: step 's': 'limits' hold for a process of its own, and the function runs in a thread
 --> w.yaml:6:40
  |
6 |     config: {function: 'steps:number', limits: {timeout: 5s}}
  |                                        ^^^^^^
   = help: add execution: process, or leave out 'limits'
""",
    ),
    Case(
        "a python function without a colon",
        through("python", "function: steps.raises"),
        files=PYTHON,
        says="""\
error[E0408]: cannot import 'steps.raises': ModuleNotFoundError: No module named 'steps.raises'; 'steps' is not a package (step 's')
 --> w.yaml:6:24
  |
6 |     config: {function: steps.raises}
  |                        ^^^^^^^^^^^^
   = help: write "package.module:function"; the workflow's own folder is searched first
""",
    ),
    Case(
        "a python module that imports what is not installed",
        through("python", "function: 'needy:f'"),
        files=ROWS | {"needy.py": "import nowhere_to_be_found\n"},
        says="""\
error[E0408]: cannot import 'needy:f': ModuleNotFoundError: No module named 'nowhere_to_be_found' (step 's')
 --> w.yaml:6:25
  |
6 |     config: {function: 'needy:f'}
  |                         ^^^^^^^
   = help: 'needy' imports 'nowhere_to_be_found': install it where dataflare runs
""",
    ),
    Case(
        "a python module that does not compile",
        through("python", "function: 'broken_module:f'"),
        files=ROWS | {"broken_module.py": "def f(:\n"},
        says="""\
error[E0408]: cannot import 'broken_module:f': SyntaxError: invalid syntax (broken_module.py, line 1) (step 's')
 --> w.yaml:6:25
  |
6 |     config: {function: 'broken_module:f'}
  |                         ^^^^^^^^^^^^^^^
   = help: fix broken_module: it raises this when it is imported
""",
    ),
    Case(
        "a python function that raises",
        through("python", "function: 'steps:raises', schema: {id: int64}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0520]: step 's': steps:raises raised KeyError: 'price'
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:raises', schema: {id: int64}}
  |                         ^^^^^^^^^^^^
   = raised in steps.py line 5: raise KeyError("price")
   = help: fix the function or the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a python function that returns a number",
        through("python", "function: 'steps:number', schema: {id: int64}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0521]: step 's': steps:number returned a value of the type int, not a DataFrame
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:number', schema: {id: int64}}
  |                         ^^^^^^^^^^^^
   = help: return a Polars DataFrame, a LazyFrame or an Arrow table
""",
    ),
    Case(
        "a python function that leaves a column out",
        through("python", "function: 'steps:nothing', schema: {id: int64, x: string}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0521]: step 's': steps:nothing left out the columns x
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:nothing', schema: {id: int64, x: string}}
  |                         ^^^^^^^^^^^^^
   = it returned: id
   = help: return all columns that 'schema' names
""",
    ),
    Case(
        "a python function that returns other types",
        through("python", "function: 'steps:text', schema: {id: int64}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0521]: step 's': steps:text returned string in the column 'id', which is int64
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:text', schema: {id: int64}}
  |                         ^^^^^^^^^^
   = 'schema' names: id: int64
   = help: return int64 there: frame.with_columns(pl.col('id').cast(...)), or name the type string
""",
    ),
    Case(
        "a python function of records that raises",
        through("python", "function: 'steps:raises_record', mode: record, schema: {id: int64}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0520]: step 's': steps:raises_record raised ValueError: two is too many
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:raises_record', mode: record, schema: {id: int64}}
  |                         ^^^^^^^^^^^^^^^^^^^
   = raised in steps.py line 10: raise ValueError("two is too many")
   = help: fix the function or the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a python function of records that returns nonsense",
        through("python", "function: 'steps:none', mode: record, schema: {id: int64}"),
        status=1,
        files=PYTHON,
        says="""\
error[E0521]: step 's': steps:none returned a value of the type str, not a dict
 --> w.yaml:6:25
  |
6 |     config: {function: 'steps:none', mode: record, schema: {id: int64}}
  |                         ^^^^^^^^^^
   = help: return a dict, a list of dicts, or None to leave the row out
""",
    ),
    Case(
        "changes of a query",
        """\
name: w
sources:
  a: {type: postgres, config: {connection_string: "postgresql://h/d", query: "select 1", cdc: true}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0405]: step 'a': 'cdc' reads a whole table and its changes: leave 'query' out
 --> w.yaml:3:71
  |
3 |   a: {type: postgres, config: {connection_string: "postgresql://h/d", query: "select 1", cdc: true}}
  |                                                                       ^^^^^
""",
    ),
    Case(
        "changes of parts of a table, with a wrong number",
        """\
name: w
sources:
  a: {type: mysql, config: {connection_string: "mysql://h/d", table: t, cdc: {server_id: 0}}}
  b: {type: mysql, config: {connection_string: "mysql://h/d", table: t, cdc: true, sharding: {by: hash}}}
destinations:
  z: {type: blackhole, inputs: [a, b]}
""",
        says="""\
error[E0405]: wrong value for 'cdc.server_id' in step 'a'
 --> w.yaml:3:90
  |
3 |   a: {type: mysql, config: {connection_string: "mysql://h/d", table: t, cdc: {server_id: 0}}}
  |                                                                                          ^
   = expected: at least 1
   = found: 0

error[E0405]: step 'b': 'cdc' reads a whole table and its changes: leave 'sharding' out
 --> w.yaml:4:73
  |
4 |   b: {type: mysql, config: {connection_string: "mysql://h/d", table: t, cdc: true, sharding: {by: hash}}}
  |                                                                         ^^^
""",
    ),
    Case(
        "checkpoints in a bucket, with the password in the file",
        """\
name: w
settings:
  checkpoint: {storage: "s3://me:hunter2-very-secret@bucket/checkpoints"}
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0314]: settings.checkpoint.storage: s3://me:***@bucket/checkpoints is not available in this version
 --> w.yaml:3:25
  |
3 |   checkpoint: {storage: "s3://me:*******************@bucket/checkpoints"}
  |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = help: leave it out, or name a folder, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; credentials come from the environment
""",
    ),
]
