"""Convert errors of deltalake and pyarrow into DataFlare's errors. The connector converts them only here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.security.redact import redact_pieces

_DENIED = ("AccessDenied", "Forbidden", "403", "Unauthorized", "InvalidAccessKeyId", "401",
           "SignatureDoesNotMatch", "Permission denied")  # fmt: skip


def translated(error: Exception, label: str, doing: str) -> DataFlareError:
    """DataFlare's error for another exception. label: of the table. doing: reading, writing ..."""
    text = " ".join(redact_pieces(str(error)).split())[:400]
    if isinstance(error, TableNotFoundError):
        return SystemError_(f"no Delta table at {label}", code="E0604", help="check the path")
    if isinstance(error, DeltaProtocolError):
        return SystemError_(
            f"{label} has a feature that is not supported: {text}",
            code="E0604",
            help="read or write it with a program that knows the feature, or make a table without it",
        )
    if "nvalid table version" in text or "not the same as the specified end version" in text:
        return SystemError_(
            f"{label} does not have this version: {text}",
            code="E0604",
            help="see the versions with DESCRIBE HISTORY, or with the library deltalake",
        )
    if any(mark in text for mark in _DENIED):
        return SystemError_(
            f"permission denied: {doing} {label}",
            code="E0602",
            notes=[text],
            help="check the credentials in storage or in the environment, and the rights of this user",
        )
    if "NoSuchBucket" in text:
        return SystemError_(
            f"{doing} {label} failed: there is no such bucket",
            code="E0601",
            notes=[text],
            help="check the name, and 'endpoint' if the server is not the provider's own",
        )
    if "No space left" in text:
        return SystemError_(
            f"disk full while {doing} {label}",
            code="E0603",
            retry=Retry.LATER,
            help="free some space and run again: the run continues from the last checkpoint",
        )
    if isinstance(error, FileNotFoundError):
        return SystemError_(
            f"{doing} {label} failed: a file of the table is gone: {text}",
            code="E0601",
            help="a vacuum may have removed it: keep the files of the versions that are read",
        )
    if isinstance(error, pa.ArrowInvalid):
        return DataError(
            f"{doing} {label} failed: {text}",
            code="E0511",
            help="make the types of the rows fit with map, or check the files of the table",
        )
    return SystemError_(
        f"{doing} {label} failed: {text}",
        code="E0607",
        retry=Retry.LATER,
        help="check that the place of the table can be reached, and storage",
    )


@contextmanager
def delta_errors(label: str, doing: str) -> Iterator[None]:
    """Convert the libraries' exceptions inside into DataFlare's errors."""
    try:
        yield
    except DataFlareError:
        raise
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
        raise translated(error, label, doing) from error
