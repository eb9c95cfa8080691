"""Settings and the settings of steps: the whole error block."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text

CASES = {
    "settings with five slips": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
settings:
  paralelism: 4
  mode: bach
  checkpoint: {interval: 10, retain: x}
  resources: {memory: 1GB2}
  batch: {min: 10, max: 5}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0103]: unknown key 'paralelism' in 'settings'
 --> w.yaml:5:3
  |
5 |   paralelism: 4
  |   ^^^^^^^^^^
   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, parallelism, resources, restart, run_column, schema_change, state
   = help: did you mean 'parallelism'?

error[E0105]: wrong value for 'mode' in 'settings'
 --> w.yaml:6:9
  |
6 |   mode: bach
  |         ^^^^
   = expected: one of 'auto', 'batch', 'streaming'
   = found: text 'bach'
   = help: did you mean 'batch'?

error[E0105]: wrong value for 'checkpoint.interval' in 'settings'
 --> w.yaml:7:26
  |
7 |   checkpoint: {interval: 10, retain: x}
  |                          ^^
   = expected: a duration such as 250ms, 10s, 5m, 1h or 7d
   = found: 10

error[E0105]: wrong value for 'checkpoint.retain' in 'settings'
 --> w.yaml:7:38
  |
7 |   checkpoint: {interval: 10, retain: x}
  |                                      ^
   = expected: a whole number
   = found: text 'x'

error[E0105]: wrong value for 'resources.memory' in 'settings'
 --> w.yaml:8:23
  |
8 |   resources: {memory: 1GB2}
  |                       ^^^^
   = expected: a size such as 512KiB, 64MiB or 2GiB
   = found: text '1GB2'

error[E0105]: 'batch' in 'settings': 'min' (10) is above 'max' (5)
 --> w.yaml:9:10
  |
9 |   batch: {min: 10, max: 5}
  |          ^^^^^^^^^^^^^^^^^
""",
    ),
    "settings that are text": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
settings: fast
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: 'settings' of the workflow must be a mapping
 --> w.yaml:4:11
  |
4 | settings: fast
  |           ^^^^
   = found: text
   = help: write it in that form
""",
    ),
    "a double quoted value": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
settings: {mode: "bach"}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: wrong value for 'mode' in 'settings'
 --> w.yaml:4:18
  |
4 | settings: {mode: "bach"}
  |                  ^^^^^^
   = expected: one of 'auto', 'batch', 'streaming'
   = found: text 'bach'
   = help: did you mean 'batch'?
""",
    ),
    "a single quoted value": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
settings: {mode: 'bach'}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: wrong value for 'mode' in 'settings'
 --> w.yaml:4:18
  |
4 | settings: {mode: 'bach'}
  |                  ^^^^^^
   = expected: one of 'auto', 'batch', 'streaming'
   = found: text 'bach'
   = help: did you mean 'batch'?
""",
    ),
    "columns of unknown types": (
        """\
name: w
sources:
  a: {type: inline, schema: {a: int46, b: [x]}, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0112]: unknown type 'int46'
 --> w.yaml:3:33
  |
3 |   a: {type: inline, schema: {a: int46, b: [x]}, config: {rows: []}}
  |                                 ^^^^^
   = a type is written with its Arrow name: int64, string, timestamp[us, UTC], decimal(10, 2), list<string>, ...
   = help: did you mean 'int64'?

error[E0105]: the type of the column 'b' must be text
 --> w.yaml:3:43
  |
3 |   a: {type: inline, schema: {a: int46, b: [x]}, config: {rows: []}}
  |                                           ^^^
   = found: a list
   = help: write it in that form
""",
    ),
    "event time with three slips": (
        """\
name: w
sources:
  a: {type: inline, event_time: {colum: at, out_of_orderness: 5}, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0103]: unknown key 'colum' in 'event_time' of step 'a'
 --> w.yaml:3:34
  |
3 |   a: {type: inline, event_time: {colum: at, out_of_orderness: 5}, config: {rows: []}}
  |                                  ^^^^^
   = known keys: column, idle_timeout, max_drift, max_future, out_of_orderness
   = help: did you mean 'column'?

error[E0105]: wrong value for 'out_of_orderness' in 'event_time' of step 'a'
 --> w.yaml:3:63
  |
