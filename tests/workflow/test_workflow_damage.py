"""Whatever is done to a good file: it loads, or it is refused with errors that can be drawn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dataflare.errors import DataFlareError, ManyErrors, render
from dataflare.model.units import Duration
from dataflare.workflow import bind, load_text

GOOD = """\
name: w
version: "1.0"
params: {since: {type: timestamp, default: "2023-01-01T00:00:00Z"}}
settings: {parallelism: 2, checkpoint: {interval: 10s}, error_handling: {max_errors: 1%}}
x-common: &common {type: inline, config: {rows: [{a: 1}]}}
sources:
  a: *common
  b: {<<: *common, schema: {a: int64}, event_time: {column: a}}
transformations:
  t:
    type: filter
    inputs: [a, b]
    config:
      condition: >-
        a > 1 and
        b == '${param:since}' or ${A:-c}
destinations:
  z: {type: blackhole, inputs: [t], config: {mode: append, wait: 5s}}
tests:
  - {name: x, given: {a: [{a: 1}]}, expect: {z: []}}
"""

JUNK = st.sampled_from(
    [
        *(
            "",
            "\n",
            "  ",
            "\t",
            ":",
            "- ",
            "[",
            "]",
            "{",
            "}",
            "'",
            '"',
            "|",
            ">",
            "#",
            "&a",
            "*common",
        ),
        *(
            "*a",
            "!!x",
            "<<",
            "null",
            "5",
            "true",
            "${A}",
            "${",
            "$${",
            "${secret:S}",
            "---\n",
            "...\n",
        ),
        *(
            "a.b",
            "é",
            "\u2028",
            "\x85",
            "?",
            ",",
            "%",
            "@",
            "\r\n",
            "a: b\n",
            "x: {y: [",
            "0x",
            "1e999",
        ),
    ]
)


class Config(BaseModel):
    mode: str = "append"
    wait: Duration = 1.0


def check(text):
    try:
        workflow = load_text(text, file="w.yaml", environ={"A": "b"})
        for step in workflow.steps():
            bind(Config, step.config, step=step.name)
    except DataFlareError as error:
        for each in error.errors if isinstance(error, ManyErrors) else [error]:
            assert each.code.startswith("E0")
            assert each.exit_status == 2
            spot = each.spot
            if spot is not None and spot.text is not None:
                assert spot.column <= len(spot.text) + 1
        return render(error)
    return ""


def test_the_good_file_is_good():
    assert "unknown key 'rows' in step 'a'" in check(GOOD)
    assert (
        check(
            GOOD.replace("config: {rows: [{a: 1}]}", "config: {}").replace(
                "condition: >-", "mode: >-"
            )
        )
        == ""
    )


def test_rows_that_are_a_number_are_refused():
    assert "'given' of test 'x' must be a mapping" in check(
        GOOD.replace("{a: [{a: 1}]}, exp", "1.5, exp")
    )


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), JUNK), min_size=1, max_size=3)
)
def test_a_damaged_file_loads_or_is_refused(damages):
    text = GOOD
    for place, length, junk in damages:
        text = text[:place] + junk + text[place + length :]
    check(text)


@settings(max_examples=200)
@given(st.permutations(GOOD.splitlines(keepends=True)).map(lambda lines: "".join(lines[:15])))
def test_shuffled_lines_load_or_are_refused(text):
    check(text)
