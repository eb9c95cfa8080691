"""Decode the bytes of a workflow file, and keep its lines to show them in errors.

Always true: a file that is too large is refused quickly; in a line that an error shows, each character
of a password is masked, so that columns stay correct.
"""

from __future__ import annotations

import re
from pathlib import Path

from dataflare.errors import Spot, WorkflowError
from dataflare.security.redact import mask_line

BYTES_MAX = 8 * 2**20
LINES_MAX = 200_000
SHOWN_MAX = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Lines:
    """A file's lines. raw: the text that the parser reads. Lines in a `spot` are masked."""

    def __init__(self, file: str, text: str, shown: str | None = None) -> None:
        self.file = file
        self.raw = _BREAK.split(text)
        self._shown: dict[int, str] = {} if shown is None else {0: showable(shown)}

    def spot(self, line: int, column: int, length: int = 1) -> Spot:
        """A place, from a line and column counted from 0."""
        text = self._shown.get(line)
        if text is None:
            text = showable(self.raw[line]) if line < len(self.raw) else ""
            self._shown[line] = text
        return Spot(self.file, line + 1, column + 1, max(1, length), text or None)

    def token(self, start: tuple[int, int], end: tuple[int, int]) -> Spot:
        """A place from one (line, column) to another, cut at the end of its first line."""
        if start[0] == end[0]:
            return self.spot(*start, end[1] - start[1])
        width = len(self.raw[start[0]].rstrip()) if start[0] < len(self.raw) else 0
        return self.spot(*start, width - start[1])


def showable(line: str) -> str:
    """A line as an error shows it, with the same length. Empty for a line that is too long to read."""
    return _CONTROL.sub("\ufffd", mask_line(line)) if len(line) <= SHOWN_MAX else ""


def read_file(path: Path, *, shown: str, spot: Spot | None = None) -> str:
    """The text of a workflow file. Raises WorkflowError: E0114 for a file of the command line, E0111 for
    an included file (then `spot` is not None)."""
    code = "E0111" if spot is not None else "E0114"
    try:
        if path.is_dir():
            raise WorkflowError(
                f"'{shown}' is a folder, not a file", code=code, spot=spot, help="name a file in it"
            )
        with path.open("rb") as stream:
            data = stream.read(BYTES_MAX + 1)
    except OSError as error:
        reasons = {FileNotFoundError: "there is no such file", PermissionError: "permission denied"}
        reason = reasons.get(type(error), error.strerror or str(error))
        raise WorkflowError(
            f"cannot read '{shown}': {reason}",
            code=code,
            spot=spot,
            help="see whether the file is there and may be read",
        ) from error
    except ValueError as error:
        raise WorkflowError(
            f"cannot read '{shown}': {error}",
            code=code,
            spot=spot,
            help="see whether the file is there and may be read",
        ) from error
    return decode(data, shown)


def decode(data: bytes, shown: str) -> str:
    """Decode UTF-8 text without its byte order mark. Refuses text that is too large for a workflow."""
    if len(data) > BYTES_MAX:
        raise WorkflowError(
            f"'{shown}' is too large for a workflow file",
            code="E0113",
            notes=[f"the limit is {BYTES_MAX // 2**20} MiB"],
            help="split the file with 'include', and keep data out of it",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        lines = Lines(shown, before + "\ufffd")
        line = len(lines.raw) - 1
        raise WorkflowError(
            f"'{shown}' is not UTF-8 text",
            code="E0101",
            spot=lines.spot(line, len(lines.raw[line]) - 1),
            notes=[f"byte {error.start} is 0x{data[error.start]:02x}"],
            help="save the file in the encoding UTF-8",
        ) from error
    check_lines(text, shown)
    return text


def check_lines(text: str, shown: str) -> None:
    """Refuse text with too many lines for a workflow."""
    if text.count("\n") > LINES_MAX or len(text) > BYTES_MAX:
        raise WorkflowError(
            f"'{shown}' is too long for a workflow file",
            code="E0113",
            notes=[f"the limit is {LINES_MAX:,} lines and {BYTES_MAX // 2**20} MiB"],
            help="split the file with 'include', and keep data out of it",
        )
