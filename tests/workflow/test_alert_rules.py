"""`alerts` and `notifiers` of a workflow file: what is taken, and the whole error block of what is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataflare import Workflow
from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text
from dataflare.workflow.dsl.source_code import to_python

STEPS = """\
name: w
sources: {orders: {type: inline, config: {rows: []}}}
destinations: {out: {type: blackhole, inputs: [orders]}}
"""
FULL = (
    STEPS
    + """\
notifiers:
  ops: {type: slack, url: "https://hooks.example.com/T/B/s3cret"}
  mail: {type: smtp, host: mail, from: a@x.de, to: [b@x.de]}
alerts:
  - {name: behind, when: "lag > 5m", for: 2m, severity: page, notify: [ops]}
  - {when: "errors > 100 in 5m for 1m", step: orders, notify: mail, keep_firing_for: 30s}
  - {when: failed}
"""
)


def test_both_ways_to_write_a_rule() -> None:
    behind, errors, failed, log = load_text(FULL).alerts
    assert (behind.name, behind.for_s, behind.severity, behind.notify) == ("behind", 120, "page", ("ops",))  # fmt: skip
    assert (errors.name, errors.for_s, errors.keep_s, errors.step, errors.notify) == (
        "errors > 100 in 5m for 1m", 60, 30, "orders", ("mail",),
    )  # fmt: skip
    assert (errors.condition.limit, errors.condition.window_s) == (100, 300)
    assert (failed.name, failed.condition.holds(1), failed.condition.holds(0)) == (
        "failed",
        True,
        False,
    )
    assert (log.name, log.condition.limit, log.notify) == ("log_kept", 20 << 30, ("ops", "mail"))


def test_a_rule_about_kept_logs_is_in_place_of_the_one_that_is_always_there() -> None:
    own = load_text(STEPS + 'alerts: [{when: "kept_bytes > 1GiB"}]\n').alerts
    assert [rule.name for rule in own] == ["kept_bytes > 1GiB"]


def test_secrets_are_shown_nowhere() -> None:
    workflow = load_text(FULL)
    assert "https://hooks.example.com/T/B/s3cret" in workflow.masked
    for shown in (repr(workflow), str(workflow.to_json())):
        assert "s3cret" not in shown


CASES = {
    "a comparison with what stands alone": (
        'alerts: [{when: "failed > 1"}]',
        """\
error[E0105]: 'when' in an alert: 'failed' is true or false and stands alone, without '>'
 --> w.yaml:4:17
  |
4 | alerts: [{when: "failed > 1"}]
  |                 ^^^^^^^^^^^^
""",
    ),
    "a measure that does not exist": (
        'alerts: [{when: "lagg > 5m"}]',
        """\
error[E0105]: 'when' in an alert: there is no measure 'lagg'; did you mean 'lag'?
 --> w.yaml:4:17
  |
4 | alerts: [{when: "lagg > 5m"}]
  |                 ^^^^^^^^^^^
""",
    ),
    "a value of another unit": (
        'alerts: [{name: big, when: "memory > 5m"}]',
        """\
error[E0105]: 'when' in the alert 'big': 'memory' is compared with a size such as 512KiB, 64MiB or 2GiB, not '5m'
 --> w.yaml:4:28
  |
4 | alerts: [{name: big, when: "memory > 5m"}]
  |                            ^^^^^^^^^^^^^
""",
    ),
    "for, twice": (
        'alerts: [{when: "lag > 5m for 2m", for: 1m}]',
        """\
error[E0105]: an alert: 'for' is also in 'when': give it once
 --> w.yaml:4:11
  |
4 | alerts: [{when: "lag > 5m for 2m", for: 1m}]
  |           ^^^^
""",
    ),
    "a step, and a notifier, that do not exist": (
        'notifiers: {ops: {type: command, command: ls}}\nalerts: [{name: a, when: "lag > 5m", step: order, notify: [opps]}]',
        """\
error[E0108]: the alert 'a' is about the step 'order', which does not exist
 --> w.yaml:5:44
  |
5 | alerts: [{name: a, when: "lag > 5m", step: order, notify: [opps]}]
  |                                            ^^^^^
   = there are: orders, out
   = help: did you mean 'orders'?

error[E0108]: the alert 'a' notifies 'opps', which is not in 'notifiers'
 --> w.yaml:5:59
  |
5 | alerts: [{name: a, when: "lag > 5m", step: order, notify: [opps]}]
  |                                                           ^^^^^^
   = there are: ops
   = help: did you mean 'ops'?
""",
    ),
    "two of one name": (
        'alerts: [{name: a, when: failed}, {name: a, when: "lag > 5m"}]',
        """\
error[E0109]: two alerts have the name 'a'
 --> w.yaml:4:42
  |
4 | alerts: [{name: a, when: failed}, {name: a, when: "lag > 5m"}]
  |                                          ^
   = help: give one of them another 'name'
