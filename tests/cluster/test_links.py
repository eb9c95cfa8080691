"""Links: messages, trust, loss and order at the end, over real sockets."""

from __future__ import annotations

import asyncio
import secrets
import signal
import ssl
import struct
import sys
from pathlib import Path

import pytest
from link_kit import (
    TOKEN,
    Reader,
    batch,
    inbox,
    joined,
    linked,
    peer_process,
    run,
    serving,
    until,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.certificates import Authority

from dataflare.cluster import link as link_module
from dataflare.cluster import trust
from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.frames import PIECE_BYTES, Kind, header
from dataflare.cluster.link import LOST_AFTER_S, PROBE_AFTER_S, Link, LinkLost, LinkServer
from dataflare.cluster.tls import Tls
from dataflare.cluster.wire import UNPROVED_BYTES, Wire
from dataflare.engine.gate import Cut, Ended, Rows, Time
from dataflare.errors import ConfigError, InternalError, Retry, RunError
from dataflare.model.progress import END, Barrier, Watermark

# --- messages and the end -------------------------------------------------------------------------


def test_messages_come_in_order_those_before_their_taker_too() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            received: list[bytes] = []
            sent = [b"", b"small", b"x" * 3_000_000, b"again", *(b"%d" % n for n in range(1_000))]
            for message in sent[:3]:
                link.send_message(message)
            await until(lambda: other.kept_bytes > 3_000_000)
            other.on_message = received.append
            for message in sent[3:]:
                link.send_message(message)
            await until(lambda: len(received) == len(sent))
            assert received == sent
            assert other.kept_bytes == 0

    run(scenario)


def test_a_link_that_is_closed_sends_what_waits_and_ends_without_an_error_on_both_sides() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            received: list[bytes] = []
            other.on_message = received.append
            for _ in range(20):
                link.send_message(b"x" * 1_000_000)
            await link.aclose()
            await other.lost
            assert [len(message) for message in received] == [1_000_000] * 20
            assert link.lost.exception() is None
            for side in (link, other):
                with pytest.raises(LinkLost, match="the link was closed"):
                    side.send_message(b"too late")

    run(scenario)


def test_the_names_of_both_sides_are_known() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            assert (link.me, link.peer, other.me, other.peer) == (
                *("writer", "reader", "reader", "writer"),
            )

    run(scenario)


def test_an_address_where_nothing_listens_is_a_link_that_is_lost() -> None:
    async def scenario() -> None:
        async with serving() as (_, address, _):
            pass
        with pytest.raises(LinkLost) as caught:
            await Link.connect(address, TOKEN, "writer")
        assert caught.value.code == "E0830"
        assert caught.value.retry is Retry.LATER
        assert f"127.0.0.1:{address[1]}" in str(caught.value)

    run(scenario)


def test_messages_that_the_other_side_never_takes_end_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "QUEUED_MAX", 1_000_000)

    async def scenario() -> None:
        async with linked() as (link, other):
            for _ in range(11):
                link.send_message(b"x" * 100_000)
                await link.written()
            with pytest.raises(LinkLost, match="that no task here takes yet"):
                await other.lost

    run(scenario)


def test_a_taker_of_messages_that_fails_ends_the_link() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):

            def on_message(message: bytes) -> None:
                raise ValueError("the taker fails")

            other.on_message = on_message
            link.send_message(b"x")
            with pytest.raises(InternalError, match="the taker fails"):
                await other.lost
            with pytest.raises(LinkLost):
                await link.lost

    run(scenario)


def test_a_link_is_not_closed_in_order_where_the_other_side_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "CLOSE_S", 0.1)

    async def scenario() -> None:
        with peer_process() as (process, address):
            link = await Link.connect(address, TOKEN, "test")
            process.send_signal(signal.SIGSTOP)
            link.send_message(bytes(64 << 20))
            await link.aclose()
            with pytest.raises(LinkLost, match="it has not taken what was sent"):
                await link.lost

    run(scenario)


