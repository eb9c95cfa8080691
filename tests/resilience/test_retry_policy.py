"""How often a call is made, and after which waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.jobs.task_scheduler import Retries
from dataflare.resilience.backoff import backoff_s
from dataflare.resilience.retry import Retried, Retrying, RetryPolicy
from dataflare.workflow.settings import ErrorHandling

STEADY = {"initial_backoff": "1s", "multiplier": 2.0, "jitter": 0.0}


def lost(after_s: float | None = None) -> SystemError_:
    return SystemError_("it is gone", code="E0607", retry=Retry.LATER, retry_after_s=after_s)


class Calls:
    """A system that fails as often as told, on a made clock: a call takes `takes_s`, and a wait its time."""

    def __init__(self, *failures: DataFlareError, takes_s: float = 0.0) -> None:
        self.failures, self.made = list(failures), 0
        self.now_s, self.takes_s = 100.0, takes_s
        self.waits: list[float] = []
        self.said: list[Retried] = []

    async def call(self) -> str:
        self.made += 1
        self.now_s += self.takes_s
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    def run(
        self,
        policy: RetryPolicy | None,
        progress: Callable[[], int] = lambda: 0,
        chance: Callable[[], float] = lambda: 0.0,
    ) -> str:
        retrying = Retrying(
            "orders",
            policy,
            on_retry=self.said.append,
            sleep=self.sleep,
            chance=chance,
            clock=lambda: self.now_s,
        )
        return asyncio.run(retrying.call(self.call, progress))


def test_a_call_is_made_again_after_growing_waits() -> None:
    calls = Calls(lost(), lost(), lost())
    assert calls.run(RetryPolicy(max_attempts=4, **STEADY)) == "done"
    assert calls.waits == [1.0, 2.0, 4.0]
    assert [str(each) for each in calls.said] == [
        "it is gone; trying again in 1 s (2 of 4)",
        "it is gone; trying again in 2 s (3 of 4)",
        "it is gone; trying again in 4 s (4 of 4)",
    ]


def test_what_is_used_up_says_how_many_attempts_there_were() -> None:
    calls = Calls(*(lost() for _ in range(9)))
    with pytest.raises(SystemError_, match=r"it is gone \(after 3 attempts\)") as raised:
        calls.run(RetryPolicy(max_attempts=3, **STEADY))
    assert raised.value.code == "E0607"
    assert calls.made == 3


def test_no_try_begins_after_the_time_that_all_may_take() -> None:
    calls = Calls(*(lost() for _ in range(9)))
    with pytest.raises(SystemError_, match=r"it is gone \(after 4 attempts\)"):
        calls.run(RetryPolicy(max_attempts=100, max_elapsed="8s", **STEADY))
    assert calls.waits == [1.0, 2.0, 4.0]
    # A system that asks for a longer wait than is left is not asked again.
    calls = Calls(lost(60.0))
    with pytest.raises(SystemError_, match=r"after 1 attempt\)"):
        calls.run(RetryPolicy(max_elapsed="8s", **STEADY))
    assert calls.waits == []


def test_the_time_that_all_may_take_has_the_first_call_in_it() -> None:
    calls = Calls(*(lost() for _ in range(9)), takes_s=5.0)
    policy = RetryPolicy(max_attempts=100, max_elapsed="12s", **STEADY)
    with pytest.raises(SystemError_, match=r"it is gone \(after 2 attempts\)"):
        calls.run(policy)
    assert calls.waits == [1.0], "11 s are gone, and the next wait is 2 s"


def test_progress_does_not_begin_the_time_again() -> None:
    calls = Calls(*(lost() for _ in range(99)), takes_s=5.0)
    policy = RetryPolicy(max_attempts=2, max_elapsed="20s", **STEADY)
    with pytest.raises(SystemError_):
        calls.run(policy, lambda: calls.made)
    assert (calls.made, calls.waits) == (4, [1.0] * 3), "23 s are gone"


def test_a_wait_that_is_judged_is_the_one_that_follows() -> None:
    """Its jitter is drawn once: a second draw might let a try begin too late."""
    drawn = [0.0, 1.0]
    calls = Calls(lost(), lost())
    policy = RetryPolicy(max_attempts=9, max_elapsed="9s", initial_backoff="10s", jitter=0.5)
    with pytest.raises(SystemError_, match=r"after 1 attempt\)"):
        calls.run(policy, chance=lambda: drawn.pop(0))
    assert (calls.waits, drawn) == ([], [1.0])


@pytest.mark.parametrize("failures", [1, 2, 7, 1_025, 10**9])
def test_any_number_of_failures_has_a_wait(failures: int) -> None:
    assert backoff_s(1.0, 60.0, failures) == min(60.0, 2.0 ** min(failures - 1, 10))
    assert backoff_s(0.0, 60.0, failures) == 0.0
    assert RetryPolicy(jitter=0.0).wait_s(failures) == backoff_s(1.0, 60.0, failures)
    assert Retries(wait_s=1.0).after(failures) == backoff_s(1.0, 60.0, failures)


def test_what_will_not_be_better_later_is_not_tried_again() -> None:
    calls = Calls(DataError("a bad row"))
    with pytest.raises(DataError, match=r"^a bad row$"):
        calls.run(RetryPolicy())
    assert calls.made == 1


def test_without_a_policy_a_call_is_made_once() -> None:
    calls = Calls(lost())
    with pytest.raises(SystemError_, match=r"^it is gone$"):
        calls.run(None)
    assert calls.made == 1


def test_a_system_that_says_when_to_come_again_is_asked_then() -> None:
    calls = Calls(lost(7.0), lost(0.1))
    assert calls.run(None) == "done"
    assert calls.waits == [7.0, 0.1]


def test_a_policy_may_wait_longer_than_the_system_says() -> None:
    calls = Calls(lost(7.0), lost(0.1))
    assert calls.run(RetryPolicy.model_validate(STEADY)) == "done"
    assert calls.waits == [7.0, 2.0]


def test_only_attempts_that_come_no_further_are_counted() -> None:
    calls = Calls(*(lost() for _ in range(9)))
    policy = RetryPolicy.model_validate({"max_attempts": 2, **STEADY})
    retrying = Retrying("orders", policy, sleep=calls.sleep, chance=lambda: 0.0)
    assert asyncio.run(retrying.call(calls.call, lambda: calls.made)) == "done"
    assert calls.waits == [1.0] * 9


def test_nobody_waits_an_hour() -> None:
    calls = Calls(lost(3600.0))
    with pytest.raises(SystemError_):
        calls.run(RetryPolicy())
    assert calls.waits == []


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [("fixed", [2, 2, 2, 2]), ("linear", [2, 4, 6, 7]), ("exponential", [2, 6, 7, 7])],
)
def test_waits_grow_as_asked_up_to_the_longest(backoff: str, waits: list[float]) -> None:
    policy = RetryPolicy(initial_backoff="2s", max_backoff="7s", multiplier=3, backoff=backoff)
    assert [policy.wait_s(n) for n in range(1, 5)] == waits
    assert policy.wait_s(2000) <= 7


def test_jitter_only_shortens() -> None:
    policy = RetryPolicy(initial_backoff="10s", jitter=0.5)
    assert policy.wait_s(1, 0.0) == 10
    assert policy.wait_s(1, 0.5) == 7.5


def test_a_policy_may_be_written_with_other_names() -> None:
    written = {"base_delay": "2s", "max_delay": "9s", "backoff_multiplier": 3}
    policy = RetryPolicy.model_validate(written)
    assert (policy.initial_backoff, policy.max_backoff, policy.multiplier) == (2, 9, 3)


def test_a_count_and_a_policy_mean_the_same() -> None:
    counted = ErrorHandling.model_validate({"retry_count": 3, "backoff": "linear"}).retries
    assert counted == RetryPolicy(max_attempts=4, backoff="linear")
    said = ErrorHandling.model_validate({"retry_policy": {"max_attempts": 2}, "backoff": "fixed"})
    assert said.retries == RetryPolicy(max_attempts=2, backoff="fixed")
    assert ErrorHandling().retries is None
