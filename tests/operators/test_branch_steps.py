"""`filter`, `route` and `validate`: which rows go where."""

from __future__ import annotations

import pytest
from flows import ended, failure, flow, memory, ordered, picture, refused, result_of

ROWS = [
    {"n": 1, "t": "x"},
    {"n": 2, "t": None},
    {"n": None, "t": "y"},
    {"n": 4, "t": "y"},
]


def numbers(rows: list[dict[str, object]]) -> list[object]:
    return [row["n"] for row in rows]


def test_a_filter_keeps_what_is_true_and_null_is_not():
    made = result_of("step: {type: filter, inputs: [s], config: {condition: n > 1}}", s=ROWS)
    assert numbers(made) == [2, 4]


def test_the_rejected_are_all_the_others():
    kept, rejected = result_of(
        "step: {type: filter, inputs: [s], config: {condition: n > 1}}",
        s=ROWS,
        outputs={"kept": "step", "rejected": "step.rejected"},
    )
    assert (numbers(kept), numbers(rejected)) == ([2, 4], [1, None])


def test_the_rejected_may_be_read_alone():
    made = result_of(
        "step: {type: filter, inputs: [s], config: {condition: t = 'y'}}",
        s=ROWS,
        outputs="step.rejected",
    )
    assert numbers(made) == [1, 2]


ROUTES = {"low": "step.low", "some": "step.some", "rest": "step.rest"}


@pytest.mark.parametrize(
    ("match", "some"),
    [("first", [4]), ("all", [1, 4])],
)
def test_rows_go_to_the_first_route_or_to_all(match: str, some: list[int]):
    config = f"routes: {{low: n < 2, some: \"t IN ('x', 'y') AND n > 0\"}}, match: {match}"
    low, found, rest = result_of(
        f"step: {{type: route, inputs: [s], config: {{{config}, default: rest}}}}",
        s=ROWS,
        outputs=ROUTES,
    )
    assert (numbers(low), numbers(found), numbers(rest)) == ([1], some, [2, None])


def test_without_a_default_the_others_leave_the_workflow():
    config = "{routes: {low: n < 2, high: n > 3}}"
    low, high = result_of(
        f"step: {{type: route, inputs: [s], config: {config}}}",
        s=ROWS,
        outputs={"low": "step.low", "high": "step.high"},
    )
    assert (numbers(low), numbers(high)) == ([1], [4])


def test_a_row_that_has_met_a_route_is_not_asked_about_the_next():
    config = "{routes: {text: \"t IN ('x', 'y')\", number: CAST(t AS int64) > 1}, default: rest}"
    text, number = result_of(
        f"step: {{type: route, inputs: [s], config: {config}}}",
        s=[*ROWS, {"n": 5, "t": "7"}],
        outputs={"text": "step.text", "number": "step.number"},
    )
    assert (numbers(text), numbers(number)) == ([1, None, 4], [5])
    error = failure(
        f"step: {{type: route, inputs: [s], config: {config[:-1]}, match: all}}}}",
        s=ROWS,
        outputs={"text": "step.text", "number": "step.number"},
    )
    assert "number: CAST(t AS int64) > 1" in error.message


def test_an_output_that_is_none_is_refused():
    assert refused(
        "step: {type: route, inputs: [s], config: {routes: {low: n < 2}}}",
        s=ROWS,
        outputs="step.lwo",
    ) == (
        "error[E0108]: step 'out' reads 'step.lwo', which is not an output of 'step'\n"
        " --> flow.yaml:8:32\n"
        "  |\n"
        "8 |   out: {type: memory, inputs: [step.lwo]}\n"
        "  |                                ^^^^^^^^\n"
        "   = its outputs: step.low\n"
        "   = help: did you mean 'step.low'?"
    )


def test_a_route_has_no_output_of_its_own():
    block = refused("step: {type: route, inputs: [s], config: {routes: {low: n < 2}}}", s=ROWS)
    assert block.startswith("error[E0108]: step 'out' reads 'step'")


def checked(rules: str, **more: object) -> object:
    return result_of(
        f"step: {{type: validate, inputs: [s], config: {{rules: [{rules}]}}}}", s=ROWS, **more
    )


BOTH = {"good": "step", "failed": "step.failed"}


