"""Variables and parameters that cannot be filled in: the whole error block."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text

CASES = {
    "a missing environment variable": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: "a ${NOPE} b"
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:4:17
  |
4 | description: "a ${NOPE} b"
  |                 ^^^^^^^
   = help: set it, or give it a default: ${NOPE:-value}
""",
    ),
    "a variable missing twice and a secret": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: "a ${NOPE} b ${NOPE}${secret:S}"
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:4:17
  |
4 | description: "a ${NOPE} b ${NOPE}${secret:S}"
  |                 ^^^^^^^
   = also at w.yaml:4:27
   = help: set it, or give it a default: ${NOPE:-value}

error[E0110]: the secret 'S' was not found
 --> w.yaml:4:34
  |
4 | description: "a ${NOPE} b ${NOPE}${secret:S}"
  |                                  ^^^^^^^^^^^
   = looked in: the environment (DATAFLARE_SECRET_<NAME>, then <NAME>), the folder /run/secrets
""",
    ),
    "a parameter that is not a mapping": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
params: {since: timestamp}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: the parameter 'since' must be a mapping: type, default
 --> w.yaml:4:17
  |
4 | params: {since: timestamp}
  |                 ^^^^^^^^^
   = found: text
   = help: write it in that form
""",
    ),
    "four wrong parameters": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
params: {since: {type: timestamp}, n: {type: int8, default: 300}, x: {type: strin}}
description: ${param:sinse}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the parameter 'since' has no value
 --> w.yaml:4:10
  |
4 | params: {since: {type: timestamp}, n: {type: int8, default: 300}, x: {type: strin}}
  |          ^^^^^
   = it is of the type timestamp[us] and has no default
   = help: give it one: --param since=VALUE

error[E0105]: the value of parameter 'n' is not of the type int8
 --> w.yaml:4:61
  |
4 | params: {since: {type: timestamp}, n: {type: int8, default: 300}, x: {type: strin}}
  |                                                             ^^^
   = expected: a whole number from -128 to 127
   = help: fix the default, or the type

error[E0112]: unknown type 'strin'
 --> w.yaml:4:77
  |
4 | params: {since: {type: timestamp}, n: {type: int8, default: 300}, x: {type: strin}}
  |                                                                             ^^^^^
   = a type is written with its Arrow name: int64, string, timestamp[us, UTC], decimal(10, 2), list<string>, ...
   = help: did you mean 'string'?

error[E0110]: unknown parameter 'sinse'
 --> w.yaml:5:14
  |
5 | description: ${param:sinse}
  |              ^^^^^^^^^^^^^^
   = declared parameters: since, n, x
   = help: did you mean 'since'?
""",
    ),
    "text that looks like a variable": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: 'x ${foo bar} ${'
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: '${foo bar}' is not a variable
 --> w.yaml:4:17
  |
4 | description: 'x ${foo bar} ${'
  |                 ^^^^^^^^^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: write $${ for the characters ${

error[E0110]: '${' is not a variable
 --> w.yaml:4:28
  |
4 | description: 'x ${foo bar} ${'
  |                            ^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: write $${ for the characters ${
""",
    ),
    "a variable in a variable": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: 'x ${A:-${B}}'
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: a variable inside a variable
 --> w.yaml:4:17
  |
4 | description: 'x ${A:-${B}}'
  |                 ^^^^^^^^^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: write $${ for the characters ${
""",
    ),
    "a misspelt kind": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: '${params:x}'
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: '${params:x}' is not a variable
 --> w.yaml:4:15
  |
4 | description: '${params:x}'
  |               ^^^^^^^^^^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: did you mean 'param'?
""",
    ),
    "a default on a parameter": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: ${param:x:-3}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: '${param:x:-3}' is not a variable
 --> w.yaml:4:14
  |
4 | description: ${param:x:-3}
  |              ^^^^^^^^^^^^^
   = variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}
   = help: give the default where the parameter is declared
""",
    ),
    "a variable in a literal block": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: |
  all is well
    but ${NOPE} here
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:6:9
  |
6 |     but ${NOPE} here
  |         ^^^^^^^
   = help: set it, or give it a default: ${NOPE:-value}
""",
    ),
    "a variable in a folded block": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: >-
  all is well
  but ${NOPE} here
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:6:7
  |
6 |   but ${NOPE} here
  |       ^^^^^^^
   = help: set it, or give it a default: ${NOPE:-value}
""",
    ),
    "a variable after escapes": (
        r"""name: w
sources:
  a: {type: inline, config: {rows: []}}
description: "tab\t and \u00e9 ${NOPE} here"
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        r"""error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:4:32
  |
4 | description: "tab\t and \u00e9 ${NOPE} here"
  |                                ^^^^^^^
   = help: set it, or give it a default: ${NOPE:-value}
""",
    ),
    "a password in the line shown": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: "postgres://u:hunter2@db/${NOPE}"
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0110]: the environment variable 'NOPE' is not set
 --> w.yaml:4:39
  |
4 | description: "postgres://u:*******@db/${NOPE}"
  |                                       ^^^^^^^
   = help: set it, or give it a default: ${NOPE:-value}
""",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_block_says_what_is_wrong_where_and_what_to_do(case):
    text, block = CASES[case]
    with pytest.raises(DataFlareError) as caught:
        load_text(text, file="w.yaml", environ={})
    assert render(caught.value) == block.rstrip("\n")
    assert caught.value.exit_status == 2
