"""SQS as a source and a destination, on moto's server."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import (
    GOOD,
    ORDERS,
    ROWS,
    comes_once,
    copying,
    endless,
    example,
    in_order,
    moved_once,
    moving,
    rows_of,
)
from conformance import keeps_destination_laws, keeps_source_laws
from servers.aws import AwsServer
from servers.s3 import KEYS
from sqs_kit import Place

from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs.letters import LetterBox
from dataflare.model.types import Schema
from dataflare.testing import check_destination, destination_of, read_source, source_of

THERE = "SERVER, queue: QUEUE"


def copy(more: str = "", handling: str = "") -> str:
    return copying("sqs", f"{THERE}, stop: latest, {more}", handling)


def read(place: Place, **more: Any) -> pl.DataFrame:
    config = place.config(stop="latest", format="text", **more)
    return asyncio.run(read_source(source_of("sqs", config)))


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    place.numbers(0, 11)
    config = place.config(stop="latest", format="text", metadata=["id", "timestamp", "headers"])
    keeps_source_laws("sqs", lambda: source_of("sqs", config))


def test_messages_come_once_and_the_queue_is_empty_then(place: Place) -> None:
    """No more than 15 are received and not deleted, so checkpoints come before their time."""
    place.numbers(0, 50)
    text = copy("prefetch: 15").replace("20ms", "60s")
    result = place.run(text)
    assert (result.error, result.checkpoints > 3) == (None, True)
    assert (place.copied(), place.waiting()) == (list(range(50)), (0, 0))
    place.numbers(50, 65)
    result = place.run(text)
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 15)
    assert place.run(text).steps["given"]["rows_out"] == 0


def test_a_fifo_queue_is_read_in_the_order_of_its_groups(aws: AwsServer, tmp_path: Path) -> None:
    """A group gives no more than ten messages until they are deleted."""
    place = Place(aws, tmp_path, fifo=True)
    group = {"MessageGroupId": lambda body: f"g{json.loads(body)['n'] % 3}"}
    place.numbers(0, 36, **group, MessageDeduplicationId=lambda body: str(json.loads(body)["n"]))
    more = "metadata: [group, sequence, deduplication_id], id: deduplication_id"
    result = place.run(copy(more).replace("20ms", "60s"))
    assert (result.error, place.waiting()) == (None, (0, 0))
    found = place.written()
    assert sorted(found["n"]) == list(range(36))
    for _, n in found.group_by("_group").agg("n").rows():
        assert n == sorted(n)
    assert found["_sequence"].n_unique() == 36
    assert found["_deduplication_id"].to_list() == [str(n) for n in found["n"]]


def test_what_sqs_says_of_a_message_becomes_columns(place: Place) -> None:
    attributes = {
        "n": {"DataType": "Number", "StringValue": "7"},
        "raw": {"DataType": "Binary", "BinaryValue": b"\xff"},
    }
    place.put(["x"], MessageAttributes=attributes)
    names = ["id", "queue", "group", "timestamp", "first_received", "receive_count", "headers"]
    row = read(place, metadata=names).row(0, named=True)
    assert len(row.pop("_id")) == 36
    assert row.pop("_timestamp") <= row.pop("_first_received")
    assert row == {
        "value": "x", "_queue": place.queue, "_group": None, "_receive_count": 1,
        "_headers": [{"key": "n", "value": b"7"}, {"key": "raw", "value": b"\xff"}],
    }  # fmt: skip


def test_a_message_that_was_sent_twice_comes_once_by_its_attribute(place: Place) -> None:
    named = {"key": lambda body: {"DataType": "String", "StringValue": body}}
    key = {"MessageAttributes": lambda body: {name: v(body) for name, v in named.items()}}
    for first, after in ((0, 20), (5, 10)):
        place.numbers(first, after, **key)
    result = place.run(copy("id: key"))
    assert (result.error, place.copied()) == (None, list(range(20)))
    assert any("delivered again" in text for text in result.warnings)


def test_an_attribute_message_id_is_not_the_id_of_a_message(place: Place) -> None:
    attribute = {"message_id": {"DataType": "String", "StringValue": "same"}}
    place.put(['{"n": 0}', '{"n": 1}'], MessageAttributes=attribute)
    result = place.run(copy())
    assert (result.error, place.copied(), place.waiting()) == (None, [0, 1], (0, 0))


def test_messages_are_kept_from_others_as_long_as_the_run_has_them(place: Place) -> None:
    """A message is visible again after two seconds, and no checkpoint is taken before the end."""
    place.numbers(0, 10)
    source = source_of("sqs", place.config(stop="latest", format="text", visibility="2s"))

    async def hold() -> tuple[int, int]:
        (split,) = await source.splits()
        reader = await source.open(split, None)
        await reader.read_chunk()  # type: ignore[attr-defined]
        end = asyncio.get_running_loop().time() + 2.3
        found = []
        while asyncio.get_running_loop().time() < end:
            found += await asyncio.to_thread(place.receive)
        assert not found
        await reader.aclose()
        state = place.waiting()
        await source.aclose()
        return state

    assert asyncio.run(hold()) == (0, 10)
    assert place.waiting() == (10, 0)


def test_a_poison_message_is_a_dead_letter_as_it_came(place: Place) -> None:
    good, bad = base64.b64encode(b'{"n": 3}').decode(), base64.b64encode(b"\xff\xfe").decode()
    place.put([good, bad, "not base64!"])
    result, text = place.dead_letters(copy("encoding: base64", handling="DEAD"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert place.copied() == [3]
    for part in (r"{\"raw\":\"//4=\"}", "not base64!", f"{place.queue} message "):
        assert part in text
    assert place.waiting() == (0, 0)


def test_without_a_checkpoint_a_message_stays_in_the_queue(place: Place) -> None:
    place.put(["{"])
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, place.waiting()) == ("E0503", (1, 0))


def failure(place: Place, **more: Any) -> DataFlareError:
    source = source_of("sqs", place.config(format="text", timeout="3s", **more))
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(source.validate())
    return caught.value


def test_errors_name_what_is_wrong(
    place: Place, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure(place, queue="nothing").code == "E0604"
    assert failure(place, endpoint="http://127.0.0.1:1").code == "E0607"
    with aws.checks_logins():
        found = failure(place)
    assert (found.code, "tester" in str(found)) == ("E0606", False)
    config = {"queue": "q", "format": "text"}
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(place.folder / "none"))
    with pytest.raises(ConfigError, match="in which region"):
        asyncio.run(source_of("sqs", config).validate())
    with pytest.raises(ConfigError, match="profile"):
        asyncio.run(source_of("sqs", {**config, "profile": "missing"}).validate())


def test_each_message_comes_once_over_a_network_that_breaks_and_a_run_that_dies(
    place: Place,
) -> None:
    text = endless("sqs", f"{THERE}, timeout: 1s, visibility: 2s")
    comes_once(place, text, port=place.server.port, step=5)


def test_each_message_is_moved_once_over_kills_between_commit_and_deletion(place: Place) -> None:
    """What was committed is delivered again after two seconds, behind more messages than the window has."""
    more = "stop: latest, prefetch: 20, window: 5, visibility: 2s"
    moved_once(place, moving("sqs", f"{THERE}, {more}"), 60)
    assert place.waiting() == (0, 0)


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("sqs", f"{THERE}, {more}", rows, handling)


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
def test_it_keeps_the_contract_of_destinations(aws: AwsServer, tmp_path: Path, fifo: bool) -> None:
    places: dict[Path, Place] = {}

    def make(folder: Path) -> Any:
        if folder not in places:
            places[folder] = Place(aws, folder, fifo=fifo)
        more = {"id": "n", "group": "g"} if fifo else {}
        return destination_of("sqs", places[folder].config(**more), base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return rows_of(each["Body"] for each in places[folder].taken())

    if fifo:
        some = ["each_row_arrives_once", "a_commit_twice_is_a_commit"]
        asyncio.run(check_destination(make, read, tmp_path, frame=ROWS, only=some))
    else:
        keeps_destination_laws("sqs", make, read, tmp_path, frame=ROWS)


def test_rows_become_messages(place: Place) -> None:
    rows = [{"n": n, "t": "x"} for n in range(120)]
    assert write(place, rows, "id: n, headers: {trace: t}").error is None
    found = place.taken()
    assert sorted(json.loads(each["Body"])["n"] for each in found) == list(range(120))
    told = found[7]["MessageAttributes"]
    assert told["id"]["StringValue"] == str(json.loads(found[7]["Body"])["n"])
    assert told["trace"] == {"DataType": "String", "StringValue": "x"}


def test_a_fifo_queue_keeps_the_order_of_a_group_and_leaves_out_what_comes_again(
    aws: AwsServer, tmp_path: Path
) -> None:
    place = Place(aws, tmp_path, fifo=True)
    rows = [{"n": n, "g": n % 7} for n in range(70)]
    for _ in range(2):
        assert write(place, rows, 'id: n, group: "g{g}"').error is None
        place.folder = tmp_path / "second"
    found = place.taken()
    assert len(found) == 70
    for group in range(7):
        of_group = [f for f in found if f["Attributes"]["MessageGroupId"] == f"g{group}"]
        assert [json.loads(each["Body"])["n"] for each in of_group] == list(range(group, 70, 7))


def test_rows_that_sqs_does_not_take_are_dead_letters(place: Place) -> None:
    rows = [
        {"value": "good", "h": "x"}, {"value": "", "h": "x"}, {"value": "a￾", "h": "x"},
        {"value": "x" * (1 << 20), "h": "x"}, {"value": "b", "h": ""},
    ]  # fmt: skip
    more = "format: text, headers: {h: h}"
    result = write(place, rows, more, "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 4)
    assert [each["Body"] for each in place.taken()] == ["good"]
    result = write(place, [{"value": "a￾"}], "format: text, encoding: base64")
    assert result.error is None
    assert [base64.b64decode(each["Body"]) for each in place.taken()] == ["a￾".encode()]


def test_events_have_their_attributes_in_the_messages_attributes(place: Place) -> None:
    more = "format: cloudevents, cloudevents: {mode: binary, source: /shop, type: order}"
    assert write(place, [{"ce_id": f"e{n}", "n": n} for n in (1, 2)], more).error is None
    source = source_of("sqs", place.config(stop="latest", format="cloudevents"))
    source.contract = Schema.of({"n": "int64"})
    found = asyncio.run(read_source(source)).select("ce_id", "ce_source", "ce_type", "n")
    assert sorted(found.rows()) == [("e1", "/shop", "order", 1), ("e2", "/shop", "order", 2)]


def test_a_message_that_was_not_taken_is_sent_again_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataflare.connectors.sqs.client import Queue

    sent: list[list[str]] = []
    why = {"SenderFault": False, "Code": "InternalError"}
    ask = Queue.ask

    def refuses_some(queue: Queue, call: str, **arguments: Any) -> Any:
        if call != "send_message_batch":
            return ask(queue, call, **arguments)
        entries = arguments["Entries"]
        sent.append([each["MessageBody"] for each in entries])
        failed, taken = (entries[1:3], entries) if len(sent) == 1 else ([], entries)
        taken = [each for each in taken if each not in failed]
        answer = ask(queue, call, Entries=taken)
        return {**answer, "Failed": [{"Id": each["Id"], **why} for each in failed]}

    monkeypatch.setattr(Queue, "ask", refuses_some)
    assert write(place, [{"value": f"m{n}"} for n in range(4)], "format: text").error is None
    assert sent == [["m0", "m1", "m2", "m3"], ["m1", "m2"]]
    assert sorted(each["Body"] for each in place.taken()) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize(
    ("on_error", "left", "code"),
    [("dead_letter", 2, None), ("skip", 2, None), ("fail", 0, "E0510")],
)
def test_messages_that_sqs_refuses_are_left_out_alone(
    aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    on_error: str, left: int, code: str | None,
) -> None:  # fmt: skip
    from dataflare.connectors.sqs.client import Queue

    place = Place(aws, tmp_path, fifo=True)
    refused = {"Code": "InvalidMessageContents", "Message": "no", "SenderFault": True}
    ask = Queue.ask

    def refuses_some(queue: Queue, call: str, **arguments: Any) -> Any:
        if call != "send_message_batch":
            return ask(queue, call, **arguments)
        entries = arguments["Entries"]
        bad = [each for each in entries if json.loads(each["MessageBody"])["n"] in (3, 17)]
        good = [each for each in entries if each not in bad]
        answer = ask(queue, call, Entries=good) if good else {}
        return {**answer, "Failed": [{"Id": each["Id"], **refused} for each in bad]}

    monkeypatch.setattr(Queue, "ask", refuses_some)
    rows = [{"n": n, "g": n % 3} for n in range(40)]
    result = write(place, rows, 'id: n, group: "g{g}"', f"on_error: {on_error}")
    assert (result.error.code if result.error is not None else None) == code
    if code is not None:
        assert "InvalidMessageContents: no" in str(result.error)
        return
    assert result.steps["out"]["errors"] == left
    assert result.steps["out"]["rows_out"] == 38
    found = place.taken()
    for group in range(3):
        of_group = [f for f in found if f["Attributes"]["MessageGroupId"] == f"g{group}"]
        expected = [n for n in range(group, 40, 3) if n not in (3, 17)]
        assert [json.loads(each["Body"])["n"] for each in of_group] == expected
    letters = LetterBox(tmp_path / "home" / "write").letters()
    told = [
        (each.row["n"], each.code, "InvalidMessageContents" in each.message) for each in letters
    ]
    assert sorted(told) == ([(3, "E0510", True), (17, "E0510", True)] * (on_error == "dead_letter"))


def test_an_answer_about_who_asks_ends_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row would become a dead letter."""
    from dataflare.connectors.sqs.client import Queue

    ask = Queue.ask
    why = {"Code": "KMS.AccessDeniedException", "SenderFault": True}

    def refuses_all(queue: Queue, call: str, **arguments: Any) -> Any:
        if call != "send_message_batch":
            return ask(queue, call, **arguments)
        return {"Failed": [{"Id": each["Id"], **why} for each in arguments["Entries"]]}

    monkeypatch.setattr(Queue, "ask", refuses_all)
    result = write(place, [{"n": 1}], "format: json", "on_error: dead_letter")
    assert result.error is not None
    assert (result.error.code, result.steps["out"]["dead_letters"]) == ("E0602", 0)


