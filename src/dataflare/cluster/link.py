"""One connection between two processes: channels, messages, and how the loss of the other side is noticed.

Always true:
- both sides have proved that they know the token, before a frame is read or written;
- messages arrive in the order in which they were sent, and so do the rows and marks of a channel;
- a link ends once, for all: `lost` is done, waiting senders raise its error, and nothing is sent or told any more;
- a side that says nothing for `LOST_AFTER_S` is lost. A batch that is on its way counts as a sign of life, whole or not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dataflare.cluster.frames import (
    BadBody,
    Compression,
    Credit,
    Kind,
    credit_body,
    read_credit,
)
from dataflare.cluster.tls import closed, refused
from dataflare.cluster.trust import REFUSED, proved
from dataflare.cluster.wire import Frame, Line, Wire
from dataflare.engine.pool import ThreadPool
from dataflare.errors import DataFlareError, InternalError, Retry, RunError

PROBE_AFTER_S = 0.5
LOST_AFTER_S = 2.5
_LOOK_S = 0.25
_GIVE_BACK_S = 0.005
HANDSHAKE_S = 10.0
CLOSE_S = 5.0
QUEUED_MAX = 256 << 20
"""So many bytes of messages may wait for the socket, and so many bytes of a side that is not ready for them are kept."""
STRANGERS_MAX = 1024
"""So many connections may be without a proof at a time."""

Address = tuple[str, int]


class LinkLost(RunError):
    """The other side of a link is gone. peer: its name."""

    retry = Retry.LATER

    def __init__(self, me: str, peer: str, why: str) -> None:
        self.peer, self.why = peer, why
        super().__init__(
            f"'{me}' has lost the connection to '{peer}': {why}",
            code="E0830",
            help="see whether that process, its machine and the network between are well; the run resumes from its last"
            " checkpoint",
        )
        self._parts = me, peer, why

    def __reduce__(self) -> tuple[type[LinkLost], tuple[str, str, str]]:
        return LinkLost, self._parts


class RowsReceiver(Protocol):
    """The end of a channel where its rows arrive."""

    def arrived(self, kind: Kind, body: bytes, arrived_s: float) -> None:
        """Rows or a mark. They arrive in order."""

    def link_ended(self) -> None: ...

    def give_back(self) -> None:
        """Send the credit that is owed."""


class RowsSender(Protocol):
    """The end of a channel where its rows are sent."""

    def credited(self, credit: Credit) -> None: ...
    def cancel(self) -> None: ...
    def link_ended(self) -> None: ...


class Link:
    """A connection to another process. Made by `connect`, or by a `LinkServer`.

    me, peer: the names of both sides. lost: done when the link has ended; its result is None where one side closed it, else
    it has the error. pool, compression: for the rows of channels.
    """

    def __init__(
        self,
        wire: Wire,
        me: str,
        peer: str,
        pool: ThreadPool | None = None,
        compression: Compression = "none",
    ) -> None:
        self.me, self.peer, self.pool, self.compression = me, peer, pool, compression
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        # An owner that does not look at it gets no complaint of asyncio: senders raise the error.
        self.lost.add_done_callback(_seen)
        self.wire = wire
        self._messages = Line()
        self._on_message: Callable[[bytes], None] | None = None
        self._receivers: dict[int, RowsReceiver] = {}
        self._senders: dict[int, RowsSender] = {}
        self._kept: dict[int, list[tuple[Kind, bytes, float]]] = {}
        self._kept_messages: deque[bytes] = deque()
        self._kept_credits: dict[int, Credit] = {}
        self._kept_cancels: set[int] = set()
        self.kept_bytes = 0
        self._owing: list[RowsReceiver] = []
        self._is_closing = False
        self._looked_s = self._loop.time()
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        wire.begin(self)

    @classmethod
    async def connect(
        cls,
        address: Address,
        token: bytes,
        me: str,
        *,
        tls: ssl.SSLContext | None = None,
        pool: ThreadPool | None = None,
        compression: Compression = "none",
    ) -> Link:
        """Connect to a `LinkServer`. tls: a context for a client, as `Tls.client` gives it. Raises RunError (E0831) if one side
        refuses the other, ConfigError (E0439) if it is for TLS, and LinkLost if it cannot be reached."""
        host, port = address
        other = f"{host}:{port}"
        loop = asyncio.get_running_loop()
        wire = Wire()
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await loop.create_connection(
                    lambda: wire,
                    host,
                    port,
                    ssl=tls,
                    server_hostname=host if tls else None,
                )
                peer = await _proved(wire, token, me, other, with_tls=tls is not None)
        except ssl.SSLError as error:
            wire.abort()
            raise refused(other, error) from error
        except (OSError, TimeoutError) as error:
            wire.abort()
            raise LinkLost(me, other, _reason(error)) from error
        except BaseException:
            wire.abort()
            raise
        return cls(wire, me, peer, pool, compression)

    # -- messages ----------------------------------------------------------------------------------

    def send_message(self, message: bytes) -> None:
        """Send a message, behind those that were sent before. Raises the link's error if it has ended."""
        self.check()
        self.wire.send(self._messages, Frame(Kind.MESSAGE, 0, message))
        if self._messages.queued_bytes > QUEUED_MAX:
            self.fail(f"it takes no messages: {self._messages.queued_bytes:,} bytes wait")

    @property
    def on_message(self) -> Callable[[bytes], None] | None:
        """What is called with each message. Those that came before it was set are told when it is."""
        return self._on_message

    @on_message.setter
    def on_message(self, on_message: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        while self._kept_messages:
            message = self._kept_messages.popleft()
            self.kept_bytes -= len(message)
            on_message(message)

    async def written(self) -> None:
        """Wait until the socket has taken what was sent so far, or the link has ended."""
        await self.wire.all_written()

    # -- channels ----------------------------------------------------------------------------------

    def add_receiver(self, number: int, receiver: RowsReceiver) -> None:
        """Where rows and marks of a channel go. Those that came before are told now."""
        assert number not in self._receivers
        self._receivers[number] = receiver
        for kind, body, arrived_s in self._kept.pop(number, ()):
            self.kept_bytes -= len(body)
            receiver.arrived(kind, body, arrived_s)

    def add_sender(self, number: int, sender: RowsSender) -> None:
        """Where what a channel's reader says goes. What it said before is told now."""
        assert number not in self._senders
        self._senders[number] = sender
        credit = self._kept_credits.pop(number, None)
        if credit is not None:
            sender.credited(credit)
        if number in self._kept_cancels:
            self._kept_cancels.discard(number)
            sender.cancel()

    def remove_receiver(self, number: int) -> None:
        self._receivers.pop(number, None)

    def remove_sender(self, number: int) -> None:
        self._senders.pop(number, None)

    def send(self, line: Line, frame: Frame) -> None:
        """Send rows or a mark of a channel. line: that of the channel."""
        self.check()
        self.wire.send(line, frame)

    def send_credit(self, number: int, credit: Credit) -> None:
        if not self.lost.done():
            self.wire.send_first(Kind.CREDIT, number, credit_body(credit))

    def give_back_soon(self, receiver: RowsReceiver) -> None:
        """Call its `give_back` soon, with those of other channels: to wake the other side for each batch costs more than a
        small batch."""
        if not self._owing:
            self._loop.call_later(_GIVE_BACK_S, self._give_back)
        self._owing.append(receiver)

    def _give_back(self) -> None:
        owing, self._owing = self._owing, []
        for receiver in owing:
            receiver.give_back()

    def send_cancel(self, number: int) -> None:
        if not self.lost.done():
            self.wire.send_first(Kind.CANCEL, number)

    # -- the end -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the link's error if it has ended."""
        if self.lost.done():
            raise self.lost.exception() or LinkLost(self.me, self.peer, "the link was closed")

    def fail(self, why: str | DataFlareError) -> None:
        """End the link at once, with an error."""
        self._end(LinkLost(self.me, self.peer, why) if isinstance(why, str) else why)
        self.wire.abort()

    async def aclose(self) -> None:
        """Send what waits, tell the other side that nothing follows, and end the link."""
        if self._is_closing or self.lost.done():
            return
        self._is_closing = True
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.wire.all_written()
                self.wire.send_first(Kind.CLOSE, 0)
                await self.wire.all_written()
        except TimeoutError:
            self.fail(f"it has not taken what was sent for {CLOSE_S:g} s")
        else:
            self._end(None)
            self.wire.close()

    def _end(self, error: DataFlareError | None) -> None:
        if self.lost.done():
            return
        self._timer.cancel()
        if error is None:
            self.lost.set_result(None)
        else:
            self.lost.set_exception(error)
        for receiver in tuple(self._receivers.values()):
            receiver.link_ended()
        for sender in tuple(self._senders.values()):
            sender.link_ended()

    def _look(self) -> None:
        now = self._loop.time()
        # A loop that stood still has not read what arrived meanwhile, so this time is not the other side's.
        self.wire.heard_s += max(0.0, now - self._looked_s - 2 * _LOOK_S)
        self._looked_s = now
        if now - self.wire.heard_s > LOST_AFTER_S:
            self.fail(f"it has sent nothing for {LOST_AFTER_S:g} s")
            return
        if now - self.wire.sent_s >= PROBE_AFTER_S and not self.wire.has_frames:
            self.wire.send_first(Kind.PROBE, 0)
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    # -- called by the wire ------------------------------------------------------------------------

    def arrived(self, kind: Kind, channel: int, body: bytes, arrived_s: float) -> None:
        if self.lost.done():
            return
        try:
            self._arrived(kind, channel, body, arrived_s)
        except BadBody as error:
            self.fail(str(error))
        except DataFlareError as error:
            self.fail(error)
        except Exception as error:
            self.fail(_internal(error))

    def _arrived(self, kind: Kind, channel: int, body: bytes, arrived_s: float) -> None:
        if kind is Kind.ROWS or kind is Kind.MARK:
            receiver = self._receivers.get(channel)
            if receiver is not None:
                receiver.arrived(kind, body, arrived_s)
            else:
                self._kept.setdefault(channel, []).append((kind, body, arrived_s))
                self._keep(len(body))
        elif kind is Kind.CREDIT:
            self._credited(channel, read_credit(body))
        elif kind is Kind.MESSAGE:
            if self._on_message is not None:
                self._on_message(body)
            else:
                self._kept_messages.append(body)
                self._keep(len(body))
        elif kind is Kind.CANCEL:
            sender = self._senders.get(channel)
            if sender is not None:
                sender.cancel()
            else:
                self._kept_cancels.add(channel)
        elif kind is Kind.CLOSE:
            self._end(None)
            self.wire.close()

    def ended(self, error: Exception | None) -> None:
        self._end(LinkLost(self.me, self.peer, _reason(error)))

    def _credited(self, number: int, credit: Credit) -> None:
        sender = self._senders.get(number)
        if sender is not None:
            sender.credited(credit)
            return
        before = self._kept_credits.get(number)
        returned = credit.returned + (before.returned if before is not None else 0)
        self._kept_credits[number] = credit._replace(returned=returned)

    def _keep(self, count: int) -> None:
        self.kept_bytes += count
        if self.kept_bytes > QUEUED_MAX:
            self.fail(f"it sent {self.kept_bytes:,} bytes that no task here takes yet")


class LinkServer:
    """Accepts links.

    token: which the other side must prove. on_link: called with each link, before anything is read from it. tls: a context
    for a server; to ask the other side for a certificate, its `verify_mode` is CERT_REQUIRED.
    """

    def __init__(
        self,
        token: bytes,
        me: str,
        on_link: Callable[[Link], None],
        *,
        tls: ssl.SSLContext | None = None,
        pool: ThreadPool | None = None,
        compression: Compression = "none",
    ) -> None:
        self._token, self._me, self._on_link = token, me, on_link
        self._tls, self._pool, self._compression = tls, pool, compression
        self._server: asyncio.Server | None = None
        self._strangers: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Connections that were closed because they brought no proof."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Address:
        """Listen. Gives the address; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Wire(self._connected),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
        )
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def aclose(self) -> None:
        """Accept nothing more. Links go on."""
        if self._server is not None:
            self._server.close()
        for task in self._strangers:
            task.cancel()
        await asyncio.gather(*self._strangers, return_exceptions=True)

    def _connected(self, wire: Wire) -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            self.refused += 1
            wire.abort()
            return
        task = asyncio.ensure_future(self._accept(wire))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _accept(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                peer = await proved(wire, self._token, self._me, connects=False, other="the caller")
        except (RunError, OSError, TimeoutError):
            self.refused += 1
            wire.abort()
        except BaseException:
            wire.abort()
            raise
        else:
            link = Link(wire, self._me, peer, self._pool, self._compression)
            try:
                self._on_link(link)
            except Exception as error:
                link.fail(error if isinstance(error, DataFlareError) else _internal(error))


async def _proved(wire: Wire, token: bytes, me: str, other: str, *, with_tls: bool) -> str:
    """`proved` of the side that connects, where a connection that is closed in the middle of the proof is a refusal."""
    try:
        return await proved(wire, token, me, connects=True, other=other)
    except ConnectionError as error:
        if with_tls:
            raise closed(other) from error
        raise RunError(
            f"{other} closed the connection before it was proved: it has another token, takes TLS only, or is not a"
            " worker of DataFlare",
            code=REFUSED,
            help="start all workers of a job by the same command, with the same settings.cluster.tls",
        ) from error


def _internal(error: Exception) -> InternalError:
    return InternalError(
        f"a link could not hand on what arrived: {error!r}", help="please report this"
    )


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "it closed the connection"
    if isinstance(error, TimeoutError) and not str(error):
        return "it does not answer"
    return str(error) or type(error).__name__


def _seen(lost: asyncio.Future[None]) -> None:
    if not lost.cancelled():
        lost.exception()
