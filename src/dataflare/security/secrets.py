"""The providers of the value of `${secret:NAME}`.

Always true: a provider returns the value or None, and raises only when it could not look; its repr
shows where it looks and never a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dataflare.errors import WorkflowError

SECRETS_FOLDER_VARIABLE = "DATAFLARE_SECRETS_DIR"
CONTAINER_FOLDER = Path("/run/secrets")
_SECRET_BYTES_MAX = 2**20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class SecretProvider(Protocol):
    """A store of secrets by name: the environment, a folder, a keyring, a vault."""

    @property
    def place(self) -> str:
        """Where it looks, for the error about a secret that is not there."""
        ...

    def get(self, name: str) -> str | None:
        """The secret's value, or None if it is not here."""
        ...


class EnvironmentSecrets:
    """The environment: `DATAFLARE_SECRET_NAME`, else `NAME`. It looks for the name as it is written, then
    in capitals with underscores."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def __repr__(self) -> str:
        return "EnvironmentSecrets()"

    @property
    def place(self) -> str:
        return "the environment (DATAFLARE_SECRET_<NAME>, then <NAME>)"

    def get(self, name: str) -> str | None:
        upper_name = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
        for key in (f"DATAFLARE_SECRET_{name}", f"DATAFLARE_SECRET_{upper_name}", name, upper_name):
            if key in self._environ:
                return self._environ[key]
        return None


class FileSecrets:
    """A folder with one file per secret, as containers mount them. One line end at the end of the file
    is not part of the secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"FileSecrets({str(self.folder)!r})"

    @property
    def place(self) -> str:
        return f"the folder {self.folder}"

    def get(self, name: str) -> str | None:
        if _SAFE_NAME.fullmatch(name) is None:
            return None
        path = self.folder / name
        try:
            with path.open("rb") as stream:
                data = stream.read(_SECRET_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise WorkflowError(
                f"the secret '{name}' cannot be read from {path}: {error.strerror}",
                code="E0110",
                help="allow the user who runs DataFlare to read the file",
            ) from error
        if len(data) > _SECRET_BYTES_MAX:
            raise WorkflowError(
                f"the secret '{name}' in {path} is larger than 1 MiB",
                code="E0110",
                help="put only the secret into the file",
            )
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WorkflowError(
                f"the secret '{name}' in {path} is not UTF-8 text",
                code="E0110",
                help="write the secret as UTF-8 text",
            ) from None
        return text.removesuffix("\n").removesuffix("\r")


class ChainedSecrets:
    """Several providers, asked in order. The first that has the secret returns it."""

    def __init__(self, providers: Sequence[SecretProvider]) -> None:
        self.providers = tuple(providers)

    def __repr__(self) -> str:
        return f"ChainedSecrets({list(self.providers)!r})"

    @property
    def place(self) -> str:
        return ", ".join(provider.place for provider in self.providers)

    def get(self, name: str) -> str | None:
        for provider in self.providers:
            secret = provider.get(name)
            if secret is not None:
                return secret
        return None


def default_secrets(environ: Mapping[str, str] | None = None) -> ChainedSecrets:
    """The environment, then the folder that `DATAFLARE_SECRETS_DIR` names, then `/run/secrets`."""
    variables = os.environ if environ is None else environ
    folder = variables.get(SECRETS_FOLDER_VARIABLE)
    folders = ([Path(folder)] if folder else []) + [CONTAINER_FOLDER]
    return ChainedSecrets([EnvironmentSecrets(variables), *map(FileSecrets, folders)])
