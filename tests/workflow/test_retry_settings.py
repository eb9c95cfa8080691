"""The names a retry policy may be written with."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load_text


def workflow(policy: str) -> str:
    return f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [], retry_policy: {policy}}}}}
destinations:
  z: {{type: blackhole, inputs: [a]}}
"""


@pytest.mark.parametrize(
    "policy",
    [
        "{max_attempts: 6, initial_backoff: 2s, max_backoff: 9s, multiplier: 3, jitter: 0.2}",
        "{max_attempts: 6, base_delay: 2s, max_delay: 9s, backoff_multiplier: 3, jitter: 0.2}",
    ],
)
def test_each_wait_has_two_names(policy: str) -> None:
    made = load_text(workflow(policy)).sources["a"].error_handling.retry_policy
    assert made is not None
    assert (made.max_attempts, made.initial_backoff, made.max_backoff) == (6, 2, 9)
    assert (made.multiplier, made.jitter) == (3, 0.2)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("{base_delay: 2s, initial_backoff: 2s}", "'base_delay' mean the same"),
        ("{max_delay: soon}", "expected: a duration"),
        ("{backoff_multiplier: 0.5}", "backoff_multiplier"),
        ("{backoff_multiplier: true}", "a number"),
        ("{base_dealy: 2s}", "did you mean 'base_delay'?"),
    ],
)
def test_what_is_wrong_is_said_under_the_name_that_was_written(policy: str, said: str) -> None:
    with pytest.raises(DataFlareError) as caught:
        load_text(workflow(policy))
    block = render(caught.value)
    assert said in block
    assert "w.yaml:3:" in block or ":3:" in block
