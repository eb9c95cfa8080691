"""Text that is not a workflow: YAML, keys, values, variables."""

from __future__ import annotations

from bad_case import Case

GOOD = """\
name: w
sources:
  a: {type: inline, config: {rows: [{id: 1}]}}
destinations:
  z: {type: blackhole, inputs: [a]}
"""

LAUGHS = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9) if before else 'ha, ha'}]\n"
    for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)

CASES = [
    Case(
        "a tab",
        """\
name: w
sources:
	a: {type: inline}
""",
        says="""\
error[E0101]: not valid YAML: found character that cannot start any token
 --> w.yaml:3:1
  |
3 |  a: {type: inline}
  | ^
   = help: indent with spaces, not with tabs
""",
    ),
    Case(
        "a YAML bomb",
        LAUGHS + GOOD,
        says="""\
error[E0113]: the aliases of this file expand to more than 100,000 values
 --> w.yaml:6:20
  |
6 | f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]
  |                    ^^
   = help: keep data out of the file, or split it with 'include'
""",
    ),
    Case(
        "a tag that would build an object",
        "name: !!python/object/apply:os.system ['id']\n",
        says="""\
error[E0113]: the tag '!!python/object/apply:os.system' is not allowed
 --> w.yaml:1:7
  |
1 | name: !!python/object/apply:os.system ['id']
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = a workflow holds plain data: text, numbers, true, false, null, lists, mappings
   = help: remove the tag, and quote the value if it is text
""",
    ),
    Case(
        "a file of a million lines",
        "# nothing to see here, but a lot of it\n" * 1_000_000 + GOOD,
        says="""\
error[E0113]: 'w.yaml' is too large for a workflow file
   = the limit is 8 MiB
   = help: split the file with 'include', and keep data out of it
""",
    ),
    Case(
        "a value on the last of a million lines",
        "\n" * 999_995 + GOOD.replace("inputs", "input"),
        says="""\
error[E0113]: 'w.yaml' is too long for a workflow file
   = the limit is 200,000 lines and 8 MiB
   = help: split the file with 'include', and keep data out of it
""",
    ),
    Case(
        "nested a thousand deep",
        "name: w\nx-deep: " + "[" * 1000 + "]" * 1000 + "\n",
        says="""\
error[E0113]: maps and lists are nested more than 100 deep
 --> w.yaml:2:108
   = help: keep data out of the file, or split it with 'include'
""",
    ),
    Case(
        "UTF-16",
        GOOD.encode("utf-16"),
        "validate w.yaml",
        says="""\
error[E0101]: 'w.yaml' is not UTF-8 text
 --> w.yaml:1:1
  |
1 | \ufffd
  | ^
   = byte 0 is 0xff
   = help: save the file in the encoding UTF-8
""",
    ),
    Case(
        "latin-1",
        GOOD.replace("w\n", "w # caf\xe9\n", 1).encode("latin-1"),
        "validate w.yaml",
        says="""\
error[E0101]: 'w.yaml' is not UTF-8 text
 --> w.yaml:1:14
  |
1 | name: w # caf\ufffd
  |              ^
   = byte 13 is 0xe9
   = help: save the file in the encoding UTF-8
""",
    ),
    Case(
        "a NUL byte",
        GOOD.replace("id: 1", "id: \0"),
        "validate w.yaml",
        says="""\
error[E0101]: not valid YAML: the character U+0000 is not allowed in a file
 --> w.yaml:3:42
  |
3 |   a: {type: inline, config: {rows: [{id: \ufffd}]}}
  |                                          ^
   = help: write it as an escape in double quotes: "\\u0000"
""",
    ),
    Case(
        "an empty file",
        "",
        "validate w.yaml",
        files={"w.yaml": ""},
        says="""\
error[E0104]: 'w.yaml' is empty
   = help: a workflow begins with: name: my_workflow
""",
    ),
    Case(
        "a name that leaves the state folder",
        GOOD.replace("name: w", "name: ../../etc/cron.d/w"),
        says="""\
error[E0106]: '../../etc/cron.d/w' cannot be a workflow's name
 --> w.yaml:1:7
  |
1 | name: ../../etc/cron.d/w
  |       ^^^^^^^^^^^^^^^^^^
   = expected: a small letter, then small letters, digits, '_' and '-', at most 63
   = help: write 'etc_cron_d_w'
""",
    ),
    Case(
        "a step name that leaves the state folder",
        GOOD.replace("a:", "../a:").replace("[a]", "[../a]"),
        says="""\
error[E0106]: '../a' cannot be a step's name
 --> w.yaml:3:3
  |
3 |   ../a: {type: inline, config: {rows: [{id: 1}]}}
  |   ^^^^
   = expected: a letter or '_', then letters, digits, '_' and '-', at most 63
   = help: write 'a'
""",
    ),
    Case(
        "an unknown key",
        GOOD.replace("sources:", "setings: {parallelism: 2}\nsources:"),
        says="""\
error[E0103]: unknown key 'setings' in the workflow
 --> w.yaml:2:1
  |
2 | setings: {parallelism: 2}
  | ^^^^^^^
   = known keys: name, version, description, include, environments, params, settings, sources, transformations, destinations, alerts, notifiers, tests
   = help: did you mean 'settings'?
""",
    ),
    Case(
        "an unknown setting",
        GOOD.replace("sources:", "settings: {paralelism: 2}\nsources:"),
        says="""\
error[E0103]: unknown key 'paralelism' in 'settings'
 --> w.yaml:2:12
  |
2 | settings: {paralelism: 2}
  |            ^^^^^^^^^^
   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, parallelism, resources, restart, run_column, schema_change, state
   = help: did you mean 'parallelism'?
""",
    ),
    Case(
        "a setting of another type",
        GOOD.replace("sources:", "settings: {parallelism: many}\nsources:"),
        says="""\
error[E0105]: wrong value for 'parallelism' in 'settings'
 --> w.yaml:2:25
  |
2 | settings: {parallelism: many}
  |                         ^^^^
   = expected: a whole number
   = found: text 'many'
""",
    ),
    Case(
        "a duration without a unit",
        GOOD.replace("sources:", "settings: {checkpoint: {interval: 10}}\nsources:"),
        says="""\
error[E0105]: wrong value for 'checkpoint.interval' in 'settings'
 --> w.yaml:2:35
  |
2 | settings: {checkpoint: {interval: 10}}
  |                                   ^^
   = expected: a duration such as 250ms, 10s, 5m, 1h or 7d
   = found: 10
""",
    ),
    Case(
        "a version from the future",
        GOOD.replace("sources:", 'version: "7"\nsources:'),
        says="""\
error[E0107]: version '7' of the file format is not known
 --> w.yaml:2:10
  |
2 | version: "7"
  |          ^^^
   = known versions: "1.0"
   = help: write version: "1.0"
""",
    ),
    Case(
        "an unknown source type",
        GOOD.replace("inline", "inlien"),
        says="""\
error[E0401]: unknown source type 'inlien' (step 'a')
 --> w.yaml:3:13
  |
3 |   a: {type: inlien, config: {rows: [{id: 1}]}}
  |             ^^^^^^
   = known types: clickhouse, delta, duckdb, dynamodb, elasticsearch, file, generate, http, iceberg, inline, kafka, kinesis, memory, mqtt, mysql, nats, opensearch, postgres, pulsar, python, rabbitmq, redis, socket, sqlite, sqs, sse, stdin, syslog, webhook, websocket
   = help: did you mean 'inline'?
""",
    ),
    Case(
        "an unknown destination type",
        GOOD.replace("blackhole", "blakchole"),
        says="""\
error[E0401]: unknown destination type 'blakchole' (step 'z')
 --> w.yaml:5:13
  |
5 |   z: {type: blakchole, inputs: [a]}
  |             ^^^^^^^^^
   = known types: blackhole, clickhouse, delta, duckdb, elasticsearch, file, http, iceberg, kafka, kinesis, memory, mqtt, mysql, nats, opensearch, postgres, pulsar, python, rabbitmq, redis, socket, sqlite, sqs, stdout, websocket
   = help: did you mean 'blackhole'?
""",
    ),
    Case(
        "an unknown step type",
        GOOD.replace(
            "destinations:", "transformations:\n  f: {type: fliter, inputs: [a]}\ndestinations:"
        ).replace("z: {type: blackhole, inputs: [a]}", "z: {type: blackhole, inputs: [f]}"),
        says="""\
error[E0313]: unknown step type 'fliter' (step 'f')
 --> w.yaml:5:13
  |
5 |   f: {type: fliter, inputs: [a]}
  |             ^^^^^^
   = known types: map, filter, route, validate, flatten, explode, parse, mask, sample, limit, deduplicate, history, sort, union, lookup, join, aggregate, window, python, sql
   = help: did you mean 'filter'?
""",
    ),
    Case(
        "a step type of a later version",
        GOOD.replace(
            "destinations:", "transformations:\n  f: {type: wasm, inputs: [a]}\ndestinations:"
        ).replace("z: {type: blackhole, inputs: [a]}", "z: {type: blackhole, inputs: [f]}"),
        says="""\
error[E0314]: the step type 'wasm' is not available in this version (step 'f')
 --> w.yaml:5:13
  |
5 |   f: {type: wasm, inputs: [a]}
  |             ^^^^
   = available: map, filter, route, validate, flatten, explode, parse, mask, sample, limit, deduplicate, history, sort, union, lookup, join, aggregate, window, python, sql
   = help: leave the step out, or do its work with one of these
""",
    ),
    Case(
        "no type",
        GOOD.replace("type: blackhole, ", ""),
        says="""\
error[E0104]: missing key 'type' in step 'z'
 --> w.yaml:5:3
  |
5 |   z: {inputs: [a]}
  |   ^
""",
    ),
    Case(
        "an unknown option of a connector",
        GOOD.replace("config: {rows: [{id: 1}]}", "config: {rosw: [{id: 1}]}"),
        says="""\
error[E0403]: unknown key 'rosw' in step 'a'
 --> w.yaml:3:30
  |
3 |   a: {type: inline, config: {rosw: [{id: 1}]}}
  |                              ^^^^
   = known keys: changelog, rows, watermarks
   = help: did you mean 'rows'?
""",
    ),
    Case(
        "a config that is a list",
        GOOD.replace("config: {rows: [{id: 1}]}", "config: [rows]"),
        says="""\
error[E0105]: 'config' of step 'a' must be a mapping
 --> w.yaml:3:29
  |
3 |   a: {type: inline, config: [rows]}
  |                             ^^^^^^
   = found: a list
   = help: write it in that form
""",
    ),
    Case(
        "an unset variable",
        GOOD.replace("id: 1", 'id: "${NOT_SET_ANYWHERE}"'),
        says="""\
error[E0110]: the environment variable 'NOT_SET_ANYWHERE' is not set
 --> w.yaml:3:43
  |
3 |   a: {type: inline, config: {rows: [{id: "${NOT_SET_ANYWHERE}"}]}}
  |                                           ^^^^^^^^^^^^^^^^^^^
   = help: set it, or give it a default: ${NOT_SET_ANYWHERE:-value}
""",
    ),
    Case(
        "a missing secret",
        GOOD.replace("id: 1", 'id: "${secret:NOT_THERE}"'),
        says="""\
error[E0110]: the secret 'NOT_THERE' was not found
 --> w.yaml:3:43
  |
3 |   a: {type: inline, config: {rows: [{id: "${secret:NOT_THERE}"}]}}
  |                                           ^^^^^^^^^^^^^^^^^^^
   = looked in: the environment (DATAFLARE_SECRET_<NAME>, then <NAME>), the folder /run/secrets
""",
    ),
    Case(
        "a variable that is not closed",
        GOOD.replace("id: 1", 'id: "${HOME"'),
        says="""\
error[E0110]: '${' is not a variable
 --> w.yaml:3:43
  |
3 |   a: {type: inline, config: {rows: [{id: "${HOME"}]}}
  |                                           ^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: write $${ for the characters ${
""",
    ),
    Case(
        "an undeclared parameter",
        GOOD.replace("id: 1", 'id: "${param:nope}"'),
        says="""\
error[E0110]: unknown parameter 'nope'
 --> w.yaml:3:43
  |
3 |   a: {type: inline, config: {rows: [{id: "${param:nope}"}]}}
  |                                           ^^^^^^^^^^^^^
   = no parameters are declared
   = help: declare it: params: {nope: {type: string}}
""",
    ),
    Case(
        "a parameter without a value",
        GOOD.replace("sources:", "params: {day: {type: date}}\nsources:").replace(
            "id: 1", 'id: "${param:day}"'
        ),
        says="""\
error[E0110]: the parameter 'day' has no value
 --> w.yaml:2:10
  |
2 | params: {day: {type: date}}
  |          ^^^
   = it is of the type date and has no default
   = help: give it one: --param day=VALUE
""",
    ),
    Case(
        "a default of another type",
        GOOD.replace("sources:", "params: {day: {type: date, default: soon}}\nsources:").replace(
            "id: 1", 'id: "${param:day}"'
        ),
        says="""\
error[E0105]: the value of parameter 'day' is not of the type date
 --> w.yaml:2:37
  |
2 | params: {day: {type: date, default: soon}}
  |                                     ^^^^
   = expected: a date such as 2023-01-31
   = help: fix the default, or the type
""",
    ),
    Case(
        "a secret where a number goes",
        GOOD.replace("sources:", 'settings: {parallelism: "${secret:TOP_SECRET}"}\nsources:'),
        says="""\
error[E0105]: wrong value for 'parallelism' in 'settings'
 --> w.yaml:2:25
  |
2 | settings: {parallelism: "${secret:TOP_SECRET}"}
  |                         ^^^^^^^^^^^^^^^^^^^^^^
   = expected: a whole number
   = found: text '${secret:TOP_SECRET}'
""",
    ),
    Case(
        "a missing include",
        GOOD + "include: [common.yaml]\n",
        says="""\
error[E0111]: cannot read 'common.yaml': there is no such file
 --> w.yaml:6:11
  |
6 | include: [common.yaml]
  |           ^^^^^^^^^^^
   = help: see whether the file is there and may be read
""",
    ),
    Case(
        "files that include one another",
        GOOD + "include: [b.yaml]\n",
        files={"b.yaml": "include: [w.yaml]\n"},
        says="""\
error[E0111]: files include one another in a circle
 --> b.yaml:1:11
  |
1 | include: [w.yaml]
  |           ^^^^^^
   = w.yaml -> b.yaml -> w.yaml
   = help: remove the include from one of them
""",
    ),
]