def test_a_plan_says_what_is_guaranteed_and_options_without_effect_are_refused() -> None:
    there = {"queue": "q", "region": "eu-west-1"}
    assert not source_of("sqs", there).capabilities().repeats
    made = destination_of("sqs", there)
    assert made.capabilities().delivery.value == "at least once"
    fifo = destination_of("sqs", {**there, "queue": "q.fifo", "id": "n", "group": "g"})
    assert fifo.capabilities().delivery.value == "effectively once"
    for wrong in ({"id": "deduplication_id"}, {"queue": "a/b"}, {"queue": ["q", "https://x/1/q"]}):
        with pytest.raises(ConfigError):
            source_of("sqs", {**there, **wrong})
    for wrong in (
        {"queue": "q.fifo"}, {"group": "g"}, {"format": "avro", "schema": "{}"},
        {"headers": {"AWS.x": "n"}}, {"access_key_id": "x"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            destination_of("sqs", {**there, **wrong})


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", place.server.endpoint)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    clean = Place(place.server, place.folder, fifo=True, name="clean.fifo")
    orders = Place(place.server, place.folder, name="orders")
    orders.put(json.dumps(each) for each in ORDERS)
    assert orders.run(example("sqs")).error is None
    assert in_order(each["Body"] for each in clean.taken()) == GOOD
