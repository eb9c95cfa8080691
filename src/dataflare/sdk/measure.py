"""The contract of a measure: a number of a run that rules of `alerts` compare, beside the built-in ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal


class OwnMeasure(ABC):
    """type: its name in `when`: letters, digits and '_'. unit: of its values: seconds, bytes, a share of 1, a number, or 1 for
    true. help: one line. grows: it counts since the run began, so `in 5m` may be asked of it, and `<` is judged at the end.
    is_total: of all steps together it is the sum; else the step that is farthest out speaks for all. words: of a flag, what is
    said where it is true."""

    type: ClassVar[str]
    unit: ClassVar[Literal["duration", "size", "share", "number", "flag"]] = "number"
    help: ClassVar[str]
    grows: ClassVar[bool] = False
    is_total: ClassVar[bool] = False
    words: ClassVar[str] = ""

    @abstractmethod
    def read(self, run: Mapping[str, Any]) -> Mapping[str, float]:
        """The values now, by step; under the name '' for the whole run. run: as `dataflare status --json` gives it. Called
        about once a second on the event loop of the run, so it must be quick. No I/O."""
