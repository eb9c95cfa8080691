"""How to reach a service of Amazon, the same for every connector. What is not given comes from where boto3 finds it."""

from __future__ import annotations

import os
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration


class AwsOptions(BaseModel):
    """A connector's config inherits from it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    region: str | None = Field(
        None, min_length=1, description="else AWS_REGION, or the region of the profile"
    )
    endpoint: str | None = Field(
        None,
        description="the address of the server, where it is not Amazon's own: http://host:4566",
    )
    profile: str | None = Field(
        None, min_length=1, description="a profile of ~/.aws; else AWS_PROFILE"
    )
    access_key_id: str | None = Field(
        None,
        repr=False,
        min_length=1,
        description="else credentials come from the environment, the profile, or the role of the machine",
    )
    secret_access_key: str | None = Field(
        None, repr=False, min_length=1, description="of this access key"
    )
    session_token: str | None = Field(
        None, repr=False, min_length=1, description="of an access key that is temporary"
    )
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")

    @field_validator("endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = None
        if not valid or parts.username or parts.password:
            raise ValueError("expected http://host:port or https://host:port")
        return value

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("'access_key_id' and 'secret_access_key' belong together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("'session_token' needs 'access_key_id'")
        if self.profile is not None and self.access_key_id is not None:
            raise ValueError("'profile' and 'access_key_id' exclude each other")
        return self

    @property
    def server(self) -> str:
        """Where it is, to show."""
        endpoint = self.endpoint or os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint:
            return "Amazon" if self.region is None else f"Amazon, {self.region}"
        parts = urlsplit(endpoint)
        return parts.netloc


class SendingOptions(AwsOptions):
    """Of a destination that sends requests."""

    concurrency: int = Field(
        4,
        ge=1,
        le=64,
        description="concurrent requests at best: while the service has too much to do, fewer",
    )