# --- trust ----------------------------------------------------------------------------------------


def test_another_token_is_refused_on_both_sides() -> None:
    async def scenario() -> None:
        async with serving() as (server, address, links):
            with pytest.raises(RunError, match="closed the connection before it was proved") as e:
                await Link.connect(address, b"another token", "writer")
            assert e.value.code == "E0831"
            assert "token" not in repr(e.value.help)
            await until(lambda: server.refused == 1)
            assert links.empty()

    run(scenario)


async def answer_of(address: tuple[str, int], data: bytes) -> bytes:
    """What a stranger is answered that sends something else, until it is cut off."""
    source, target = await asyncio.open_connection(*address)
    target.write(data)
    try:
        return await source.read(-1)
    except ConnectionError:
        return b""
    finally:
        target.close()


GREETING = trust._GREETING + bytes(32)
STRANGERS = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100),
    "another version": b"DFL\x63" + bytes(100),
    "frames without a proof": GREETING + header(Kind.MESSAGE, 0, 5) + b"hello" + bytes(300),
    "too much": GREETING[:1] + bytes(3 * UNPROVED_BYTES),
    "a name that is not text": GREETING + b"\x01\xff" + bytes(32),
    "an empty proof": GREETING + b"\0" + bytes(32),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_cut_off_and_told_nothing(name: str) -> None:
    async def scenario() -> None:
        async with serving() as (server, address, links):
            answer = await answer_of(address, STRANGERS[name])
            assert len(answer) <= len(GREETING)
            await until(lambda: server.refused == 1)
            assert links.empty()

    run(scenario)


def test_a_stranger_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "HANDSHAKE_S", 0.1)

    async def scenario() -> None:
        async with serving() as (server, address, _):
            await answer_of(address, b"")
            await until(lambda: server.refused == 1)

    run(scenario)


def test_only_so_many_strangers_are_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "STRANGERS_MAX", 2)

    async def scenario() -> None:
        async with serving() as (server, address, links):
            waiting = [await asyncio.open_connection(*address) for _ in range(2)]
            await asyncio.gather(*(source.readexactly(4) for source, _ in waiting))
            assert await answer_of(address, b"") == b""
            assert server.refused == 1
            for _, target in waiting:
                target.close()
            await until(lambda: server.refused == 3)
            await Link.connect(address, TOKEN, "writer")
            await links.get()

    run(scenario)


