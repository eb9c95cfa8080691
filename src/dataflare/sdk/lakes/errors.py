"""Errors of a lake, as users see them. A connector decides which of them an exception is."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from dataflare.errors import DataError, Retry, SystemError_


class Fault(Struct, frozen=True):
    """What went wrong. label: of the table. doing: reading, writing ... text: what the library says, without
    secrets."""

    label: str
    doing: str
    text: str

    def no_right(self, options: str) -> SystemError_:
        """options: those with credentials."""
        return SystemError_(
            f"permission denied: {self.doing} {self.label}",
            code="E0602",
            notes=[self.text],
            help=f"check the credentials in {options} or in the environment, and the rights of this user",
        )

    def unsupported(self) -> SystemError_:
        return SystemError_(
            f"{self.label} has a feature that is not supported: {self.text}",
            code="E0604",
            help="read or write it with a program that knows the feature, or make a table without it",
        )

    def gone(self, help_: str) -> SystemError_:
        return SystemError_(
            f"{self.doing} {self.label} failed: a file of the table is gone: {self.text}",
            code="E0601",
            help=help_,
        )

    def misfit(self) -> DataError:
        return DataError(
            f"{self.doing} {self.label} failed: {self.text}",
            code="E0511",
            help="make the types of the rows fit with map, or check the files of the table",
        )

    def disk_full(self) -> SystemError_:
        return SystemError_(
            f"disk full while {self.doing} {self.label}",
            code="E0603",
            retry=Retry.LATER,
            help="free some space and run again: the run continues from the last checkpoint",
        )

    def failed(self, help_: str) -> SystemError_:
        return SystemError_(
            f"{self.doing} {self.label} failed: {self.text}",
            code="E0607",
            retry=Retry.LATER,
            help=help_,
        )


def refuse_table(label: str, mode: str, reasons: Sequence[str], of_mode: Sequence[str]) -> None:
    """Raises SystemError_ (E0604) for a table that has something for which it is not written. reasons: in every mode;
    of_mode: in this one."""
    if not reasons and not of_mode:
        return
    how = "" if reasons else f" with mode '{mode}'"
    raise SystemError_(
        f"{label} cannot be written{how}: it has {', '.join([*reasons, *of_mode])}",
        code="E0604",
        help="write to a table without it" + ("" if reasons else ", or choose another mode"),
    )
