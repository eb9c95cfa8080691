"""Which transactions a snapshot sees. Pure.

Always true: a snapshot sees a transaction or not, whatever the positions of both in the log are. A commit stands in
the log before others can see it, so positions alone would count a change twice or not at all.
"""

from __future__ import annotations

from msgspec import Struct

_HALF, _WHOLE = 1 << 31, 1 << 32


class Sight(Struct, frozen=True):
    """Transactions from `end` on, and those in `open`, are not seen."""

    end: int
    open: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Sight:
        """text: as `txid_current_snapshot` writes it, '10:20:10,14'."""
        _, end, listed = text.split(":")
        return cls(int(end), frozenset(map(int, filter(None, listed.split(",")))))

    def sees(self, number: int) -> bool:
        """number: the lower 32 bits of a transaction's number, as the log has it."""
        whole = self.end - self.end % _WHOLE + number
        if whole - self.end > _HALF:
            whole -= _WHOLE
        elif self.end - whole > _HALF:
            whole += _WHOLE
        return whole < self.end and whole not in self.open

    def lacks_of(self, earlier: Sight) -> frozenset[int]:
        """The transactions that an earlier snapshot sees and this one does not: their commits wait, for a standby
        for example."""
        return frozenset(
            number for number in self.open if number < earlier.end and number not in earlier.open
        )
