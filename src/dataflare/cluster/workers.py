"""The processes that run tasks, as a job asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dataflare.cluster.orders import Address
from dataflare.cluster.tls import Tls


class Workers(Protocol):
    """Processes that run tasks, wherever they are. token: that they know. count: how many of them attempts use. host: the address of
    this machine that they reach. tls: of the links to them."""

    @property
    def token(self) -> bytes: ...

    @property
    def count(self) -> int: ...

    @property
    def host(self) -> str: ...

    @property
    def tls(self) -> Tls | None: ...

    async def ready(self) -> Sequence[Address]:
        """The addresses of the workers that are used. Those that were lost have been replaced."""

    async def want(self, count: int) -> None:
        """Ask the cluster to have nodes for so many, also if they come later."""

    async def hold(self, count: int) -> None:
        """Have at least so many, beside those that are used. Raises SystemError_ (E0617) where there is no room for them."""

    def use(self, count: int) -> None:
        """From the next attempt on, use so many of those that there are."""

    async def release(self) -> None:
        """End those that are not used."""

    def lost(self, number: int) -> None:
        """A worker is gone, or does not answer: nothing is asked of it again."""
