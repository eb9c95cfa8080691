"""Credits: windows that follow the reader and shrink with memory, and never deadlock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.engine.backpressure import BackpressureController


def controller(**more: object) -> BackpressureController:
    made = BackpressureController(clock=lambda: 0.0, **more)  # type: ignore[arg-type]
    made.register_task("reader")
    return made


def test_a_fixed_window_never_changes() -> None:
    fixed = controller(mode="fixed", initial_credits=1_000)
    fixed.request_credits("reader", 500)
    fixed.report_processing("reader", 500, 0.0001)
    fixed.update_memory_pressure(2.0)
    assert fixed.window("reader") == 1_000


def test_a_dynamic_window_follows_the_rate_between_its_bounds() -> None:
    dynamic = controller(mode="dynamic", min_credits=100, max_credits=50_000)
    for _ in range(50):
        dynamic.request_credits("reader", 1_000)
        dynamic.report_processing("reader", 1_000, 0.01)
    assert dynamic.window("reader") == pytest.approx(100_000 * 0.25, rel=0.01)
    for _ in range(100):
        dynamic.report_processing("reader", 10, 1.0)
    assert dynamic.window("reader") == 100
    for _ in range(100):
        dynamic.report_processing("reader", 10_000, 0.0001)
    assert dynamic.window("reader") == 50_000


def test_an_adaptive_window_shrinks_as_memory_fills() -> None:
    adaptive = controller(mode="adaptive", initial_credits=10_000, min_credits=100)
    windows = []
    for pressure in (0.5, 0.7, 0.8, 0.9, 1.0, 1.5):
        adaptive.update_memory_pressure(pressure)
        windows.append(adaptive.window("reader"))
    assert windows[0] == windows[1] == 10_000
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] == windows[-2] == 100


def test_a_full_window_makes_the_writer_wait_and_processing_lets_it_on() -> None:
    made = controller(mode="fixed", initial_credits=1_000)
    assert made.request_credits("reader", 900) == 900
    assert made.request_credits("reader", 900) == 900
    assert made.request_credits("reader", 1) == 0
    made.report_processing("reader", 900, 0.1)
    assert made.request_credits("reader", 1) == 1


@settings(derandomize=True, max_examples=100)
@given(rows=st.integers(1, 10_000_000), pressure=st.floats(0, 10))
def test_who_has_nothing_under_way_is_always_granted_a_batch(rows: int, pressure: float) -> None:
    made = controller(mode="adaptive")
    made.update_memory_pressure(pressure)
    assert made.request_credits("reader", rows) == rows
    assert made.request_credits("reader", rows, own=True) == rows


def test_a_refill_rate_is_a_speed_limit() -> None:
    now = [0.0]
    limited = BackpressureController(
        mode="fixed",
        initial_credits=1_000,
        max_credits=1_000,
        refill_rate=1_000,
        clock=lambda: now[0],
    )
    limited.register_task("reader")
    sent = 0
    for _ in range(1_000):
        now[0] += 0.01
        if limited.request_credits("reader", 100):
            sent += 100
            limited.report_processing("reader", 100, 0.001)
    assert sent == pytest.approx(1_000 + 10 * 1_000, rel=0.02)
    assert limited.wait_s("reader", 1_000) is not None


def test_a_timely_batch_takes_a_window_and_is_never_mostly_overhead() -> None:
    controller = BackpressureController()
    controller.register_task("t")
    assert controller.timely_rows("t") is None
    controller.report_processing("t", 1_000, 0.1)
    assert controller.timely_rows("t") == 2_500
    for rows in (1_000, 2_000, 4_000):  # half a second, and 10 microseconds a row
        for _ in range(200):
            controller.report_processing("t", rows, 0.5 + rows * 1e-5)
    timely = controller.timely_rows("t")
    assert timely is not None
    assert 0.5 + timely * 1e-5 == pytest.approx(2.0, rel=0.01), "four times its overhead"


def test_a_timely_batch_has_at_least_the_least_credits_and_a_fixed_window_asks_for_none() -> None:
    slow, fixed = BackpressureController(), BackpressureController(mode="fixed")
    for controller in (slow, fixed):
        controller.register_task("t")
        controller.report_processing("t", 10, 10.0)
    assert slow.timely_rows("t") == slow.min_credits
    assert fixed.timely_rows("t") is None
