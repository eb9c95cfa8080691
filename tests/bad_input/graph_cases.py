"""Steps that do not fit together, and demands that cannot be met."""

from __future__ import annotations

from bad_case import Case

CASES = [
    Case(
        "a circle",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  b: {type: union, inputs: [a, c]}
  c: {type: filter, inputs: [b], config: {condition: id > 0}}
destinations:
  z: {type: blackhole, inputs: [c]}
""",
        says="""\
error[E0301]: the steps form a circle: b -> c -> b
 --> w.yaml:6:30
  |
6 |   c: {type: filter, inputs: [b], config: {condition: id > 0}}
  |                              ^
   = help: remove one of these inputs: rows must come from a source
""",
    ),
    Case(
        "a source that leads nowhere",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
  b: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0302]: the source 'b' leads to no destination
 --> w.yaml:4:3
  |
4 |   b: {type: inline, config: {rows: [{id: 1}]}}
  |   ^
   = help: name it in the 'inputs' of another step, or in the 'source' of a lookup, or remove it
""",
    ),
    Case(
        "a step that leads nowhere",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  b: {type: filter, inputs: [a], config: {condition: id > 0}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0302]: the transformation 'b' leads to no destination
 --> w.yaml:5:3
  |
5 |   b: {type: filter, inputs: [a], config: {condition: id > 0}}
  |   ^
   = help: name it in the 'inputs' of another step or remove it
""",
    ),
    Case(
        "a step without inputs",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  b: {type: filter, config: {condition: id > 0}}
destinations:
  z: {type: blackhole, inputs: [a, b]}
""",
        says="""\
error[E0104]: step 'b' has no inputs
 --> w.yaml:5:3
  |
5 |   b: {type: filter, config: {condition: id > 0}}
  |   ^
   = help: name the steps it reads: inputs: [step]
""",
    ),
    Case(
        "a name used twice",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  a: {type: filter, inputs: [a], config: {condition: id > 0}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0109]: two steps have the name 'a'
 --> w.yaml:5:3
  |
5 |   a: {type: filter, inputs: [a], config: {condition: id > 0}}
  |   ^
   = the first is in 'sources', line 3
   = help: a name is unique over the whole file: rename one of them
""",
    ),
    Case(
        "an unknown input",
        """\
name: w
sources:
  orders: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: blackhole, inputs: [order]}
""",
        says="""\
error[E0108]: step 'z' reads 'order', but there is no step 'order'
 --> w.yaml:5:33
  |
5 |   z: {type: blackhole, inputs: [order]}
  |                                 ^^^^^
   = it can read: orders
   = help: did you mean 'orders'?
""",
    ),
    Case(
        "an unknown output of a step",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  r: {type: route, inputs: [a], config: {routes: {eu: id > 0, us: id < 0}}}
destinations:
  z: {type: blackhole, inputs: [r.eur]}
  y: {type: blackhole, inputs: [r.us]}
""",
        says="""\
error[E0108]: step 'z' reads 'r.eur', which is not an output of 'r'
 --> w.yaml:7:33
  |
7 |   z: {type: blackhole, inputs: [r.eur]}
  |                                 ^^^^^
   = its outputs: r.eu, r.us
   = help: did you mean 'r.eu'?
""",
    ),
    Case(
        "a filter of two inputs",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
  b: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  f: {type: filter, inputs: [a, b], config: {condition: id > 0}}
destinations:
  z: {type: blackhole, inputs: [f]}
""",
        says="""\
error[E0318]: step 'f' (filter) takes one input, and has 2
 --> w.yaml:6:33
  |
6 |   f: {type: filter, inputs: [a, b], config: {condition: id > 0}}
  |                                 ^
   = help: join them first in a step of type union
""",
    ),
    Case(
        "a union of unlike inputs",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
  b: {type: inline, config: {rows: [{id: x}]}}
transformations:
  u: {type: union, inputs: [a, b]}
destinations:
  z: {type: blackhole, inputs: [u]}
""",
        says="""\
error[E0312]: step 'u' cannot join the column 'id' of types int64 and string
 --> w.yaml:6:13
  |
6 |   u: {type: union, inputs: [a, b]}
  |             ^^^^^
   = help: cast it in a map before the union: cast: {id: string}
""",
    ),
    Case(
        "an aggregate of endless input that is to be final",
        """\
name: w
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}}}
transformations:
  n:
    type: aggregate
    inputs: [a]
    config: {group_by: [], measures: {n: "count(*)"}, emit: final}
destinations:
  z: {type: blackhole, inputs: [n]}
""",
        says="""\
error[E0316]: step 'n' cannot emit final results: its input has no end
 --> w.yaml:6:11
  |
6 |     type: aggregate
  |           ^^^^^^^^^
   = help: leave 'emit' out to get updates, or bound the sources (for `generate`: rows)
""",
    ),
    Case(
        "updates of an aggregate for files",
        """\
name: w
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}}}
transformations:
  n: {type: aggregate, inputs: [a], config: {measures: {n: "count(*)"}}}
destinations:
  z: {type: file, inputs: [n], config: {path: out/}}
""",
        says="""\
error[E0315]: step 'z' receives a changelog (rows with inserts and updates), which mode append does not take
 --> w.yaml:7:13
  |
7 |   z: {type: file, inputs: [n], config: {path: out/}}
  |             ^^^^
   = the changelog comes from: n
   = help: set changelog: columns, or write to a table of a database with mode: upsert or mirror
""",
    ),
    Case(
        "batch mode of endless input",
        """\
name: w
settings: {mode: batch}
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        says="""\
error[E0317]: mode is batch, but source 'a' has no end
 --> w.yaml:4:13
  |
4 |   a: {type: generate, config: {columns: {id: {sequence: 0}}}}
  |             ^^^^^^^^
   = help: set mode: streaming, or bound the source
""",
    ),
    Case(
        "overwrite with endless input",
        """\
name: w
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}}}
destinations:
  z: {type: file, inputs: [a], config: {path: out, format: csv, mode: overwrite}}
