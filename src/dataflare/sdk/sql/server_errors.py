"""Errors of a server, as users see them. A connector decides which of them an exception is."""

from __future__ import annotations

from msgspec import Struct

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.sql.names import refusal

CONNECTION_LOST = "E0607"
RESTART = "the run continues from the last checkpoint when it is run again"


def is_lost(error: DataFlareError) -> bool:
    """Whether the connection is lost, so that a new one may help."""
    return error.code == CONNECTION_LOST and error.retry is Retry.LATER


class Fault(Struct, frozen=True):
    """What went wrong. server: host, port and database. subject: the table or the operation. text: what the server
    says, without secrets."""

    server: str
    subject: str
    text: str

    def refused_row(self) -> DataError:
        return refusal(self.subject, self.text)

    def refused_login(self, also: str = "") -> SystemError_:
        """also: what else to check."""
        return SystemError_(
            f"{self.server} refuses the login: {self.text}",
            code="E0606",
            help=f"check user and password in 'connection_string'{also}",
        )

    def no_tls(self, settings: str) -> SystemError_:
        """settings: those to check."""
        return SystemError_(
            f"no TLS connection to {self.server}: {self.text}",
            code="E0609",
            help=f"check {settings} in 'connection_string'",
        )

    def no_right(self, also: str = "") -> SystemError_:
        return SystemError_(
            f"{self.subject}: {self.text}", code="E0602", help=f"grant the user the right{also}"
        )

    def read_only(self, help_: str) -> SystemError_:
        return SystemError_(
            f"{self.server} may not be written: {self.text}", code="E0602", help=help_
        )

    def missing(self, noun: str) -> SystemError_:
        """noun: what has tables, 'database'."""
        return SystemError_(
            f"{self.subject} in {self.server}: {self.text}",
            code="E0604",
            help=f"see whether {noun}, table and columns are there and spelt right",
        )

    def disk_full(self) -> SystemError_:
        return SystemError_(
            f"disk full at {self.server}: {self.text}",
            code="E0603",
            retry=Retry.LATER,
            help="free some space there and run again: the run continues from the last checkpoint",
        )

    def slow(self, options: str) -> SystemError_:
        """options: those to raise."""
        return SystemError_(
            f"{self.subject} in {self.server} took too long: {self.text}",
            code="E0608",
            retry=Retry.LATER,
            help=f"raise {options}",
        )

    def later(self, message: str, code: str, help_: str = RESTART) -> SystemError_:
        """Another error that goes away by itself. message: without the server's text."""
        return SystemError_(f"{message}: {self.text}", code=code, retry=Retry.LATER, help=help_)

    def lost(self) -> SystemError_:
        return self.later(f"no connection to {self.server}", CONNECTION_LOST)

    def failed(self, also: str = "") -> SystemError_:
        return SystemError_(
            f"{self.subject} failed at {self.server}: {self.text}{also}",
            code="E0600",
            help="fix the cause that the server reports, and run again",
        )
