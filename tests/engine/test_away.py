"""When the system of an optional lookup is away, and when it is back."""

from __future__ import annotations

from dataflare.engine.away import Away


def test_it_is_away_after_a_failure_and_back_after_three_tries_in_a_row():
    now, degraded = [100.0], {}
    away = Away("names", degraded, lambda: now[0])
    assert away.may_ask()
    away.succeeded()
    assert degraded == {}
    assert away.may_ask()
    away.failed("no connection")
    assert "no connection" in degraded["names"]
    assert not away.may_ask()
    for successes in (2, 1, 3):
        now[0] += 2.0
        for _ in range(successes):
            assert away.may_ask()
            assert not away.may_ask()  # one at a time
            away.succeeded()
        if successes < 3:
            assert away.is_away
            assert away.may_ask()
            away.failed("again")
            assert not away.may_ask()
    assert not away.is_away
    assert degraded == {}
    assert away.may_ask()
    assert away.may_ask()


def test_a_try_that_says_nothing_of_the_system_lets_another_one_be_made():
    now, degraded = [100.0], {}
    away = Away("names", degraded, lambda: now[0])
    assert away.may_ask()
    away.given_up()
    assert not away.is_away
    away.failed("no connection")
    now[0] += 2.0
    for _ in range(2):
        assert away.may_ask()
        away.given_up()
    assert away.is_away
    for _ in range(3):
        assert away.may_ask()
        away.succeeded()
    assert not away.is_away
    assert degraded == {}


def test_a_system_that_answers_for_most_keys_is_not_away_and_is_told_for_a_while():
    now, degraded = [100.0], {}
    away = Away("names", degraded, lambda: now[0])
    assert away.may_ask()
    away.answered_in_part("answered 500")
    assert not away.is_away
    assert "no answer for some keys" in degraded["names"]
    away.succeeded()
    assert "names" in degraded
    now[0] += 10.0
    away.succeeded()
    assert degraded == {}
    away.failed("no connection")
    for _ in range(3):
        now[0] += 2.0
        assert away.is_away
        assert away.may_ask()
        away.answered_in_part("answered 500")
    assert not away.is_away
    assert "no answer for some keys" in degraded["names"]
