"""Keys, names and values in the wrong form: the whole error block."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text

CASES = {
    "an unknown section": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
transform: {}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0103]: unknown key 'transform' in the workflow
 --> w.yaml:4:1
  |
4 | transform: {}
  | ^^^^^^^^^
   = known keys: name, version, description, include, environments, params, settings, sources, transformations, destinations, alerts, notifiers, tests
   = help: did you mean 'transformations'?
""",
    ),
    "no name": (
        """\
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0104]: missing key 'name' in the workflow
 --> w.yaml:1:1
  |
1 | sources:
  | ^
   = help: name it: name: my_workflow
""",
    ),
    "a name that leaves its folder": (
        """\
name: ../My Flow
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0106]: '../My Flow' cannot be a workflow's name
 --> w.yaml:1:7
  |
1 | name: ../My Flow
  |       ^^^^^^^^^^
   = expected: a small letter, then small letters, digits, '_' and '-', at most 63
   = help: write 'my_flow'
""",
    ),
    "a later version": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
version: "2.0"
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0107]: version '2.0' of the file format is not known
 --> w.yaml:4:10
  |
4 | version: "2.0"
  |          ^^^^^
   = known versions: "1.0"
   = help: write version: "1.0"
""",
    ),
    "a version without its point": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
version: 1
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0107]: version '1' of the file format is not known
 --> w.yaml:4:10
  |
4 | version: 1
  |          ^
   = known versions: "1.0"
   = help: write version: "1.0"
""",
    ),
    "a misspelt type": (
        """\
name: w
sources:
  a: {tpye: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0104]: missing key 'type' in step 'a'
 --> w.yaml:3:3
  |
3 |   a: {tpye: inline, config: {rows: []}}
  |   ^

error[E0103]: unknown key 'tpye' in step 'a'
 --> w.yaml:3:7
  |
3 |   a: {tpye: inline, config: {rows: []}}
  |       ^^^^
   = known keys: type, config, schema, event_time, rate, error_handling, description, was
   = help: did you mean 'type'?
""",
    ),
    "a step name with a space": (
        """\
name: w
sources:
  1a b: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0106]: '1a b' cannot be a step's name
 --> w.yaml:3:3
  |
3 |   1a b: {type: inline, config: {rows: []}}
  |   ^^^^
   = expected: a letter or '_', then letters, digits, '_' and '-', at most 63
   = help: write 'a_b'

error[E0108]: step 'z' reads 'a', but there is no step 'a'
 --> w.yaml:5:33
  |
5 |   z: {type: blackhole, inputs: [a]}
  |                                 ^
   = it can read: 1a b
""",
    ),
    "sections that are not mappings": (
        """\
name: w
sources: [a]
destinations: 5
""",
        """\
error[E0105]: 'sources' of the workflow must be a mapping
 --> w.yaml:2:10
  |
2 | sources: [a]
  |          ^^^
   = found: a list
   = help: write it in that form

error[E0105]: 'destinations' of the workflow must be a mapping
 --> w.yaml:3:15
  |
3 | destinations: 5
  |               ^
   = found: a whole number
   = help: write it in that form
""",
    ),
    "a step that is not a mapping": (
        """\
name: w
sources: {a: inline}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: step 'a' must be a mapping
 --> w.yaml:2:14
  |
2 | sources: {a: inline}
  |              ^^^^^^
   = found: text
   = help: write it in that form
""",
    ),
    "a step that is empty": (
        """\
name: w
sources:
  a:
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: step 'a' must be a mapping
 --> w.yaml:3:5
  |
3 |   a:
  |     ^
   = found: nothing (null)
   = help: write it in that form
""",
    ),
    "no inputs": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole}
""",
        """\
error[E0104]: step 'z' has no inputs
 --> w.yaml:5:3
  |
5 |   z: {type: blackhole}
  |   ^
   = help: name the steps it reads: inputs: [step]
""",
    ),
    "empty inputs": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: []}
""",
        """\
error[E0104]: step 'z' has no inputs
 --> w.yaml:5:24
  |
5 |   z: {type: blackhole, inputs: []}
  |                        ^^^^^^
   = help: name the steps it reads: inputs: [step]
""",
    ),
    "a number as input": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [5]}
""",
        """\
error[E0105]: 'inputs' of step 'z' must be a list of step names
 --> w.yaml:5:33
  |
5 |   z: {type: blackhole, inputs: [5]}
  |                                 ^
   = found: a whole number
   = help: write it in that form
""",
    ),
    "a number as type": (
        """\
name: w
sources:
  a: {type: 5, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: the type of step 'a' must be text
 --> w.yaml:3:13
  |
3 |   a: {type: 5, config: {rows: []}}
  |             ^
   = found: a whole number
   = help: write it in that form
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