""",
        says="""\
error[E0319]: destination 'z' needs a run that ends: parts are staged and renamed with their epoch
 --> w.yaml:5:3
  |
5 |   z: {type: file, inputs: [a], config: {path: out, format: csv, mode: overwrite}}
  |   ^
   = help: choose a mode or path that rows are added to, or bound the sources: rows: N in 'a' (each run replaces what the one before wrote)
""",
    ),
    Case(
        "one file from endless input",
        """\
name: w
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}}}
destinations:
  z: {type: file, inputs: [a], config: {path: out.csv}}
""",
        says="""\
error[E0319]: destination 'z' needs a run that ends: the file grows under a staging name and is renamed at the end
 --> w.yaml:5:3
  |
5 |   z: {type: file, inputs: [a], config: {path: out.csv}}
  |   ^
   = help: choose a mode or path that rows are added to, or bound the sources: rows: N in 'a' (each run replaces what the one before wrote)
""",
    ),
    Case(
        "a guarantee that cannot hold",
        """\
name: w
settings: {guarantee: exactly_once}
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: stdout, inputs: [a]}
""",
        says="""\
error[E0320]: destination 'z' cannot promise 'exactly_once': it is at least once
 --> w.yaml:6:13
  |
6 |   z: {type: stdout, inputs: [a]}
  |             ^^^^^^
   = a replays exactly: the rows are in the workflow file; rows are printed immediately, and again after a crash
   = help: choose another destination or mode, or lower settings.guarantee
""",
    ),
    Case(
        "an unknown guarantee",
        """\
name: w
settings: {guarantee: exactly once}
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: stdout, inputs: [a]}
""",
        says="""\
error[E0105]: wrong value for 'guarantee' in 'settings'
 --> w.yaml:2:23
  |
