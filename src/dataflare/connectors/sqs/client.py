"""Queues by their names or URLs, and what SQS tells of them. Called on threads."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dataflare.connectors.sqs.config import queue_name
from dataflare.sdk.aws.client import aws_errors, client
from dataflare.sdk.aws.options import AwsOptions

AT_ONCE = 10
"""How many messages a request of SQS has at most."""
CALLS = 8
"""How many requests are made at a time."""
POLL_S = 2
"""How long SQS waits for a message before it says that there is none. A run that ends waits so long at most."""


class Queue:
    """A queue, and a client for it."""

    def __init__(
        self, options: AwsOptions, given: str, step: str, *, calls: int = CALLS + 2
    ) -> None:
        """calls: how many are made at a time."""
        self.name, self.timeout = queue_name(given), options.timeout
        self.place = f"queue '{self.name}' of SQS at {options.server}"
        self.sqs: Any = client("sqs", options, step, calls=calls, waits_s=POLL_S)
        self._url = given if given != self.name else None

    @property
    def url(self) -> str:
        if self._url is None:
            self._url = self.call("get_queue_url", QueueName=self.name)["QueueUrl"]
        return self._url

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(".fifo")

    def ask(self, call: str, **arguments: Any) -> Any:
        """What SQS answers to a call about this queue."""
        return self.call(call, QueueUrl=self.url, **arguments)

    def call(self, call: str, **arguments: Any) -> Any:
        with aws_errors(self.place, "'queue'"):
            return getattr(self.sqs, call)(**arguments)

    def state(self) -> State:
        found = self.ask(
            "get_queue_attributes",
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "MaximumMessageSize",
            ],
        )["Attributes"]
        return State(
            int(found["ApproximateNumberOfMessages"]),
            int(found["ApproximateNumberOfMessagesNotVisible"]),
            int(found["MaximumMessageSize"]),
        )

    def close(self) -> None:
        self.sqs.close()


class State(Struct, frozen=True):
    """About how many messages can be received, and how many were received and are not deleted. size_max: how many bytes
    a message may have."""

    visible: int
    received: int
    size_max: int
