"""A service of `compose.yaml` as a test's server: a project of its own, so that several are there at once."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "compose.yaml"
_UP_S = 300  # with the time to fetch an image


@functools.cache
def usable() -> bool:
    """Whether there is a Docker that answers, with its compose plugin."""
    if shutil.which("docker") is None:
        return False
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=30)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


class Service:
    """One container.

    variables: those of `compose.yaml`. more: what the service has beside what the file says.
    """

    def __init__(
        self, name: str, folder: Path, variables: Mapping[str, str], more: Mapping[str, Any]
    ) -> None:
        self._name, self._variables = name, variables
        override = folder / "compose.override.json"
        override.write_text(json.dumps({"services": {name: more}}))
        # mkdtemp may make names that a project must not have.
        project = "".join(c if c.isalnum() else "-" for c in folder.name.lower())
        self._command = ["docker", "compose", "-p", project, "-f", str(FILE), "-f", str(override)]

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """`docker compose ARGUMENTS`; raises with what it said."""
        done = subprocess.run(
            [*self._command, *arguments],
            env={**os.environ, **self._variables}, input=stdin, capture_output=True, timeout=_UP_S,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-4000:]
            raise RuntimeError(f"docker compose {' '.join(arguments)} failed:\n{said}")
        return done.stdout

    def up(self) -> None:
        """Start it, also after `kill`, and wait until it is healthy."""
        self("up", "--detach", "--wait", "--wait-timeout", "120", self._name)

    def kill(self) -> None:
        """SIGKILL to all that runs in it. Nothing where it does not run."""
        if self("ps", "--quiet", "--status", "running", self._name).strip():
            self("kill", "--signal", "SIGKILL", self._name)

    def pause(self) -> None:
        self("pause", self._name)

    def go_on(self) -> None:
        self("unpause", self._name)

    def run(self, script: str, stdin: bytes | None = None) -> bytes:
        """A shell script in it, as root."""
        return self(
            "exec", "--no-TTY", "--user", "root", self._name, "sh", "-ec", script, stdin=stdin
        )

    def down(self) -> None:
        """Remove it, with its data."""
        self("down", "--volumes", "--timeout", "0")
