"""What the tests' servers are made of, got with the ordinary clients of its registry and kept between runs.

Always true: a folder of the cache is whole or is not there, also if two processes want it at once; its name has
the version, so another version is another folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_FETCH_S = 900
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dataflare.tests</groupId><artifactId>{artifact}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
  </dependency></dependencies>
</project>
"""


def cache_folder() -> Path:
    """Where it is kept: $DATAFLARE_TESTS_CACHE, or dataflare-tests in the user's cache folder."""
    chosen = os.environ.get("DATAFLARE_TESTS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dataflare-tests"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name. make: fills it, the first time."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    with _locked(name):
        if not folder.is_dir():
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
            try:
                make(part)
                part.chmod(0o755)
                part.rename(folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    return folder


def maven(group: str, artifact: str, version: str) -> Path:
    """The folder with the jars of an artifact and all that it needs to run."""

    def make(folder: Path) -> None:
        pom = folder / "pom.xml"
        pom.write_text(_POM.format(group=group, artifact=artifact, version=version))
        run("mvn", "--batch-mode", "--quiet", f"--file={pom}", "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}", "-DincludeScope=runtime")  # fmt: skip

    return cached(f"{artifact}-{version}", make)


def pip(package: str, version: str) -> Path:
    """The folder with a Python package alone, for the PYTHONPATH of a process of its own."""

    def make(folder: Path) -> None:
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
            f"--target={folder}", f"{package}=={version}")  # fmt: skip

    return cached(f"{package}-{version}", make)


def npm(package: str, version: str) -> Path:
    """The folder in which npm has installed a package; its programs are in node_modules/.bin."""

    def make(folder: Path) -> None:
        run("npm", "install", "--silent", "--no-audit", "--no-fund", f"--prefix={folder}",
            f"{package}@{version}")  # fmt: skip

    return cached(f"{package.replace('/', '-')}-{version}", make)


def go(module: str, version: str) -> Path:
    """The folder with the programs of a Go module."""

    def make(folder: Path) -> None:
        run("go", "install", f"{module}@{version}", GOBIN=str(folder), GOFLAGS="-modcacherw")

    return cached(f"{module.rpartition('/')[2]}-{version}", make)


def go_program(source: Path) -> Path:
    """A program whose Go sources, and the versions of all that it needs, are in a folder. Skips the test where there is no
    Go."""
    if shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip(
            f"no Go on this machine, which {source.name} is built with: install it (golang)"
        )
    files = sorted(source.iterdir())
    mark = zlib.crc32(b"".join(file.read_bytes() for file in files))

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            for file in files:
                shutil.copy(file, work)
            run("go", f"-C={work}", "build", "-p=2", "-o", str(folder / source.name), ".",
                CGO_ENABLED="0", GOFLAGS="-modcacherw -buildvcs=false")  # fmt: skip

    return cached(f"{source.name}-{mark:08x}", make) / source.name


def run(*command: str, **environment: str) -> None:
    """A client of a registry. The test fails with what it said."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, timeout=_FETCH_S
        )
    except FileNotFoundError:
        pytest.fail(f"there is no {command[0]} on this machine, and the tests need it")
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-4000:]
        pytest.fail(f"{' '.join(command)} failed:\n{said}")


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time makes a folder of this name."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
