"""A link between two processes: `python -m benchmarks.links [--turns 5] [--megabytes 256]`.

Throughput, for batches of 64 KiB to 4 MiB, in GB/s of encoded batches:

    link       batches from a `RemoteChannel` to an inbox of the other process: encoded, sent with credit, decoded
    bodies     the same link and credit, bodies encoded beforehand and not decoded
    bare       the same bytes by a bare asyncio connection, encoded beforehand and not decoded
    bare again the A/A control
    encoded    a bare asyncio connection, encoded and decoded by the same two pools
    flight     Arrow Flight's do_put, where pyarrow is installed

Latency at 10,000 rows/s in batches of 10: by a link, by a bare connection, and by a channel of one process. All take turns. A
bar that is missed makes the exit status 1.

Compression: what it saves and costs, and below which speed of a network it is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import polars as pl
import psutil

from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.frames import HEADER_BYTES, Compression, Kind, read_rows, room_for, rows_body
from dataflare.cluster.link import Link, LinkServer
from dataflare.cluster.wire import Frame
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import Inbox, MemoryBudget
from dataflare.engine.gate import Rows
from dataflare.engine.pool import ThreadPool
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END

SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
SHARE_MIN, GB_S_MIN, ADDED_MS_MAX = 0.8, 0.5, 3.0
TOKEN = b"benchmark"
RATE, BATCH_ROWS = 10_000, 10
BARE_BYTES = 600
"""About what a link sends for such a batch."""


def batch_of(size: int) -> SharedDataBatch:
    """A batch of about so many bytes."""
    rows = size // 59
    numbers = pl.int_range(rows, eager=True)
    frame = pl.DataFrame(
        {
            "id": numbers,
            "amount": numbers.cast(pl.Float64) * 1.01,
            "customer": pl.Series([f"customer number {n % 1000}" for n in range(rows)]),
            "at": numbers.cast(pl.Datetime("us", "UTC")),
        }
    )
    return SharedDataBatch(frame.rechunk())


def inbox() -> Inbox:
    controller = BackpressureController(initial_credits=1_000_000, max_credits=1_000_000)
    return Inbox("reader", controller, MemoryBudget(1 << 30, controller))


# --- the reader's process -------------------------------------------------------------------------


async def read_channel(link: Link, number: int, late_ms: bool) -> None:
    box = inbox()
    entry = Entry(link, number, box.channel())
    report = await consumed(box, late_ms)
    entry.close()
    link.send_message(json.dumps({"number": number, **report}).encode())


async def consumed(box: Inbox, late_ms: bool) -> dict[str, Any]:
    """What came until the end: rows, and how late they were."""
    rows, late = 0, list[float]()
    while not box.gate.ended:
        event = await box.next()
        if isinstance(event, Rows):
            rows += event.batch.num_rows
            if late_ms:
                now_us = time.time_ns() // 1000
                late += [(now_us - at) / 1000 for at in event.batch.frame["due_us"].to_list()]
            box.done(event, 0.0)
    return {"rows": rows, "late_ms": late}


class Bodies:
    """Takes the bodies of a channel and gives their credit back, without a look into them."""

    def __init__(self, link: Link, number: int) -> None:
        from dataflare.cluster.channels import WINDOW_BYTES
        from dataflare.cluster.frames import Credit

        self.link, self.number, self.credit = link, number, Credit(0, WINDOW_BYTES, None)
        link.send_credit(number, self.credit)
        link.add_receiver(number, self)

    def arrived(self, kind: Kind, body: bytes, arrived_s: float) -> None:
        if kind is Kind.ROWS:
            self.link.send_credit(self.number, self.credit._replace(returned=len(body)))
        else:
            self.link.send_message(json.dumps({"number": self.number}).encode())

    def link_ended(self) -> None:
        """The benchmark ends as well."""


async def reader() -> None:
    pool = ThreadPool(2)
    running: set[asyncio.Task[None]] = set()

    def on_link(link: Link) -> None:
        def on_message(message: bytes) -> None:
            asked = json.loads(message)
            if asked["bodies"]:
                Bodies(link, asked["number"])
                return
            task = asyncio.ensure_future(read_channel(link, asked["number"], asked["late_ms"]))
            running.add(task)
            task.add_done_callback(running.discard)

        link.on_message = on_message

    async def bare(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        asked = await source.readexactly(1)
        decodes = asked == b"d"
        if asked == b"l":
            await timed(source, target)
            return
        while length := int.from_bytes(await source.readexactly(HEADER_BYTES), "big"):
            body = await source.readexactly(length)
            if decodes:
                await pool.submit(read_rows, body, 0.0)
        target.write(b"d")

    async def timed(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        late: list[float] = []
        while due_us := int.from_bytes(await source.readexactly(8), "big"):
            await source.readexactly(BARE_BYTES - 8)
            late += [(time.time_ns() // 1000 - due_us) / 1000] * BATCH_ROWS
        target.write(json.dumps(late).encode())
        target.close()

    server = LinkServer(TOKEN, "reader", on_link, pool=pool)
    link_address = await server.start()
    plain = await asyncio.start_server(bare, "127.0.0.1")
    ports = {
        "link": link_address[1],
        "bare": plain.sockets[0].getsockname()[1],
        "flight": start_flight(),
    }
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def start_flight() -> int | None:
    try:
        import pyarrow.flight as flight
    except ImportError:
        return None

    class Server(flight.FlightServerBase):  # type: ignore[misc]
        def do_put(self, context: Any, descriptor: Any, source: Any, target: Any) -> None:
            for chunk in source:
                pl.from_arrow(chunk.data)

    server = Server("grpc://127.0.0.1:0")
    import threading

    threading.Thread(target=server.serve, daemon=True).start()
    return int(server.port)


# --- the sender's process -------------------------------------------------------------------------


class Sender:
    """The ways to send a batch so many times. Each gives seconds."""

    def __init__(self, child: int, ports: dict[str, int], link: Link, pool: ThreadPool) -> None:
        self.ports, self.link, self.pool = ports, link, pool
        self.processes = psutil.Process(), psutil.Process(child)
        self.number = 0
        self.reports: dict[int, asyncio.Future[dict[str, Any]]] = {}
        link.on_message = self._on_message

    def cpu_s(self) -> float:
        """CPU time of both processes. On a busy machine it varies less than seconds do."""
        times = [process.cpu_times() for process in self.processes]
        return sum(each.user + each.system for each in times)

    def _on_message(self, message: bytes) -> None:
        report = json.loads(message)
        self.reports[report["number"]].set_result(report)

    def open(self, *, late_ms: bool = False, bodies: bool = False) -> RemoteChannel:
        self.number += 1
        self.reports[self.number] = asyncio.get_running_loop().create_future()
        asked = {"number": self.number, "late_ms": late_ms, "bodies": bodies}
        self.link.send_message(json.dumps(asked).encode())
        return RemoteChannel(self.link, self.number)

    async def link_of_batches(self, batch: SharedDataBatch, times: int) -> float:
        channel = self.open()
        began = time.perf_counter()
        for _ in range(times):
            await channel.send(batch)
        channel.put(END)
        report = await self.reports[channel.number]
        assert report["rows"] == batch.num_rows * times
        return time.perf_counter() - began

    async def link_of_bodies(self, batch: SharedDataBatch, times: int) -> float:
        channel = self.open(bodies=True)
        body = bytes(rows_body(batch, "none", room_for(batch)))
        began = time.perf_counter()
        for _ in range(times):
            frame = Frame(Kind.ROWS, channel.number, memoryview(bytearray(body)), 0.0)
            await channel.send_frame(frame)
        channel.put(END)
        await self.reports[channel.number]
        return time.perf_counter() - began

    async def bare(self, batch: SharedDataBatch, times: int, *, encodes: bool = False) -> float:
        source, target = await asyncio.open_connection("127.0.0.1", self.ports["bare"])
        target.write(b"d" if encodes else b"-")
        body = bytes(rows_body(batch, "none", room_for(batch)))[HEADER_BYTES:]
        began = time.perf_counter()
        for _ in range(times):
            if encodes:
                view = await self.pool.submit(rows_body, batch, "none", room_for(batch))
                body = view[HEADER_BYTES:]
            target.write(len(body).to_bytes(HEADER_BYTES, "big"))
            target.write(body)
            await target.drain()
        target.write(bytes(HEADER_BYTES))
        await source.readexactly(1)
        took = time.perf_counter() - began
        target.close()
        return took

    async def encoded(self, batch: SharedDataBatch, times: int) -> float:
        return await self.bare(batch, times, encodes=True)

    async def flight(self, batch: SharedDataBatch, times: int) -> float:
        return await asyncio.to_thread(self._flight, batch, times)

    def _flight(self, batch: SharedDataBatch, times: int) -> float:
        import pyarrow.flight as flight

        client = flight.connect(f"grpc://127.0.0.1:{self.ports['flight']}")
        table = batch.frame.to_arrow(compat_level=pl.CompatLevel.newest())
        writer, source = client.do_put(flight.FlightDescriptor.for_path("rows"), table.schema)
        began = time.perf_counter()
        for _ in range(times):
            table = batch.frame.to_arrow(compat_level=pl.CompatLevel.newest())
            writer.write_batch(table.to_batches()[0])
        writer.done_writing()
        source.read()
        took = time.perf_counter() - began
        writer.close()
        client.close()
        return took


Way = Callable[[SharedDataBatch, int], Awaitable[float]]


async def throughput(sender: Sender, size: int, megabytes: int, turns: int) -> bool:
    batch = batch_of(size)
    encoded_bytes = len(rows_body(batch, "none", room_for(batch)))
    times = max(4, (megabytes << 20) // encoded_bytes)
    ways: dict[str, Way] = {
        "link": sender.link_of_batches,
        "bodies": sender.link_of_bodies,
        "bare": sender.bare,
        "encoded": sender.encoded,
        "bare again": sender.bare,
    }
    if sender.ports["flight"]:
        ways["flight"] = sender.flight
    took: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(turns + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            before_s = sender.cpu_s()
            seconds = await ways[name](batch, times)
            if turn:  # the first one warms up
                gigabytes = encoded_bytes * times / 1e9
                took[name].append(gigabytes / seconds)
                cpu[name].append((sender.cpu_s() - before_s) / gigabytes)
    print(f"batches of {encoded_bytes >> 10} KiB, {batch.num_rows} rows; {times} of them a turn")
    for name, speeds in took.items():
        ratio = statistics.median(a / b for a, b in zip(speeds, took["bare"], strict=True))
        print(
            f"  {name:11} {statistics.median(speeds):5.2f} GB/s"
            f" ({min(speeds):.2f}..{max(speeds):.2f})  {ratio:5.2f} of bare"
            f"  {statistics.median(cpu[name]):5.2f} CPU s a GB"
        )
    share = statistics.median(a / b for a, b in zip(took["link"], took["bare"], strict=True))
    met = share >= SHARE_MIN and statistics.median(took["link"]) >= GB_S_MIN
    print(f"  {'met' if met else 'MISSED'}: at least {SHARE_MIN:g} of bare, and {GB_S_MIN:g} GB/s")
    return met


def compressions(megabytes: int) -> None:
    """Of batches of 1 MiB, by one thread."""
    batch = batch_of(1 << 20)
    plain_bytes = len(rows_body(batch, "none", room_for(batch)))
    times = max(4, (megabytes << 20) // plain_bytes)
    plain_s = 0.0
    ways: tuple[Compression, ...] = ("none", "lz4", "zstd")
    for way in ways:
        body = bytes(rows_body(batch, way, room_for(batch)))[HEADER_BYTES:]
        began = time.process_time()
        for _ in range(times):
            rows_body(batch, way, room_for(batch))
        encoded = time.process_time()
        for _ in range(times):
            read_rows(body, 0.0)
        gigabytes = plain_bytes * times / 1e9
        encodes_s, decodes_s = (
            (encoded - began) / gigabytes,
            (time.process_time() - encoded) / gigabytes,
        )
        share = len(body) / plain_bytes
        text = f"  {way:5} {share:.2f} of the bytes, {encodes_s:.2f} + {decodes_s:.2f} CPU s a GB"
        if way == "none":
            plain_s = encodes_s + decodes_s
        else:
            saves_at = (1 - share) / max(1e-9, encodes_s + decodes_s - plain_s)
            text += f": saves more than it costs below {saves_at:.2f} GB/s"
        print(text)


# --- latency --------------------------------------------------------------------------------------


async def paced(send: Callable[[int], Awaitable[None]], seconds: float) -> None:
    """Call `send` with the time, for each batch when it falls due."""
    began_ns = time.time_ns()
    for number in range(int(RATE * seconds) // BATCH_ROWS):
        wait_ns = began_ns + number * BATCH_ROWS * 1_000_000_000 // RATE - time.time_ns()
        if wait_ns > 0:
            await asyncio.sleep(wait_ns / 1e9)
        await send(time.time_ns() // 1000)


def timed_batch(due_us: int) -> SharedDataBatch:
    frame = pl.DataFrame({"due_us": [due_us] * BATCH_ROWS, "id": range(BATCH_ROWS)})
    return SharedDataBatch(frame)


async def local(seconds: float) -> list[float]:
    """By a channel of this process."""
    box = inbox()
    channel = box.channel()
    reading = asyncio.ensure_future(consumed(box, True))
    await paced(lambda due_us: channel.send(timed_batch(due_us)), seconds)
    channel.put(END)
    late: list[float] = (await reading)["late_ms"]
    return late


async def by_link(sender: Sender, seconds: float) -> list[float]:
    channel = sender.open(late_ms=True)
    await paced(lambda due_us: channel.send(timed_batch(due_us)), seconds)
    channel.put(END)
    late: list[float] = (await sender.reports[channel.number])["late_ms"]
    return late


async def by_connection(sender: Sender, seconds: float) -> list[float]:
    """By a bare connection, with the same number of bytes and nothing to encode."""
    source, target = await asyncio.open_connection("127.0.0.1", sender.ports["bare"])
    target.write(b"l")

    async def send(due_us: int) -> None:
        target.write(due_us.to_bytes(8, "big") + bytes(BARE_BYTES - 8))
        await target.drain()

    await paced(send, seconds)
    target.write(bytes(8))
    late: list[float] = json.loads(await source.read(-1))
    target.close()
    return late


async def latency(sender: Sender, seconds: float, turns: int) -> bool:
    ways = {
        "link": lambda: by_link(sender, seconds),
        "bare": lambda: by_connection(sender, seconds),
        "bare again": lambda: by_connection(sender, seconds),
        "local": lambda: local(seconds),
    }
    late: dict[str, list[list[float]]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            late[name].append(sorted(await ways[name]()))

    def rank(name: str, share: float) -> float:
        return statistics.median(each[int(len(each) * share)] for each in late[name])

    print(f"{RATE:,} rows/s in batches of {BATCH_ROWS}, {seconds:g} s a turn")
    for name in late:
        print(f"  {name:11} p50 {rank(name, 0.5):.3f} ms, p99 {rank(name, 0.99):.3f} ms")
    added = rank("link", 0.99) - rank("bare", 0.99)
    met = added <= ADDED_MS_MAX
    print(
        f"  {'met' if met else 'MISSED'}: adds {added:.3f} ms at p99 to a bare connection, at most"
        f" {ADDED_MS_MAX:g} ms"
    )
    return met


async def sender(given: argparse.Namespace) -> int:
    compressions(given.megabytes)
    command = [sys.executable, "-m", "benchmarks.links", "--reader"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    met = []
    try:
        ports = json.loads(child.stdout.readline())
        pool = ThreadPool(2)
        link = await Link.connect(("127.0.0.1", ports["link"]), TOKEN, "sender", pool=pool)
        ways = Sender(child.pid, ports, link, pool)
        for size in SIZES:
            met.append(await throughput(ways, size, given.megabytes, given.turns))
        if given.seconds:
            met.append(await latency(ways, given.seconds, given.turns))
        await link.aclose()
    finally:
        child.stdin.close()
        child.wait(30)
    return 0 if all(met) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256, help="a turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="a turn of the latency")
    given = parser.parse_args()
    if given.reader:
        asyncio.run(reader())
        return 0
    return asyncio.run(sender(given))


if __name__ == "__main__":
    sys.exit(main())
