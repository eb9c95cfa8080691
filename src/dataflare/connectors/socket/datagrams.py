"""Send datagrams (UDP). Nothing tells whether one has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dataflare.connectors.socket.config import SocketDestinationConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.addresses import address_of
from dataflare.sdk.push.sending import Link

DATAGRAM_BYTES = 65_507
"""What UDP over IPv4 takes at most."""


class DatagramLink(Link, asyncio.DatagramProtocol):
    """A socket that sends to one address. The system may tell, some time later, that nothing listens there (E0607)."""

    def __init__(self, config: SocketDestinationConfig, context: ConnectorContext) -> None:
        self._place, self._step, self.timeout = config.endpoint, context.step, config.timeout
        self._transport: asyncio.DatagramTransport | None = None
        self._room = asyncio.Event()
        self._error: Exception | None = None

    async def connect(self) -> None:
        address, loop = address_of(self._place.place), asyncio.get_running_loop()
        self._error = None
        self._room.set()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: self, remote_addr=(address.host, address.port)
            )
        except OSError as error:
            raise self._translated(error) from error

    async def deliver(self, messages: Sequence[bytes]) -> int:
        """Those before an error count as sent: whether they arrived is not known."""
        assert self._transport is not None
        for number, message in enumerate(messages):
            await self._room.wait()
            if self._error is not None:
                return number
            self._transport.sendto(message)
        for _ in range(2):  # one turn of the loop to ask the system for an error, one to be told
            await asyncio.sleep(0)
        return len(messages) if self._error is None else len(messages) - 1

    def broken(self) -> DataFlareError:
        assert self._error is not None
        return self._translated(self._error)

    def _translated(self, error: Exception) -> DataFlareError:
        return SystemError_(
            f"datagrams cannot be sent to {self._place}: {error}",
            code="E0607",
            step=self._step,
            retry=Retry.LATER,
            help="see whether the receiver runs and the address is right",
        )

    async def aclose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # -- what asyncio calls ------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def error_received(self, exc: Exception) -> None:
        self._error = exc
        self._room.set()
