"""Kafka to Kafka with transactions, while runs, brokers, leaders and connections die: each message once, in order."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from broker_moving import random_kills
from confluent_kafka import Producer
from kafka_killing import Moving
from kafka_kit import Place
from servers.kafka import KafkaCluster

from dataflare.connectors.kafka import committing
from dataflare.connectors.kafka.markers import MarkerRecord
from dataflare.jobs import RunOptions, run
from dataflare.testing import Faults
from dataflare.workflow.load import load_text

POINTS = [
    "broker.prepare.after_fsync", "kafka.commit.before_marker", "kafka.commit.before_commit:2",
    "kafka.commit.after_commit", "engine.after_manifest:2",
]  # fmt: skip


def test_a_run_that_is_killed_in_each_step_of_a_commit_doubles_nothing(place: Place) -> None:
    moving = Moving(place, 30_000)
    died = [point for point in POINTS if moving.die(point)]
    assert len(died) >= 3, died
    moving.finish()
    moving.check()


def test_a_marker_behind_the_open_transaction_of_another_workflow_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = Moving(place, 3_000, more=", transaction_timeout: 21s")
    assert moving.die("kafka.commit.before_commit")  # makes the topic of markers
    other = Producer({"bootstrap.servers": place.cluster.bootstrap, "transactional.id": f"other {place.topic}",
                      "transaction.timeout.ms": 600_000, "log_level": 0})  # fmt: skip
    other.init_transactions(30)
    other.begin_transaction()
    marker = MarkerRecord("other", place.topic, 1, "", 1, 0, "other", "elsewhere")
    other.produce("_dataflare_epochs", marker.value(), marker.key)
    other.flush(30)
    # What no marker of this step lies behind is not waited for.
    assert moving.die("kafka.commit.after_commit")
    with monkeypatch.context() as patched:
        patched.setattr(committing, "_CLEANUP_S", -21.0)
        text = moving.text.replace("attempts: 1000", "attempts: 0")
        text = text.replace("max_attempts: 100,", "max_attempts: 1,")
        failed = run(load_text(text, base=place.folder), RunOptions(place.folder / ".dataflare"))
    assert failed.error is not None
    assert failed.error.code == "E0608"
    assert "open transaction of another producer" in failed.error.message
    other.abort_transaction(30)
    moving.finish()
    moving.check()


@pytest.mark.rotates(2)
def test_a_broker_that_is_killed_and_started_again_loses_nothing(place: Place) -> None:
    moving = Moving(place, 30_000)
    assert moving.die("kafka.commit.before_commit")
    process = moving.start()
    broker = place.cluster.brokers[0]
    for _ in range(2):
        broker.kill()
        place.cluster.start()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    moving.check()


def test_connections_that_break_at_random_lose_nothing(place: Place) -> None:
    moving = Moving(place, 20_000, place.cluster.proxied)
    proxy = place.cluster.brokers[0].proxy
    proxy.faults = Faults(cut_after=(50_000, 900_000), jitter_s=0.005, reset=True)
    try:
        process = moving.start()
        while process.poll() is None and proxy.broken < 12:
            threading.Event().wait(0.7)
            proxy.reset()
        proxy.faults = Faults()
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    finally:
        proxy.faults = Faults()
    assert proxy.broken > 2
    moving.check()


@pytest.mark.rotates(2)
def test_a_leader_that_dies_is_replaced_and_nothing_is_lost(
    three_brokers: KafkaCluster, tmp_path: Path
) -> None:
    place = Place(three_brokers, tmp_path, "led", partitions=3)
    moving = Moving(place, 30_000)
    three_brokers.create_topic("led-out", 3)
    process = moving.start()
    leader = three_brokers.leader("led", 0)
    leader.kill()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    three_brokers.start()
    moving.check()


def test_kills_at_random_moments(place: Place) -> None:
    rng = random.Random(7)
    moving = Moving(place, 30_000)
    random_kills(moving, rng, 3)
    moving.finish()
    moving.check()


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA", place.cluster.bootstrap)
    folder = Path(__file__).parents[3] / "examples" / "kafka"
    for name in ("seed", "orders", "orders"):
        text = (folder / f"{name}.yaml").read_text()
        assert (
            run(load_text(text, base=place.folder), RunOptions(place.folder / "home")).error is None
        )
    rows = place.values("orders-clean")
    assert len({row["id"] for row in rows}) == len(rows) > 800
    assert all(row["amount"] > 10 for row in rows)
