"""Lookups in an API that refuses some of its requests: what was answered counts, whatever happens to the others."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

from http_kit import run
from servers.web import Answer, Asked, http_server
from test_http_lookup import flow

KEYS = [{"customer": f"c{i}"} for i in range(60)]
RETRIES = {"retry_policy": {"max_attempts": 3, "initial_backoff": "1ms", "max_backoff": "1ms"}}


def test_a_server_that_takes_few_requests_at_once_is_asked_slower(tmp_path: Path) -> None:
    lock, under_way, refused = threading.Lock(), Counter[str](), Counter[int]()
    several = threading.Event()

    def busy(asked: Asked) -> Answer:
        with lock:
            under_way["now"] += 1
            too_many = under_way["now"] > 3
            if too_many:
                several.set()
        if not too_many:
            # Until others come, or none does: so some of them are there at the same time.
            several.wait(0.02)
        with lock:
            under_way["now"] -= 1
            refused[429 if too_many else 200] += 1
        return Answer(None, 429) if too_many else Answer({"name": asked.path[-3:], "level": 1})

    with http_server(busy) as server:
        source = {"url": server.url + "/{customer}", "concurrency": 8}
        ran = run(tmp_path, flow(source, KEYS))
    assert ran.status == 0, ran.errors
    assert refused[429] > 0
    assert refused[200] == len(KEYS)


def test_each_key_is_answered_once_where_a_third_of_requests_fail(tmp_path: Path) -> None:
    """More fail than there are attempts, and each attempt gets further."""
    chance, lock = random.Random(4), threading.Lock()
    answered, failed = Counter[str](), Counter[str]()

    def failing(asked: Asked) -> Answer:
        with lock:
            if chance.random() < 0.33:
                failed[asked.path] += 1
                return Answer(None, 500)
            answered[asked.path] += 1
        return Answer({"name": asked.path, "level": 1})

    with http_server(failing) as server:
        source = {"url": server.url + "/{customer}", "concurrency": 4}
        workflow = flow(source, KEYS)
        workflow["transformations"]["named"]["error_handling"] = RETRIES
        ran = run(tmp_path, workflow)
    assert ran.status == 0, ran.errors
    assert failed.total() > 10
    assert answered == Counter({f"/{key['customer']}": 1 for key in KEYS})


def test_a_key_that_always_fails_ends_the_run(tmp_path: Path) -> None:
    asked_for = Counter[str]()

    def broken(asked: Asked) -> Answer:
        asked_for[asked.path] += 1
        return Answer(None, 500) if asked.path == "/c7" else Answer({"name": "n", "level": 1})

    with http_server(broken) as server:
        workflow = flow({"url": server.url + "/{customer}", "concurrency": 4}, KEYS)
        workflow["transformations"]["named"]["error_handling"] = RETRIES
        ran = run(tmp_path, workflow)
    assert ran.status == 1
    assert "answered 500" in ran.errors
    assert 3 <= asked_for.pop("/c7") <= 3 + len(KEYS)
    assert set(asked_for.values()) == {1}
