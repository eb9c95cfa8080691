"""The options that every source with a log has."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Size

LOG_BYTES_MIN = 64 << 10


class LogOptions(BaseModel):
    """The log on disk that messages are in before they are acknowledged."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(
        None, min_length=1, description="its folder; by default one in the state folder"
    )
    max_size: Size = Field(
        1 << 30,
        ge=LOG_BYTES_MIN,
        description="how large it may become; when it is full, senders wait or are refused until a "
        "checkpoint lets messages go",
    )
    lost: Literal["fail", "skip"] = Field(
        "fail",
        description="what to do when the messages that were not read yet are gone with the folder: fail, "
        "or go on with what is there",
    )


class LogConfig(BaseModel):
    size_option: ClassVar[str] = "max_message"
    """The option that says how many bytes a message may have at most."""

    log: LogOptions = Field(
        default_factory=lambda: LogOptions.model_validate({}), description="the log on disk"
    )

    @model_validator(mode="after")
    def _log_has_room(self) -> Self:
        # The newest segment, an eighth of the log, always stays. A larger message could wait for room for ever.
        if getattr(self, self.size_option) > self.log.max_size // 8:
            raise ValueError(f"'{self.size_option}' may be at most an eighth of the log's max_size")
        return self
