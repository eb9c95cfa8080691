"""What a job and its workers make sure of before anything runs: the same versions, a folder that all see, and links.

Nothing here depends on what a workflow needs, so a worker of another version can answer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dataflare.errors import ConfigError, Retry, RunError

_PACKAGES = ("dataflare", "polars", "polars-hash", "sqlglot", "pydantic", "msgspec")
"""Plans are made of their objects. Those of connectors are imported where they are used, and say themselves when they lack."""


def versions() -> dict[str, str]:
    """Of this process."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def refuse_other_versions(job: Mapping[str, str], worker: str) -> None:
    """Raise ConfigError (E0433) where this worker has others than its job."""
    here = versions()
    others = [
        f"{name} {here.get(name, 'none')} (the job has {wanted})"
        for name, wanted in job.items()
        if here.get(name, "none") != wanted
    ]
    if others:
        raise ConfigError(
            f"'{worker}' has {', '.join(others)}",
            code="E0433",
            help="install the same versions on every node of the cluster",
        )


def leave_mark(folder: Path, name: str) -> str:
    """Write a file that every worker must see. Gives its name."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = f".seen-{name.replace('/', '-')}"
    (folder / mark).write_text(name)
    return mark


def answer_mark(folder: Path, mark: str, name: str, number: int, worker: str) -> None:
    """See the job's file, and write one that it must see. Raises ConfigError (E0434)."""
    try:
        seen = (folder / mark).read_text()
        if seen == name:
            (folder / f"{mark}-{number}").write_text(name)
            return
        why = "its content is another"
    except OSError as error:
        why = error.strerror or str(error)
    raise _unshared(f"'{worker}' does not see what its job wrote into {folder}: {why}")


def take_marks(folder: Path, mark: str, numbers: Mapping[int, str]) -> None:
    """See the files of all workers, and remove them. numbers: of the workers, with their names. Raises ConfigError (E0434)."""
    missing = [
        worker for number, worker in numbers.items() if not (folder / f"{mark}-{number}").is_file()
    ]
    for number in numbers:
        (folder / f"{mark}-{number}").unlink(missing_ok=True)
    (folder / mark).unlink(missing_ok=True)
    if missing:
        raise _unshared(f"the job does not see what '{missing[0]}' wrote into {folder}")


def unreached(worker: str, address: tuple[str, int], why: str) -> RunError:
    """A worker cannot reach another one."""
    return RunError(
        f"'{worker}' cannot reach the worker at {address[0]}:{address[1]}: {why}",
        code="E0833",
        help="open the ports between the nodes: workers listen on a port that the system chooses, and tell it to each other",
        retry=Retry.LATER,
    )


def _unshared(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="E0434",
        help="set settings.checkpoint.storage, or DATAFLARE_HOME, to a folder that all nodes see under the same path",
    )