def test_a_proof_that_is_sent_back_proves_nothing() -> None:
    """A server that does not know the token answers with what it was sent."""

    async def scenario() -> None:
        async def mirror(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                target.write(data)
            target.close()

        server = await asyncio.start_server(mirror, "127.0.0.1")
        address = server.sockets[0].getsockname()
        with pytest.raises(RunError, match="does not know the token of the job"):
            await Link.connect(address, TOKEN, "writer")
        server.close()

    run(scenario)


def test_a_server_of_another_protocol_is_not_taken_for_a_worker() -> None:
    async def scenario() -> None:
        async def greet(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            target.write(b"220 mail.example.org ESMTP\r\n")
            await source.read(-1)
            target.close()

        server = await asyncio.start_server(greet, "127.0.0.1")
        with pytest.raises(RunError, match="is not a worker of DataFlare") as caught:
            await Link.connect(server.sockets[0].getsockname(), TOKEN, "writer")
        assert caught.value.code == "E0831"
        server.close()

    run(scenario)


# --- frames that are not frames -------------------------------------------------------------------


class _NoOwner:
    def arrived(self, kind: Kind, channel: int, body: bytes, arrived_s: float) -> None:
        """Probes."""

    def ended(self, error: Exception | None) -> None:
        """The other side has closed it."""


HEADER = struct.Struct(">B3xIII")
BAD = {
    "an unknown kind": (HEADER.pack(99, 0, 0, 0), "a frame of kind 99"),
    "a message with a channel": (HEADER.pack(1, 7, 0, 0), "with a channel"),
    "a mark of a gigabyte": (HEADER.pack(3, 1, 1 << 30, 1 << 30), "1,048,576 are possible"),
    "a piece of a gigabyte": (HEADER.pack(2, 1, 1 << 30, 1 << 30), "does not fit its body"),
    "a piece that is longer than its body": (HEADER.pack(2, 1, 9, 5), "does not fit its body"),
    "an empty piece": (HEADER.pack(2, 1, 0, 5), "does not fit its body"),
    "a body that changes its length": (
        HEADER.pack(2, 1, 1, 5) + b"x" + HEADER.pack(2, 1, 1, 6) + b"x",
        "does not fit its body",
    ),
    "a body with more pieces than it has": (
        HEADER.pack(2, 1, PIECE_BYTES, PIECE_BYTES + 1)
        + bytes(PIECE_BYTES)
        + HEADER.pack(2, 1, 2, PIECE_BYTES + 1)
        + b"xx",
        "does not fit its body",
    ),
    "credit that is not credit": (HEADER.pack(4, 1, 1, 1) + b"x", "credit that cannot be read"),
}


async def proved_wire(address: tuple[str, int]) -> Wire:
    """A connection of a side that knows the token."""
    wire = Wire()
    await asyncio.get_running_loop().create_connection(lambda: wire, *address)
    await trust.proved(wire, TOKEN, "odd", connects=True, other="the server")
    return wire


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_a_frame_ends_the_link(name: str) -> None:
    data, why = BAD[name]

    async def scenario() -> None:
        async with serving() as (_, address, links):
            wire = await proved_wire(address)
            wire.write(data)
            link = await links.get()
            with pytest.raises(LinkLost, match=why):
                await link.lost

    run(scenario)


@pytest.mark.parametrize("cut", [1, 15, 16, 20, 100_000])
def test_a_frame_that_is_torn_ends_the_link(cut: int) -> None:
    async def scenario() -> None:
        async with serving() as (_, address, links):
            wire = await proved_wire(address)
            wire.write((header(Kind.ROWS, 1, 200_000) + bytes(200_000))[:cut])
            wire.close()
            link = await links.get()
            reader = Reader()
            Entry(link, 1, reader)  # type: ignore[arg-type]
            with pytest.raises(LinkLost, match="'reader' has lost the connection to 'odd'"):
                await link.lost
            assert reader.seen == []

    run(scenario)


# --- loss -----------------------------------------------------------------------------------------


def test_a_loss_is_noticed_within_three_seconds() -> None:
    assert LOST_AFTER_S + 2 * link_module._LOOK_S <= 3.0
    assert 2 * PROBE_AFTER_S + 2 * link_module._LOOK_S < LOST_AFTER_S


def test_a_link_that_is_idle_lives_by_its_probes() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            began = [side.wire.bytes_in for side in (link, other)]
            await until(
                lambda: all(
                    side.wire.bytes_in >= before + 16 * 6
                    for side, before in zip((link, other), began, strict=True)
                )
            )
            assert not link.lost.done()
            assert not other.lost.done()

    run(scenario)


@pytest.mark.parametrize("sends", [False, True])
def test_a_process_that_stands_still_is_noticed(sends: bool) -> None:
    """Where much waits for it, too: its socket takes nothing more, so no probe can be sent to it."""

    async def scenario() -> None:
        with peer_process() as (process, address):
            link = await Link.connect(address, TOKEN, "test")
            link.send_message(b"ping")
            answered = asyncio.Event()
            link.on_message = lambda message: answered.set()
            await answered.wait()
            process.send_signal(signal.SIGSTOP)
            if sends:
                link.send_message(bytes(64 << 20))
            with pytest.raises(LinkLost, match=r"'test' has lost the connection to 'peer'.*2\.5 s"):
                await link.lost

    run(scenario)


def test_a_process_that_is_killed_is_noticed() -> None:
    async def scenario() -> None:
        with peer_process() as (process, address):
            link = await Link.connect(address, TOKEN, "test")
            waiting = asyncio.ensure_future(RemoteChannel(link, 1).send(batch(1)))
            process.kill()
            with pytest.raises(LinkLost):
                await waiting

    run(scenario)


def test_a_side_that_stood_still_itself_does_not_take_the_other_one_for_lost() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            for side in (link, other):
                side._looked_s -= 60.0
                side.wire.heard_s -= 60.0
                side._look()
            link.send_message(b"still there")
            received: list[bytes] = []
            other.on_message = received.append
            await until(lambda: received == [b"still there"])

    run(scenario)


# --- two processes --------------------------------------------------------------------------------


def test_another_process_gives_back_what_it_was_sent() -> None:
    async def scenario() -> None:
        with peer_process() as (_, address):
            link = await Link.connect(address, TOKEN, "test")
            sizes = [1, 10, 1_000, 50_000, 300_000]
            boxes = [inbox() for _ in range(4)]
            for number, box in enumerate(boxes):
                link.send_message(b"echo %d" % number)
                Entry(link, number + 1000, box.channel())

            async def write(number: int) -> None:
                channel = RemoteChannel(link, number)
                for turn, size in enumerate(sizes * 4):
                    await channel.send(batch(*range(turn, turn + size)))
                    channel.put(Watermark(turn))
                    channel.put(Barrier(turn + 1))
                channel.put(END)

            async def read(number: int) -> None:
                box, expected = boxes[number], list[object]()
                for turn, size in enumerate(sizes * 4):
                    expected += [size, Time(turn), Cut(Barrier(turn + 1))]
                seen: list[object] = []
                while not box.gate.ended:
                    event = await box.next()
                    if isinstance(event, Rows):
                        turn = len(seen) // 3
                        values = event.batch.frame["n"]
                        assert values.to_list() == list(range(turn, turn + len(values)))
                        box.done(event, 0.0)
                        seen.append(len(values))
                    elif event is not None:
                        seen.append(event)
                assert seen == [*expected, Ended(0)]

            await asyncio.gather(*map(write, range(4)), *map(read, range(4)))
            await link.aclose()

    run(scenario)


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificate, key = authority.sign("worker")
    return Tls(str(certificate), str(key), str(authority.certificate))


def test_links_over_tls_send_what_others_send(tls: Tls) -> None:
    async def scenario() -> None:
        async with serving(tls=tls.server()) as (_, address, links):
            link = await Link.connect(address, TOKEN, "writer", tls=tls.client())
            other = await links.get()
            reader = Reader()
            channel = joined(link, other, 1, reader)
            sizes = [1, 300, 20_000, 1_000_000]
            for size in sizes:
                await channel.send(batch(*range(size)))
            channel.put(END)
            await until(lambda: reader.seen[-1:] == [END])
            assert reader.seen == [*(list(range(size)) for size in sizes), END]
            received: list[bytes] = []
            link.on_message = received.append
            message = secrets.token_bytes(5_000_000)
            other.send_message(message)
            await other.aclose()
            await link.lost
            assert received == [message]

    run(scenario)


def test_a_side_without_a_certificate_is_refused(tls: Tls) -> None:
    async def scenario() -> None:
        async with serving(tls=tls.server()) as (_, address, links):
            without = ssl.create_default_context(cafile=tls.ca)
            without.check_hostname = False
            with pytest.raises(ConfigError) as caught:
                await Link.connect(address, TOKEN, "writer", tls=without)
            assert caught.value.code == "E0439"
            assert links.empty()

    run(scenario)


def test_a_server_that_is_closed_keeps_its_links() -> None:
    async def scenario() -> None:
        links: asyncio.Queue[Link] = asyncio.Queue()
        server = LinkServer(TOKEN, "reader", links.put_nowait)
        link = await Link.connect(await server.start(), TOKEN, "writer")
        other = await links.get()
        await server.aclose()
        received: list[bytes] = []
        other.on_message = received.append
        link.send_message(b"still there")
        await until(lambda: received == [b"still there"])
        await link.aclose()

    run(scenario)
