"""The status of a run, as all of the program says it.

    starting, running, restarting      while it lives
    finished                           it has read everything, and all of it is committed
    failed                             an error ended it
    stopped                            `--for` ended it, after a checkpoint
    interrupted                        a signal, or the caller, ended it
    unread                             the reader of standard output is gone
    killed                             its process died before it could record an end; the next command sees that

Its record knows fewer: `recorded` says which.
"""

from __future__ import annotations

from typing import Literal

LivingStatus = Literal["starting", "running", "restarting"]
EndStatus = Literal["finished", "failed", "stopped", "interrupted", "unread"]
ResultStatus = EndStatus | Literal["running"]
"""Also of a run that goes on without its command."""
UnknownStatus = Literal["does not answer", "of another version of DataFlare"]
"""Of a run that lives, and does not say more."""
Status = LivingStatus | EndStatus | UnknownStatus
RecordedStatus = Literal["running", "finished", "failed", "stopped", "killed"]

LIVING: tuple[LivingStatus, ...] = ("starting", "running", "restarting")


def recorded(status: ResultStatus) -> RecordedStatus:
    """As the history of runs and JSON have it. Who stopped a run matters only while it is told."""
    return "stopped" if status == "interrupted" or status == "unread" else status