def test_rows_that_break_a_rule_leave_by_the_failed_output():
    good, failed = checked(
        "{name: big, expect: n > 1}, {name: text, expect: t IS NOT NULL}", outputs=BOTH
    )
    assert good == [{"n": 4, "t": "y"}]
    assert failed == [
        {"n": 1, "t": "x", "failed_rules": ["big"]},
        {"n": 2, "t": None, "failed_rules": ["text"]},
        {"n": None, "t": "y", "failed_rules": ["big"]},
    ]


def test_tagged_rows_stay_with_the_names_of_the_rules():
    assert checked(
        "{name: big, expect: n > 1, on_fail: tag}, {name: x, expect: \"t = 'x'\", on_fail: tag}"
    ) == [
        {"n": 1, "t": "x", "failed_rules": ["big"]},
        {"n": 2, "t": None, "failed_rules": ["x"]},
        {"n": None, "t": "y", "failed_rules": ["big", "x"]},
        {"n": 4, "t": "y", "failed_rules": ["x"]},
    ]


def test_a_warning_only_counts():
    workflow = flow(
        "step: {type: validate, inputs: [s], config: "
        "{rules: [{name: big, expect: n > 1, on_fail: warn}]}}",
        s=ROWS,
    )
    assert ended(workflow).warnings == ["step 'step': rule 'big' is broken in 2 rows"]
    assert memory.take("out").rows(named=True) == ROWS


def test_a_rule_that_says_fail_fails_the_run_whatever_the_step_says():
    error = failure(
        "step: {type: validate, inputs: [s], config: {rules: "
        "[{name: big, expect: n > 1, on_fail: fail}]}, error_handling: {on_error: skip}}",
        s=ROWS,
    )
    assert error.code == "E0540"
    assert "rule 'big': n > 1" in error.message


@pytest.mark.parametrize(
    ("step", "code", "token"),
    [
        ("type: filter, inputs: [s], config: {condition: nn > 1}", "E0203", "nn"),
        ("type: filter, inputs: [s], config: {condition: n}", "E0204", "n}"),
        ("type: filter, inputs: [s], config: {}", "E0404", "config"),
        ("type: route, inputs: [s], config: {routes: {a: n > 'x'}}", "E0204", "n >"),
        ("type: route, inputs: [s], config: {routes: {a: n > 1}, default: a}", "E0405", "a}"),
        ("type: route, inputs: [s], config: {routes: {}}", "E0405", "route"),
        ("type: validate, inputs: [s], config: {rules: []}", "E0405", "validate"),
        (
            "type: validate, inputs: [s], config: {rules: [{name: a, expect: n > 1}, "
            "{name: a, expect: n > 2}]}",
            "E0405",
            "a, expect: n > 2",
        ),
        (
            "type: validate, inputs: [s], config: {rules: [{name: a, expect: n > 1, on_fail: dorp}]}",
            "E0405",
            "dorp",
        ),
    ],
)
def test_errors_point_to_the_very_word(step: str, code: str, token: str):
    header, _, line, carets, *_ = picture(
        f"step: {{{step}}}", s=ROWS, outputs="step.a" if "route" in step else "step"
    )
    assert header.startswith(f"error[{code}]"), header
    assert line[carets.index("^") :].startswith(token)


def test_rows_with_errors_may_be_skipped_anywhere():
    made = result_of(
        "step: {type: filter, inputs: [s], config: {condition: CAST(t AS int64) > 1}, "
        "error_handling: {on_error: skip}}",
        s=[{"t": "1"}, {"t": "x"}, {"t": "2"}, {"t": None}],
        outputs={"out": "step", "rejected": "step.rejected"},
    )
    assert made == [[{"t": "2"}], [{"t": "1"}, {"t": None}]]


def test_the_same_rows_may_go_many_ways():
    left, right = result_of(
        "one: {type: filter, inputs: [s], config: {condition: n > 1}}\n"
        "two: {type: map, inputs: [one], config: {select: [n]}}\n"
        "three: {type: union, inputs: [one, two]}",
        s=ROWS,
        outputs={"left": "two", "right": "three"},
    )
    assert left == [{"n": 2}, {"n": 4}]
    assert ordered(right) == ordered(
        [{"n": 2, "t": None}, {"n": 4, "t": "y"}, {"n": 2, "t": None}, {"n": 4, "t": None}]
    )
