"""Where a test's server comes from. The one place that decides:

1. programs that are on this machine already, on PATH or where Debian puts them;
2. as root on Debian: the package, installed now;
3. Docker: a container of `compose.yaml`;
4. else the test is skipped, but where `CI` is true it fails.

`TEST_SERVERS=docker` begins at 3, `TEST_SERVERS=local` ends before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import compose

WAYS = ("", "local", "docker")


def choose(name: str, find: Callable[[], Path | None], package: str) -> Path | None:
    """What `find` gives for programs of this machine, or None for a container. name: to show.
    package: Debian's. Raises pytest's own outcomes."""
    way = os.environ.get("TEST_SERVERS", "")
    if way not in WAYS:
        pytest.fail(f"TEST_SERVERS is {way!r}, and can be local or docker")
    if way != "docker":
        found = find() or (find() if installed(package) else None)
        if found is not None:
            return found
    if way != "local" and compose.usable():
        return None
    needed = f"no {name} on this machine: install it (apt-get install {package}), put it on PATH, "
    needed += "or start Docker with its compose plugin"
    if os.environ.get("CI") == "true":
        pytest.fail(needed)
    pytest.skip(needed)


def installed(package: str) -> bool:
    """As root on a Debian machine: fetch the package, where that can be done."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    # RUNLEVEL: Redis' package would start a server of its own on the usual port.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, capture_output=True, timeout=600
        )
        if done.returncode:
            return False
    return True
