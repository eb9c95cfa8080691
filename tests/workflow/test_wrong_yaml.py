"""Text that is not YAML, or not plain data: the whole error block."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text

CASES = {
    "a tab in the indentation": (
        """\
name: w
	version: 1
""",
        """\
error[E0101]: not valid YAML: found a tab character that violates indentation
 --> w.yaml:2:1
  |
2 |  version: 1
  | ^
   = while scanning a plain scalar that begins in line 1
   = help: indent with spaces, not with tabs
""",
    ),
    "a tab before a key": (
        """\
name: w
sources:
	a: {type: x}
""",
        """\
error[E0101]: not valid YAML: found character that cannot start any token
 --> w.yaml:3:1
  |
3 |  a: {type: x}
  | ^
   = help: indent with spaces, not with tabs
""",
    ),
    "a list that is not closed": (
        """\
name: w
sources: {a: [1, 2
b: 3
""",
        """\
error[E0101]: not valid YAML: did not find expected ',' or ']'
 --> w.yaml:3:2
  |
3 | b: 3
  |  ^
   = while parsing a flow sequence that begins in line 2
""",
    ),
    "a quote that is not closed": (
        """\
name: "w
""",
        """\
error[E0101]: not valid YAML: the file ends while scanning a quoted scalar that begins here
 --> w.yaml:1:7
  |
1 | name: "w
  |       ^
""",
    ),
    "a colon in plain text": (
        """\
name: w
description: this: that
""",
        """\
error[E0101]: not valid YAML: mapping values are not allowed in this context
 --> w.yaml:2:18
  |
2 | description: this: that
  |                  ^
   = help: put text with ': ' in quotes
""",
    ),
    "a reserved character": (
        """\
name: @w
""",
        """\
error[E0101]: not valid YAML: found character that cannot start any token
 --> w.yaml:1:7
  |
1 | name: @w
  |       ^
   = help: put text that begins with this character in quotes
""",
    ),
    "a second document": (
        """\
name: w
---
name: v
""",
        """\
error[E0101]: a workflow file has one document, and a second begins here
 --> w.yaml:2:1
  |
2 | ---
  | ^^^
   = help: fix the text there
""",
    ),
    "a step given twice": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
  a: {type: inline}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0102]: the key 'a' is given twice
 --> w.yaml:4:3
  |
4 |   a: {type: inline}
  |   ^
   = first in line 3
   = help: remove one of the two, or rename it
""",
    ),
    "a key given twice": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
destinations:
  z: {type: blackhole, inputs: [a]}
name: x
""",
        """\
error[E0102]: the key 'name' is given twice
 --> w.yaml:6:1
  |
6 | name: x
  | ^^^^
   = first in line 1
   = help: remove one of the two, or rename it
""",
    ),
    "only a comment": (
        """\
# nothing
""",
        """\
error[E0104]: 'w.yaml' is empty
   = help: a workflow begins with: name: my_workflow
""",
    ),
    "a list": (
        """\
- a
- b
""",
        """\
error[E0105]: a workflow file must be a mapping of keys to values
 --> w.yaml:1:1
  |
1 | - a
  | ^^^
   = found: a list
   = help: a workflow begins with: name: my_workflow
""",
    ),
    "only text": (
        """\
hello
""",
        """\
error[E0105]: a workflow file must be a mapping of keys to values
 --> w.yaml:1:1
  |
1 | hello
  | ^^^^^
   = found: text
   = help: a workflow begins with: name: my_workflow
""",
    ),
    "a tag that would build an object": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: !!python/object:os.system {}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0113]: the tag '!!python/object:os.system' is not allowed
 --> w.yaml:4:14
  |
4 | description: !!python/object:os.system {}
  |              ^^^^^^^^^^^^^^^^^^^^^^^^^
   = a workflow holds plain data: text, numbers, true, false, null, lists, mappings
   = help: remove the tag, and quote the value if it is text
""",
    ),
    "an unknown tag": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: !Foo bar
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0113]: the tag '!Foo' is not allowed
 --> w.yaml:4:14
  |
4 | description: !Foo bar
  |              ^^^^
   = a workflow holds plain data: text, numbers, true, false, null, lists, mappings
   = help: remove the tag, and quote the value if it is text
""",
    ),
    "a tag for bytes": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
description: !!binary aGk=
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0113]: the tag '!!binary' is not allowed
 --> w.yaml:4:14
  |
4 | description: !!binary aGk=
  |              ^^^^^^^^
   = a workflow holds plain data: text, numbers, true, false, null, lists, mappings
   = help: remove the tag, and quote the value if it is text
""",
    ),
    "aliases that explode": (
        """\
a: &a [1,1,1,1,1,1,1,1,1,1]
b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]
c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]
e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]
""",
        """\
error[E0113]: the aliases of this file expand to more than 100,000 values
 --> w.yaml:5:29
  |
5 | e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]
  |                             ^^
   = help: keep data out of the file, or split it with 'include'
""",
    ),
    "an alias inside itself": (
        """\
name: &a [*a]
""",
        """\
error[E0113]: the alias '*a' is inside its own anchor
 --> w.yaml:1:11
  |
1 | name: &a [*a]
  |           ^^
   = help: keep data out of the file, or split it with 'include'
""",
    ),
    "an alias of nothing": (
        """\
name: *a
""",
        """\
error[E0101]: the alias '*a' has no anchor before it
 --> w.yaml:1:7
  |
1 | name: *a
  |       ^^
   = help: fix the text there
""",
    ),
    "nesting without end": (
        """\
x-a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
""",
        """\
error[E0113]: maps and lists are nested more than 100 deep
 --> w.yaml:1:105
  |
1 | x-a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
  |                                                                                                         ^
   = help: keep data out of the file, or split it with 'include'
""",
    ),
    "a key that is a list": (
        """\
? [a, b]
: c
""",
        """\
error[E0101]: a key must be text, not a mapping or a list
 --> w.yaml:1:3
  |
1 | ? [a, b]
  |   ^
   = help: fix the text there
""",
    ),
    "a merge of a number": (
        """\
name: w
sources:
  a: {type: inline, config: {rows: []}}
x-a: {<<: 5}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        """\
error[E0105]: '<<' merges a mapping, or a list of mappings
 --> w.yaml:4:11
  |
4 | x-a: {<<: 5}
  |           ^
   = help: write an alias of a mapping: <<: *name
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
