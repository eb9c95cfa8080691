"""When the next checkpoint begins. Pure."""

from __future__ import annotations

from dataflare.engine.attempt import pause


def test_checkpoints_begin_an_interval_apart() -> None:
    assert pause(10.0, 0.0) == 10.0
    assert pause(10.0, 4.0) == 6.0


def test_behind_a_long_one_rows_get_some_time() -> None:
    assert pause(10.0, 9.0) == 2.5
    assert pause(10.0, 600.0) == 2.5
