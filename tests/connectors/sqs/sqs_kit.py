"""A queue of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from broker_moving import BrokerPlace
from servers.aws import AwsServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A queue, and a folder for runs."""

    def __init__(
        self,
        server: AwsServer,
        folder: Path,
        *,
        fifo: bool = False,
        name: str | None = None,
        **attributes: str,
    ) -> None:
        self.server, self.folder = server, folder
        self.sqs = server.client("sqs")
        self.queue = name or f"q{next(_numbers)}" + (".fifo" if fifo else "")
        if fifo:
            attributes["FifoQueue"] = "true"
        self.url = self.sqs.create_queue(QueueName=self.queue, Attributes=attributes)["QueueUrl"]

    def put(self, bodies: Iterable[str], **more: Any) -> None:
        """more: of each message: its attributes, or what makes it of that from its body."""
        iterator = iter(bodies)
        while part := list(itertools.islice(iterator, 10)):
            entries = [
                {"Id": str(at), "MessageBody": body}
                | {name: v(body) if callable(v) else v for name, v in more.items()}
                for at, body in enumerate(part)
            ]
            answer = self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
            assert not answer.get("Failed"), answer

    def numbers(self, first: int, after: int, **more: Any) -> None:
        self.put((json.dumps({"n": n, "text": f"row {n}"}) for n in range(first, after)), **more)

    def waiting(self) -> tuple[int, int]:
        """How many messages can be received, and how many were received and are not deleted."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return int(found["Attributes"][names[0]]), int(found["Attributes"][names[1]])

    def taken(self) -> list[Any]:
        """All messages that can be received, deleted."""
        found: list[Any] = []
        while part := self.receive():
            found += part
            entries = [
                {"Id": str(at), "ReceiptHandle": each["ReceiptHandle"]}
                for at, each in enumerate(part)
            ]
            self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return found

    def receive(self) -> list[Any]:
        answer = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"],
        )  # fmt: skip
        return list(answer.get("Messages", ()))

    def config(self, **more: Any) -> dict[str, Any]:
        return {**self.server.options, "queue": self.queue, **more}

    def filled(self, workflow: str) -> str:
        options = ", ".join(f'{name}: "{value}"' for name, value in self.server.options.items())
        return workflow.replace("QUEUE", self.queue).replace("SERVER", options)
