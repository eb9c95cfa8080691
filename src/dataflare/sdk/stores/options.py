"""The option `storage`: how to reach the place of a URL, beyond what the environment says."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

_KINDS = {
    "s3": "s3",
    "az": "azure",
    "gs": "gcs",
    "http": "web",
    "https": "web",
    "sftp": "ssh",
    "ftp": "ftp",
}
SCHEMES = tuple(_KINDS)
_FIELDS = {
    "s3": (
        "endpoint",
        "anonymous",
        "region",
        "access_key_id",
        "secret_access_key",
        "session_token",
    ),
    "azure": ("endpoint", "anonymous", "account_name", "account_key", "sas_token"),
    "gcs": ("anonymous", "service_account"),
    "web": ("user", "password", "headers"),
    "ssh": ("user", "password", "private_key", "passphrase", "known_hosts"),
    "ftp": ("user", "password"),
}


class StorageOptions(BaseModel):
    """How to reach the place that a URL names. What is not given comes from the environment, as the
    clients of the provider read it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None,
        description="s3, az: the address of the server, where it is not the provider's own.",
    )
    anonymous: bool = Field(False, description="s3, az, gs: send no credentials, for public data.")
    region: str | None = Field(None, description="s3: the bucket's region; else AWS_REGION.")
    access_key_id: str | None = Field(None, description="s3: else AWS_ACCESS_KEY_ID.")
    secret_access_key: str | None = Field(None, description="s3: else AWS_SECRET_ACCESS_KEY.")
    session_token: str | None = Field(None, description="s3: else AWS_SESSION_TOKEN.")
    account_name: str | None = Field(None, description="az: else AZURE_STORAGE_ACCOUNT_NAME.")
    account_key: str | None = Field(None, description="az: else AZURE_STORAGE_ACCOUNT_KEY.")
    sas_token: str | None = Field(None, description="az: else AZURE_STORAGE_SAS_KEY.")
    service_account: str | None = Field(
        None,
        description="gs: the path of a service account's file; else GOOGLE_APPLICATION_CREDENTIALS.",
    )
    user: str | None = Field(
        None, description="http, sftp, ftp: the name to log in with; else of the URL."
    )
    password: str | None = Field(None, description="http, sftp, ftp: the password to log in with.")
    headers: dict[str, str] = Field(
        default_factory=dict, description="http: headers to send, such as Authorization."
    )
    private_key: str | None = Field(
        None, description="sftp: the path of a private key; else those of ~/.ssh and of the agent."
    )
    passphrase: str | None = Field(None, description="sftp: of the private key.")
    known_hosts: str | None = Field(
        None, description="sftp: the path of a file of host keys; else ~/.ssh/known_hosts."
    )

    @model_validator(mode="after")
    def _key_and_secret(self) -> StorageOptions:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "'access_key_id' and 'secret_access_key' go together: give both or none"
            )
        return self

    def unused_by(self, scheme: str) -> list[str]:
        """The options given that places of this scheme do not have."""
        return sorted(self.model_fields_set - set(_FIELDS[_KINDS[scheme]]))


def is_stored(text: str) -> bool:
    """Whether a path names a file of a store: `s3://bucket/orders.csv`."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() in SCHEMES


FROM_ENVIRONMENT = StorageOptions.model_validate({})
