"""moto's server with queues that several consumers may read at once: `python moto_process.py PORT`.

moto's own queues give a message to two consumers that ask at the same moment, and look at all messages of a queue for each
one that they give.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_LOCK = threading.RLock()
_LOOK_S = 0.02


def serve(port: int) -> None:
    from moto.server import main
    from moto.sqs.models import SQSBackend

    receive = SQSBackend.receive_message

    def receive_message(
        self: Any, queue: str, count: int, wait_s: int, *more: Any, **named: Any
    ) -> Any:
        end = time.monotonic() + int(wait_s)
        while True:
            with _LOCK:
                found = receive(self, queue, count, 0, *more, **named)
            if found or time.monotonic() >= end:
                return found
            time.sleep(_LOOK_S)

    SQSBackend.receive_message = receive_message
    SQSBackend.is_message_valid_based_on_retention_period = lambda *_: True
    for name in (
        "send_message",
        "delete_message",
        "change_message_visibility",
        "get_queue_attributes",
    ):
        setattr(SQSBackend, name, _one_at_a_time(getattr(SQSBackend, name)))
    main(["-H", "127.0.0.1", "-p", str(port)])


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    def called(*given: Any, **named: Any) -> Any:
        with _LOCK:
            return method(*given, **named)

    return called


if __name__ == "__main__":
    serve(int(sys.argv[1]))
