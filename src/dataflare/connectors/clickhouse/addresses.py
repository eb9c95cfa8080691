"""The texts that are addresses.

Always true: a text that matches has one meaning, and ClickHouse reads it as that address. It reads more, such as
010.1.1.1 and 1:2:3:4:5:6:7::8. Other programs read the first as 8.1.1.1 and do not read the second.
"""

from __future__ import annotations

from collections.abc import Iterator

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_DOTTED = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_GROUP = "[0-9a-f]{1,4}"

IPV4 = f"^{_DOTTED}$"


def _ipv6() -> Iterator[str]:
    """Eight groups of digits, of which the last two may be an IPv4 address, and :: in place of some."""
    yield f"(?:{_GROUP}:){{7}}{_GROUP}"
    yield f"(?:{_GROUP}:){{6}}{_DOTTED}"
    for left in range(8):
        begin = f"{_GROUP}(?::{_GROUP}){{{left - 1}}}::" if left else "::"
        right_max = 7 - left
        yield begin
        if right_max:
            yield f"{begin}(?:{_GROUP}:){{0,{right_max - 1}}}{_GROUP}"
        if right_max > 1:
            yield f"{begin}(?:{_GROUP}:){{0,{right_max - 2}}}{_DOTTED}"


IPV6 = f"(?i)^(?:{_DOTTED}|{'|'.join(_ipv6())})$"
"""An IPv4 address is ::ffff: and the address in a column of IPv6."""
