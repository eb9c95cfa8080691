"""Convert errors of pyiceberg and of what it stands on into DataFlare's errors. The connector converts them only
here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyiceberg import exceptions

from dataflare.errors import ConfigError, DataFlareError, SystemError_
from dataflare.sdk.lakes.errors import Fault
from dataflare.security.redact import redact_pieces

_DENIED = (exceptions.UnauthorizedError, exceptions.ForbiddenError, PermissionError)
_TEXTS = ("AccessDenied", "ACCESS_DENIED", "Access Denied", "InvalidAccessKeyId", "SignatureDoesNotMatch",
          "403", "Unable to locate credentials", "password authentication failed")  # fmt: skip


def translated(error: Exception, label: str, doing: str) -> DataFlareError:
    """DataFlare's error for another exception. label: of the table. doing: reading, writing ..."""
    text = " ".join(redact_pieces(str(error)).split())[:400]
    fault = Fault(label, doing, text)
    if isinstance(error, exceptions.NoSuchTableError | exceptions.NoSuchNamespaceError):
        return SystemError_(
            f"no {label}", code="E0604", notes=[text], help="check 'table' and 'catalog'"
        )
    if isinstance(error, _DENIED) or any(mark in text for mark in _TEXTS):
        return fault.no_right("catalog and storage")
    if isinstance(error, exceptions.NotInstalledError | ImportError):
        return ConfigError(
            f"{label} needs a library that is not installed: {text}",
            code="E0402",
            help="install the driver that the address of the catalogue names",
        )
    if isinstance(error, FileNotFoundError):
        return fault.gone("old snapshots may have been expired: keep those that are read")
    if isinstance(error, NotImplementedError):
        return fault.unsupported()
    if isinstance(error, pa.ArrowInvalid | exceptions.ResolveError):
        return fault.misfit()
    if "No space left" in text:
        return fault.disk_full()
    return fault.failed("check that the catalogue and the place of the table can be reached")


@contextmanager
def iceberg_errors(label: str, doing: str) -> Iterator[None]:
    """Convert the libraries' exceptions inside into DataFlare's errors."""
    try:
        yield
    except DataFlareError:
        raise
    except Exception as error:
        # pyiceberg lets exceptions of many libraries through: of its own, HTTP, SQL drivers, boto3, pyarrow.
        raise translated(error, label, doing) from error