2 | settings: {guarantee: exactly once}
  |                       ^^^^^^^^^^^^
   = expected: one of 'exactly_once', 'effectively_once', 'at_least_once', 'at_most_once'
   = found: text 'exactly once'
   = help: did you mean 'exactly_once'?
""",
    ),
    Case(
        "upsert without a key",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: upsert}}
""",
        says="""\
error[E0405]: step 'z': mode 'upsert' needs 'key': the columns that identify a row
 --> w.yaml:5:73
  |
5 |   z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: upsert}}
  |                                                                         ^^^^^^
""",
    ),
    Case(
        "a key column that does not arrive",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: upsert, key: [idd]}}
""",
        says="""\
error[E0411]: step 'z' needs column 'idd', which does not reach it
 --> w.yaml:5:87
  |
5 |   z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: upsert, key: [idd]}}
  |                                                                                       ^^^
   = it receives: id
   = help: did you mean 'id'?
""",
    ),
    Case(
        "columns that SQLite takes for one",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1, Name: x, name: y}]}}
destinations:
  z: {type: sqlite, inputs: [a], config: {path: out.db, table: t}}
""",
        says="""\
error[E0411]: step 'z': columns 'Name' and 'name' differ only in case; sqlite treats them as one column
 --> w.yaml:5:13
  |
5 |   z: {type: sqlite, inputs: [a], config: {path: out.db, table: t}}
  |             ^^^^^^
   = it receives: id, Name, name
   = help: rename one of them with map: rename: {name: ...}, or drop it
""",
    ),
    Case(
        "an unknown mode",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: replace}}
""",
        says="""\
error[E0405]: wrong value for 'mode' in step 'z'
 --> w.yaml:5:73
  |
5 |   z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: replace}}
  |                                                                         ^^^^^^^
   = expected: one of 'append', 'overwrite', 'upsert', 'mirror', 'history'
   = found: text 'replace'
""",
    ),
    Case(
        "two destinations write one file",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  y: {type: file, inputs: [a], config: {path: out.csv}}
  z: {type: file, inputs: [a], config: {path: ./out.csv}}
""",
        says="""\
error[E0321]: destinations 'y' and 'z' both write to out.csv
 --> w.yaml:6:47
  |
6 |   z: {type: file, inputs: [a], config: {path: ./out.csv}}
  |                                               ^^^^^^^^^
   = 'y' begins in line 5
   = help: give one destination both inputs, or write to two places
""",
    ),
    Case(
        "two destinations write one folder",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  y: {type: file, inputs: [a], config: {path: out, format: csv}}
  z: {type: file, inputs: [a], config: {path: out, format: csv}}
""",
        says="""\
error[E0321]: destinations 'y' and 'z' both write to out
 --> w.yaml:6:47
  |
6 |   z: {type: file, inputs: [a], config: {path: out, format: csv}}
  |                                               ^^^
   = 'y' begins in line 5
   = help: give one destination both inputs, or write to two places
""",
    ),
    Case(
        "two destinations overwrite one table",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  y: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: overwrite}}
  z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: overwrite}}
""",
        says="""\
error[E0321]: destinations 'y' and 'z' both write to the table t in out.db
 --> w.yaml:6:49
  |
6 |   z: {type: sqlite, inputs: [a], config: {path: out.db, table: t, mode: overwrite}}
  |                                                 ^^^^^^
   = 'y' begins in line 5
   = help: give one destination both inputs, or write to two places
""",
    ),
    Case(
        "a column with the name of an internal one",
        """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
transformations:
  m: {type: map, inputs: [a], config: {derive: {__dataflare_kind: id + 1}}}
destinations:
  z: {type: blackhole, inputs: [m]}
""",
        says="""\
error[E0310]: step 'm' makes a column '__dataflare_kind': names that begin with '__dataflare_' are reserved
 --> w.yaml:5:49
  |
5 |   m: {type: map, inputs: [a], config: {derive: {__dataflare_kind: id + 1}}}
  |                                                 ^^^^^^^^^^^^^^^^
   = help: give it another name
""",
    ),
]
