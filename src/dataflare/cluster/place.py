"""Where workers run, and what each of them needs."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from dataflare.cluster.tls import Tls
from dataflare.errors import ConfigError

if TYPE_CHECKING:
    from dataflare.workflow.settings import Cluster

_LOCAL = re.compile(r"local:([1-9][0-9]{0,2})", re.ASCII)


class Place(Struct, frozen=True):
    """Where workers run. address: of a Ray cluster, `auto` for the one that this machine belongs to, or None for a small one
    of this machine that begins now. workers: how many; None: one for each processor that is free. cpu and memory: of each, as
    it is asked of Ray; label: a resource of Ray that its node must have. priority: of the job, where others wait for room too.
    shared: other jobs may have the rest of a processor. own: no other job ever uses the same processes. tls: of the links."""

    address: str | None
    workers: int | None = None
    spread: bool = True
    cpu: float = 1.0
    memory: int | None = None
    label: str | None = None
    priority: int = 0
    shared: bool = False
    own: bool = False
    tls: Tls | None = None

    @classmethod
    def of(cls, text: str, settings: Cluster, base: Path) -> Place:
        """From `auto`, `ray://HOST:PORT` or `local:N`, and the workflow's settings. base: of relative paths. Raises ConfigError
        (E0432)."""
        match = _LOCAL.fullmatch(text)
        files = settings.tls
        tls = None
        if files is not None:
            paths = (files.cert, files.key, files.ca)
            tls = Tls(*(os.path.abspath(base / Path(path).expanduser()) for path in paths))
        if match:
            return cls(None, int(match[1]), tls=tls)
        address = address_of(text)
        asked, workers = settings.resources, settings.workers
        if workers is None and settings.autoscale is not None:
            workers = settings.autoscale.min
        return cls(
            address,
            workers,
            settings.placement == "spread",
            asked.cpu,
            asked.memory,
            asked.label,
            settings.priority,
            settings.share,
            tls=tls,
        )

    @property
    def worker_cpu(self) -> float:
        """The processors of a worker's process."""
        return float(math.ceil(self.cpu)) if self.shared else self.cpu


def address_of(text: str) -> str:
    """The address of a cluster that is there. Raises ConfigError (E0432)."""
    if text == "auto" or text.startswith("ray://"):
        return text
    raise ConfigError(
        f"'{text}' is not a cluster",
        code="E0432",
        help="use auto, ray://HOST:PORT, or local:N for N workers on this machine",
    )
