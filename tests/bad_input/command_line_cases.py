"""Command lines that cannot be meant."""

from __future__ import annotations

from bad_case import Case

from dataflare.sdk.registry import destination_types, source_types

GOOD = """\
name: w
params:
  day: {type: date, default: 2024-01-31}
  n: {type: int64, default: 3}
sources:
  a: {type: inline, config: {rows: [{id: "${param:n}", at: "${param:day}"}]}}
transformations:
  keep: {type: filter, inputs: [a], config: {condition: id > 1}}
destinations:
  z: {type: blackhole, inputs: [keep]}
"""

CASES = [
    Case(
        "an unknown command",
        GOOD,
        "rnu w.yaml",
        says="""\
error[E0120]: no such command 'rnu'
   = help: did you mean 'run'?
""",
    ),
    Case(
        "an unknown option",
        GOOD,
        "run w.yaml --fersh",
        says="""\
error[E0120]: no such option '--fersh'
   = help: did you mean '--fresh'?
""",
    ),
    Case(
        "no file",
        GOOD,
        "run",
        says="""\
error[E0120]: missing argument 'FILE'
   = help: see 'dataflare run --help'
""",
    ),
    Case(
        "a file that is not there",
        GOOD,
        "run v.yaml",
        says="""\
error[E0114]: there is no workflow file 'v.yaml'
   = help: did you mean 'w.yaml'?
""",
    ),
    Case(
        "a folder",
        GOOD,
        "run .",
        says="""\
error[E0114]: '.' is a folder, not a workflow file
   = help: name a file in it
""",
    ),
    Case(
        "two files",
        GOOD,
        "run w.yaml w.yaml",
        says="""\
error[E0120]: got unexpected extra argument(s) (w.yaml)
   = help: see 'dataflare run --help'
""",
    ),
    Case(
        "an unknown parameter",
        GOOD,
        "run w.yaml --param dya=2024-01-01",
        says="""\
error[E0110]: unknown parameter 'dya'
 --> --param:1:1
  |
1 | dya=2024-01-01
  | ^^^
   = declared parameters: day, n
   = help: did you mean 'day'?
""",
    ),
    Case(
        "a parameter of another type",
        GOOD,
        "run w.yaml --param day=tomorrow",
        says="""\
error[E0110]: the value of parameter 'day' is not of the type date
 --> --param:1:5
  |
1 | day=tomorrow
  |     ^^^^^^^^
   = expected: a date such as 2023-01-31
   = help: change it: --param day=VALUE
""",
    ),
    Case(
        "a parameter too great",
        GOOD,
        "run w.yaml --param n=99999999999999999999",
        says="""\
error[E0110]: the value of parameter 'n' is not of the type int64
 --> --param:1:3
  |
1 | n=99999999999999999999
  |   ^^^^^^^^^^^^^^^^^^^^
   = expected: a whole number from -9223372036854775808 to 9223372036854775807
   = help: change it: --param n=VALUE
""",
    ),
    Case(
        "a parameter without a value",
        GOOD,
        "run w.yaml --param day",
        says="""\
error[E0120]: --param takes NAME=VALUE, not 'day'
   = help: see 'dataflare --help'
""",
    ),
    Case(
        "a path to set that is not there",
        GOOD,
        "run w.yaml --set sources.b.config=1",
        says="""\
error[E0104]: missing key 'type' in step 'b'
 --> --set:1:9
  |
1 | sources.b.config=1
  |         ^

error[E0302]: the source 'b' leads to no destination
 --> --set:1:9
  |
1 | sources.b.config=1
  |         ^
   = help: name it in the 'inputs' of another step, or in the 'source' of a lookup, or remove it

error[E0105]: 'config' of step 'b' must be a mapping
 --> --set:1:18
  |
1 | sources.b.config=1
  |                  ^
   = found: a whole number
   = help: write it in that form
""",
    ),
    Case(
        "a path to set below a value",
        GOOD,
        "run w.yaml --set name.x=1",
        says="""\
error[E0105]: there is nothing below here to set 'x' in
 --> --set:1:6
  |
1 | name.x=1
  |      ^
   = found: text
   = help: set the whole value instead
""",
    ),
    Case(
        "a value to set of another type",
        GOOD,
        "run w.yaml --set settings.parallelism=many",
        says="""\
error[E0105]: wrong value for 'parallelism' in 'settings'
 --> --set:1:22
  |
1 | settings.parallelism=many
  |                      ^^^^
   = expected: a whole number
   = found: text 'many'
""",
    ),
    Case(
        "an unknown setting to set",
        GOOD,
        "run w.yaml --set settings.paralelism=2",
        says="""\
error[E0103]: unknown key 'paralelism' in 'settings'
 --> --set:1:10
  |
1 | settings.paralelism=2
  |          ^^^^^^^^^^
   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, parallelism, resources, restart, run_column, schema_change, state
   = help: did you mean 'parallelism'?
""",
    ),
    Case(
        "a value to set that is not YAML",
        GOOD,
        "run w.yaml --set settings.parallelism=[2",
        says="""\
error[E0101]: not valid YAML: did not find expected ',' or ']'
 --> --set:1:24
  |
1 | settings.parallelism=[2
  |                        ^
   = while parsing a flow sequence that begins in line 1
""",
    ),
    Case(
        "a missing overlay",
        GOOD,
        "run w.yaml --overlay prod.yaml",
        says="""\
error[E0114]: there is no workflow file 'prod.yaml'
   = help: did you mean 'w.yaml'?
""",
    ),
    Case(
        "an overlay with a mistake",
        GOOD,
        "run w.yaml --overlay prod.yaml",
        files={"prod.yaml": "settings: {paralelism: 2}\n"},
        says="""\
error[E0103]: unknown key 'paralelism' in 'settings'
 --> prod.yaml:1:12
  |
1 | settings: {paralelism: 2}
  |            ^^^^^^^^^^
   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, parallelism, resources, restart, run_column, schema_change, state
   = help: did you mean 'parallelism'?
""",
    ),
    Case(
        "an invalid duration",
        GOOD,
        "run w.yaml --for soon",
        says="""\
error[E0120]: --for takes a duration such as 30s, 5m or 1h, not 'soon'
   = help: see 'dataflare run --help'
""",
    ),
    Case(
        "a negative duration",
        GOOD,
        "run w.yaml --for -5s",
        says="""\
error[E0120]: --for takes a duration such as 30s, 5m or 1h, not '-5s'
   = help: see 'dataflare run --help'
""",
    ),
    Case(
        "a preview of an unknown step",
        GOOD,
        "preview w.yaml kepe",
        says="""\
error[E0108]: there is no step 'kepe'
   = steps: a, keep, z
   = help: did you mean 'keep'?
""",
    ),
    Case(
        "a preview of no rows",
        GOOD,
        "preview w.yaml keep --rows 0",
        says="""\
error[E0120]: invalid value for '--rows' / '-n': Input should be greater than or equal to 1
   = help: see 'dataflare preview --help'
""",
    ),
    Case(
        "a plan in an unknown format",
        GOOD,
        "plan w.yaml --format pdf",
        says="""\
error[E0120]: invalid value for '--format' / '-f': 'pdf' is not one of 'text', 'mermaid', 'dot', 'svg', 'json'
   = help: see 'dataflare plan --help'
""",
    ),
    Case(
        "an unknown connector",
        GOOD,
        "connectors flie",
        says=f"""\
error[E0401]: unknown connector type 'flie'
   = known types: {", ".join(sorted({*source_types(), *destination_types()}))}
   = help: did you mean 'file'?
""",
    ),
    Case(
        "an unknown function",
        GOOD,
        "functions lenght",
        says="""\
error[E0202]: unknown function 'lenght'
   = help: did you mean 'length'?
""",
    ),
    Case(
        "the runs of an unknown workflow",
        GOOD,
        "runs v",
        says="""\
error[E0121]: no workflow 'v' has run here
   = looked in .dataflare
   = help: change to the folder of the workflow's file; its state is there in .dataflare
""",
    ),
    Case(
        "the checkpoints of a name that leaves the state folder",
        GOOD,
        "checkpoints ../../etc",
        says="""\
error[E0121]: no workflow '../../etc' has run here
   = looked in .dataflare
   = help: change to the folder of the workflow's file; its state is there in .dataflare
""",
    ),
]
