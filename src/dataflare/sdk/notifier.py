"""The contract of a notifier: who is told of alerts.

A workflow names it in `notifiers`, by its `type`. It is built from validated config when the workflow is read, and called on
a thread beside the run. What is tried again, in which order alerts are told, and what a run that ends does with those that
are left, is the engine's affair: an implementation only tells one alert.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from msgspec import Struct
from pydantic import BaseModel


class Alert(Struct, frozen=True):
    """What is told. status: firing or resolved. name, severity and when: of its rule. run: the id. step: None for the whole
    run. value: of the measure, in seconds, bytes, a share of 1 or a number. since and at: RFC 3339, UTC: when it began to
    fire, and when this happened. key: the same for all events of one alert, by which receivers know it again."""

    status: str
    name: str
    severity: str
    workflow: str
    run: str
    step: str | None
    when: str
    value: float | None
    message: str
    since: str
    at: str
    host: str
    key: str


ConfigClass = type[BaseModel]


class NotifierConnector(ABC):
    """Whom to tell, and how. secret_options: options whose whole text is a secret, whatever their name."""

    type: ClassVar[str]
    Config: ClassVar[ConfigClass]
    summary: ClassVar[str] = ""
    secret_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def send(self, alert: Alert, timeout_s: float) -> None:
        """Tell one alert. Blocking, on a thread; nothing waits for it longer than `timeout_s`. The same alert may come twice:
        after a failed try, and after the process was killed. Raises SystemError_, with retry=Retry.LATER where another try
        may help; no secret may be in its message."""