3 |   a: {type: inline, event_time: {colum: at, out_of_orderness: 5}, config: {rows: []}}
  |                                                               ^
   = expected: a duration such as 250ms, 10s, 5m, 1h or 7d
   = found: 5
""",
    ),
    "error handling with two slips": (
        """\
name: w
sources:
  a: {type: inline, error_handling: {retry_count: 3, retry_policy: {max_attempts: 3}, on_error: drop, max_errors: 120%}, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: wrong value for 'on_error' in 'error_handling' of step 'a'
 --> w.yaml:3:97
  |
3 |   a: {type: inline, error_handling: {retry_count: 3, retry_policy: {max_attempts: 3}, on_error: drop, max_errors: 120%}, config: {rows: []}}
  |                                                                                                 ^^^^
   = expected: one of 'fail', 'skip', 'dead_letter'
   = found: text 'drop'

error[E0105]: wrong value for 'max_errors' in 'error_handling' of step 'a'
 --> w.yaml:3:115
  |
3 |   a: {type: inline, error_handling: {retry_count: 3, retry_policy: {max_attempts: 3}, on_error: drop, max_errors: 120%}, config: {rows: []}}
  |                                                                                                                   ^^^^
   = expected: a number of rows such as 1000, or a share such as 1%
   = found: text '120%'
""",
    ),
    "retries given twice": (
        """\
name: w
sources:
  a: {type: inline, error_handling: {retry_count: 3, retry_policy: {max_attempts: 3}}, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: 'error_handling' of step 'a': 'retry_count' and 'retry_policy' mean the same: give one of them
 --> w.yaml:3:38
  |
3 |   a: {type: inline, error_handling: {retry_count: 3, retry_policy: {max_attempts: 3}}, config: {rows: []}}
  |                                      ^^^^^^^^^^^
""",
    ),
    "retries in config and error handling": (
        """\
name: w
sources:
  a: {type: inline, error_handling: {retry_count: 3}, config: {retry_policy: {max_attempts: 3}, rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: step 'a' has two retry policies: in 'config' and in 'error_handling'
 --> w.yaml:3:64
  |
3 |   a: {type: inline, error_handling: {retry_count: 3}, config: {retry_policy: {max_attempts: 3}, rows: []}}
  |                                                                ^^^^^^^^^^^^
   = help: give one of them
""",
    ),
    "a misspelt key two levels down": (
        """\
name: w
sources:
  a: {type: inline, error_handling: {dead_letter: {pth: x}}, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0103]: unknown key 'dead_letter.pth' in 'error_handling' of step 'a'
 --> w.yaml:3:52
  |
3 |   a: {type: inline, error_handling: {dead_letter: {pth: x}}, config: {rows: []}}
  |                                                    ^^^
   = known keys: config, path, type
   = help: did you mean 'path'?
""",
    ),
    "tests with many slips": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
tests:
  - {name: t, given: {b: []}, expect: {z: [5]}}
  - {name: u, givn: {}}
  - 7
""",
        """\
error[E0108]: test 't' names 'b', which is not a step of this workflow
 --> w.yaml:7:23
  |
7 |   - {name: t, given: {b: []}, expect: {z: [5]}}
  |                       ^
   = its steps: a

error[E0105]: a row in 'expect.z' of test 't' must be a mapping
 --> w.yaml:7:44
  |
7 |   - {name: t, given: {b: []}, expect: {z: [5]}}
  |                                            ^
   = found: a whole number
   = help: write it in that form

error[E0104]: missing key 'given' in test 'u'
 --> w.yaml:8:5
  |
8 |   - {name: u, givn: {}}
  |     ^^^^^^^^^^^^^^^^^^^

error[E0104]: missing key 'expect' in test 'u'
 --> w.yaml:8:5
  |
8 |   - {name: u, givn: {}}
  |     ^^^^^^^^^^^^^^^^^^^

error[E0103]: unknown key 'givn' in test 'u'
 --> w.yaml:8:15
  |
8 |   - {name: u, givn: {}}
  |               ^^^^
   = known keys: name, description, params, given, expect, ordered
   = help: did you mean 'given'?

error[E0105]: a test must be a mapping: name, given, expect
 --> w.yaml:9:5
  |
9 |   - 7
  |     ^
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
