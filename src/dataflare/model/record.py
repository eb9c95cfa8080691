"""Two kinds of `msgspec.Struct`: one that can be abstract, and one whose repr hides fields.

Our records are Structs and not dataclasses because a command creates 75 such classes when it starts: a
Struct's class takes 15 microseconds to create, a dataclass 500.
"""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, ClassVar, dataclass_transform

from msgspec import Struct, StructMeta, field


@dataclass_transform(field_specifiers=(field,))
class _AbstractStructMeta(StructMeta, ABCMeta):
    """A class has one metaclass. StructABC needs both of these, so this one derives from both."""


class StructABC(Struct, metaclass=_AbstractStructMeta):
    """A Struct that also derives from an abstract class: `class Filter(RowOperator, StructABC)`."""


class Discreet(Struct, frozen=True):
    """A Struct whose repr leaves out the fields named in `hidden`: secrets, or texts that are too long."""

    hidden: ClassVar[tuple[str, ...]]

    def __repr__(self) -> str:
        pairs = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({pairs})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        names = [name for name in self.__struct_fields__ if name not in self.hidden]
        return [(name, getattr(self, name)) for name in names]
