"""What a job and its workers make sure of before anything runs: the same versions, a storage that all see, and links.

Nothing here depends on what a workflow needs, so a worker of another version can answer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from dataflare.checkpoint.shared_places import BucketPlace, SharedPlace
from dataflare.errors import ConfigError, DataFlareError, Retry, RunError

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


def leave_mark(place: SharedPlace, name: str) -> str:
    """Write a text that every worker must see. Gives its name."""
    mark = f".seen-{name.replace('/', '-')}"
    place.write(mark, name)
    return mark


def answer_mark(place: SharedPlace, mark: str, name: str, number: int, worker: str) -> None:
    """See the job's text, and write one that it must see. Raises ConfigError (E0434)."""
    try:
        seen = place.read(mark)
        if seen == name:
            place.write(f"{mark}-{number}", name)
            return
        why = "it is not there" if seen is None else "its content is another"
    except OSError as error:
        why = error.strerror or str(error)
    except DataFlareError as error:
        why = error.message
    raise _unshared(f"'{worker}' does not see what its job wrote into {place.shown}: {why}", place)


def take_marks(place: SharedPlace, mark: str, numbers: Mapping[int, str]) -> None:
    """See the texts of all workers, and remove them. numbers: of the workers, with their names. Raises ConfigError (E0434)."""
    missing = [worker for number, worker in numbers.items() if not place.read(f"{mark}-{number}")]
    place.remove([*(f"{mark}-{number}" for number in numbers), mark])
    if missing:
        raise _unshared(f"the job does not see what '{missing[0]}' wrote into {place.shown}", place)


def unreached(worker: str, address: tuple[str, int], why: str) -> RunError:
    """A worker cannot reach another one."""
    return RunError(
        f"'{worker}' cannot reach the worker at {address[0]}:{address[1]}: {why}",
        code="E0833",
        help="open the ports between the nodes: workers listen on a port that the system chooses, and tell it to each other",
        retry=Retry.LATER,
    )


def _unshared(message: str, place: SharedPlace) -> ConfigError:
    if isinstance(place, BucketPlace):
        cure = "let the nodes reach the bucket, with AWS_ENDPOINT_URL, AWS_REGION and credentials in the environment of workers"
    else:
        cure = "set settings.checkpoint.storage to a bucket, or to a folder that all nodes see under the same path"
    return ConfigError(message, code="E0434", help=cure)
