"""Convert errors of deltalake and pyarrow into DataFlare's errors. The connector converts them only here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.lakes.errors import Fault
from dataflare.security.redact import redact_pieces

_DENIED = ("AccessDenied", "Forbidden", "403", "Unauthorized", "InvalidAccessKeyId", "401",
           "SignatureDoesNotMatch", "Permission denied")  # fmt: skip


def translated(error: Exception, label: str, doing: str) -> DataFlareError:
    """DataFlare's error for another exception. label: of the table. doing: reading, writing ..."""
    text = " ".join(redact_pieces(str(error)).split())[:400]
    fault = Fault(label, doing, text)
    if isinstance(error, TableNotFoundError):
        return SystemError_(f"no Delta table at {label}", code="E0604", help="check the path")
    if isinstance(error, DeltaProtocolError):
        return fault.unsupported()
    if "nvalid table version" in text or "not the same as the specified end version" in text:
        return SystemError_(
            f"{label} does not have this version: {text}",
            code="E0604",
            help="see the versions with DESCRIBE HISTORY, or with the library deltalake",
        )
    if any(mark in text for mark in _DENIED):
        return fault.no_right("storage")
    if "NoSuchBucket" in text:
        return SystemError_(
            f"{doing} {label} failed: there is no such bucket",
            code="E0601",
            notes=[text],
            help="check the name, and 'endpoint' if the server is not the provider's own",
        )
    if "No space left" in text:
        return fault.disk_full()
    if isinstance(error, FileNotFoundError):
        return fault.gone(
            "a vacuum may have removed it: keep the files of the versions that are read"
        )
    if isinstance(error, pa.ArrowInvalid):
        return fault.misfit()
    return fault.failed("check that the place of the table can be reached, and storage")


@contextmanager
def delta_errors(label: str, doing: str) -> Iterator[None]:
    """Convert the libraries' exceptions inside into DataFlare's errors."""
    try:
        yield
    except DataFlareError:
        raise
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
        raise translated(error, label, doing) from error