""",
    ),
    "notifiers": (
        "notifiers: {a: {type: webhok, url: x}, b: {type: webhook, uri: x}, c: {url: x}, d: x}",
        """\
error[E0105]: the notifier 'a' has the unknown type 'webhok'
 --> w.yaml:4:23
  |
4 | notifiers: {a: {type: webhok, url: x}, b: {type: webhook, uri: x}, c: {url: x}, d: x}
  |                       ^^^^^^
   = expected: one of webhook, smtp, slack, pagerduty, command
   = help: did you mean 'webhook'?

error[E0103]: unknown key 'uri' in the notifier 'b'
 --> w.yaml:4:59
  |
4 | notifiers: {a: {type: webhok, url: x}, b: {type: webhook, uri: x}, c: {url: x}, d: x}
  |                                                           ^^^
   = known keys: headers, timeout, type, url
   = help: did you mean 'url'?

error[E0104]: missing key 'type' in the notifier 'c'
 --> w.yaml:4:68
  |
4 | notifiers: {a: {type: webhok, url: x}, b: {type: webhook, uri: x}, c: {url: x}, d: x}
  |                                                                    ^
   = help: one of: webhook, smtp, slack, pagerduty, command

error[E0105]: the notifier 'd' must be a mapping with a 'type'
 --> w.yaml:4:84
  |
4 | notifiers: {a: {type: webhok, url: x}, b: {type: webhook, uri: x}, c: {url: x}, d: x}
  |                                                                                    ^
   = found: text
   = help: write it in that form
""",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_where_it_is(case: str) -> None:
    text, expected = CASES[case]
    with pytest.raises(DataFlareError) as error:
        load_text(f"{STEPS}{text}\n", file="w.yaml")
    assert render(error.value) == expected.rstrip("\n")


WRONG = [
    ("lag", "expected: a measure"),
    ("lag >", "a duration"),
    ("lag > 5m in 3m", "at one moment"),
    ("lag > 5m for", "expected|a duration"),
    ("lag > 5m for soon", "'for' needs a duration"),
    ("errors > 5 in 0s", "above 0"),
    ("errors > -5", "a number such as 100"),
    ("busy > 200%", "at most 100%"),
    ("breaker_open == 2x", "'breaker_open' is true or false and stands alone, without '=='"),
    ("failed > 1", "stands alone"),
    ("failed == true for 1m", "stands alone"),
    ("rows < 1000 for 1m", "judged once, when a run has finished: add 'in 10m'"),
    ("lag > 5m and errors > 3", "a duration"),
]


@pytest.mark.parametrize(("when", "words"), WRONG)
def test_wrong_conditions(when: str, words: str) -> None:
    with pytest.raises(DataFlareError) as error:
        load_text(f'{STEPS}alerts: [{{when: "{when}"}}]\n')
    assert re.search(words, "\n".join([error.value.message, *error.value.notes]))


@pytest.mark.parametrize(
    "more",
    ["alerts: {when: failed}", "alerts: [failed]", "alerts: [{}]", "notifiers: [ops]", "alerts: [{when: 3}]"],
)  # fmt: skip
def test_wrong_forms_are_errors_of_the_form(more: str) -> None:
    with pytest.raises(DataFlareError) as error:
        load_text(f"{STEPS}{more}\n")
    assert error.value.code in ("E0104", "E0105")


def test_python_writes_the_same(tmp_path: Path) -> None:
    wf = Workflow("w")
    orders = wf.source("orders", "inline", rows=[])
    orders.to("out", "blackhole")
    wf.notifier("ops", "slack", url="https://hooks.example.com/T/B/s3cret")
    mail = wf.notifier("mail", "smtp", host="mail", from_="a@x.de", to=["b@x.de"])
    wf.alert("lag > 5m", name="behind", for_="2m", severity="page", notify=["ops"])
    wf.alert("errors > 100 in 5m for 1m", step=orders, notify=mail, keep_firing_for="30s")
    wf.alert("failed")
    assert wf.build().alerts == load_text(FULL).alerts
    assert wf.build().notifiers == load_text(FULL).notifiers
    # The file, as Python, and as a file again.
    file = tmp_path / "w.yaml"
    file.write_text(wf.to_yaml())
    names: dict[str, Any] = {"__name__": "converted"}
    exec(to_python(Workflow.from_yaml(file)), names)
    assert yaml.safe_load(names["wf"].to_yaml()) == yaml.safe_load(file.read_text())


def test_an_environment_has_its_own() -> None:
    text = (
        FULL
        + "environments: {dev: {alerts: [], notifiers: {ops: !replace {type: command, command: 'true'}}}}\n"
    )
    workflow = load_text(text, environment="dev")
    assert [rule.name for rule in workflow.alerts] == ["log_kept"]
    assert workflow.notifiers["ops"].kind == "command"
