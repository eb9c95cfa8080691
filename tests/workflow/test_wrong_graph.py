"""Graphs that cannot run: the whole error block."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text

CASES = {
    "an unknown input": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [aa]}
""",
        """\
error[E0108]: step 'z' reads 'aa', but there is no step 'aa'
 --> w.yaml:5:33
  |
5 |   z: {type: blackhole, inputs: [aa]}
  |                                 ^^
   = it can read: a
   = help: did you mean 'a'?
""",
    ),
    "a destination as input": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
  y: {type: blackhole, inputs: [z]}
""",
        """\
error[E0108]: step 'y' reads 'z', which is a destination
 --> w.yaml:6:33
  |
6 |   y: {type: blackhole, inputs: [z]}
  |                                 ^
   = it can read: a
   = help: to get its rows while its system is away, 'z' needs error_handling: {circuit_breaker: {fallback: y}}
""",
    ),
    "no destinations": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
""",
        """\
error[E0104]: the workflow has no destinations
 --> w.yaml:1:1
  |
1 | name: w
  | ^
   = help: a workflow has at least one source and one destination
""",
    ),
    "no sources": (
        """\
name: w
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0104]: the workflow has no sources
 --> w.yaml:1:1
  |
1 | name: w
  | ^
   = help: a workflow has at least one source and one destination
""",
    ),
    "a name used in two sections": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  a: {type: blackhole, inputs: [a]}
""",
        """\
error[E0109]: two steps have the name 'a'
 --> w.yaml:5:3
  |
5 |   a: {type: blackhole, inputs: [a]}
  |   ^
   = the first is in 'sources', line 3
   = help: a name is unique over the whole file: rename one of them
""",
    ),
    "a circle of three": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
transformations:
  b: {type: union, inputs: [a, d]}
  c: {type: filter, inputs: [b]}
  d: {type: filter, inputs: [c]}
destinations:
  z: {type: blackhole, inputs: [d]}
""",
        """\
error[E0301]: the steps form a circle: b -> c -> d -> b
 --> w.yaml:6:30
  |
6 |   c: {type: filter, inputs: [b]}
  |                              ^
   = help: remove one of these inputs: rows must come from a source
""",
    ),
    "a step that reads itself": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
transformations:
  b: {type: union, inputs: [b]}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0301]: the steps form a circle: b -> b
 --> w.yaml:5:29
  |
5 |   b: {type: union, inputs: [b]}
  |                             ^
   = help: remove one of these inputs: rows must come from a source
""",
    ),
    "an unread source": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
  b: {type: inline}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0302]: the source 'b' leads to no destination
 --> w.yaml:4:3
  |
4 |   b: {type: inline}
  |   ^
   = help: name it in the 'inputs' of another step, or in the 'source' of a lookup, or remove it
""",
    ),
    "an unread transformation": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
transformations:
  b: {type: filter, inputs: [a]}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0302]: the transformation 'b' leads to no destination
 --> w.yaml:5:3
  |
5 |   b: {type: filter, inputs: [a]}
  |   ^
   = help: name it in the 'inputs' of another step or remove it
""",
    ),
    "a lookup in no source": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
transformations:
  b: {type: lookup, inputs: [a], config: {source: tabel}}
destinations:
  z: {type: blackhole, inputs: [b]}
""",
        """\
error[E0108]: step 'b' looks up in 'tabel', which is not a source of this workflow
 --> w.yaml:5:51
  |
5 |   b: {type: lookup, inputs: [a], config: {source: tabel}}
  |                                                   ^^^^^
   = its sources: a
""",
    ),
    "slips in many places": (
        """\
nam: w
sources:
  a: {type: inline, config: {rows: []}}
settings: {modus: x}
destinations:
  z-: {type: blackhole, inputs: [b]}
""",
        """\
error[E0103]: unknown key 'nam' in the workflow
 --> w.yaml:1:1
  |
1 | nam: w
  | ^^^
   = known keys: name, version, description, include, environments, params, settings, sources, transformations, destinations, alerts, notifiers, tests
   = help: did you mean 'name'?

error[E0104]: missing key 'name' in the workflow
 --> w.yaml:1:1
  |
1 | nam: w
  | ^
   = help: name it: name: my_workflow

error[E0103]: unknown key 'modus' in 'settings'
 --> w.yaml:4:12
  |
4 | settings: {modus: x}
  |            ^^^^^
   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, parallelism, resources, restart, run_column, schema_change, state
   = help: did you mean 'mode'?

error[E0108]: step 'z-' reads 'b', but there is no step 'b'
 --> w.yaml:6:34
  |
6 |   z-: {type: blackhole, inputs: [b]}
  |                                  ^
   = it can read: a
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
