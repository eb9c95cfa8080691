"""Files are staged in S3 as multipart uploads, which are invisible until they are completed.

Each upload carries its token as metadata, so a completed object tells which upload it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataflare.errors import ConfigError, Retry, SystemError_
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.stores.object_uploads import ObjectUploads
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import Store
from dataflare.sdk.stores.uploads import Staged, Unfinished, staged_is_gone

_PART = 16 << 20
_PARTS_MAX = 9_000
_THREADS = 6
_TOKEN = "dataflare"
_NO_UPLOAD = ("NoSuchUpload", "NoSuchKey")
"""What servers say of an upload that was published or discarded: S3, and S3Proxy."""

_POOL = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="dataflare-upload")
"""Sends the parts of all uploads of the process."""


class S3Uploads(ObjectUploads):
    """The writing side of a bucket."""

    def __init__(self, store: Store, options: StorageOptions) -> None:
        super().__init__(store)
        try:
            import boto3
            from botocore import UNSIGNED
            from botocore.config import Config
        except ImportError as error:
            raise ConfigError(
                f"to write to {store.root} needs the library boto3",
                code="E0404",
                help="pip install 'dataflare[s3]'",
            ) from error
        own_server = options.endpoint or os.environ.get("AWS_ENDPOINT_URL")
        config: dict[str, Any] = {
            "retries": {"max_attempts": 4, "mode": "standard"},
            "connect_timeout": 10,
            "max_pool_connections": 2 * _THREADS,
            # Servers that are not Amazon's may not know the newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        if own_server:
            config["s3"] = {"addressing_style": "path"}
        if options.anonymous:
            config["signature_version"] = UNSIGNED
        region = (
            options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        )
        self._bucket = {"Bucket": self._place.bucket}
        self._s3: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=options.endpoint,
            region_name=region or "us-east-1",
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
            config=Config(**config),
        )

    def stage(self, local: Path, path: str, token: str) -> Staged:
        where = {**self._bucket, "Key": path}
        with self._errors("writing", path):
            size = local.stat().st_size
            begun = self._s3.create_multipart_upload(**where, Metadata={_TOKEN: token})
            crash_point("s3.upload.begun")
            part = max(_PART, -(-size // _PARTS_MAX))
            starts = range(0, max(size, 1), part)

            def send(number: int, start: int) -> str:
                with local.open("rb") as file:
                    file.seek(start)
                    data = file.read(part)
                upload = {**where, "UploadId": begun["UploadId"]}
                answer = self._s3.upload_part(**upload, PartNumber=number, Body=data)
                crash_point("s3.upload.part")
                return str(answer["ETag"])

            sent = [_POOL.submit(send, number, start) for number, start in enumerate(starts, 1)]
            etags = _results(sent)
        return {"upload": begun["UploadId"], "token": token, "etags": etags}

    def publish(self, path: str, staged: Staged) -> None:
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(staged["etags"], 1)]
        upload = {**self._bucket, "Key": path, "UploadId": staged["upload"]}
        with self._errors("writing", path):
            try:
                self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except self._s3.exceptions.ClientError as error:
                if _code(error) not in _NO_UPLOAD:
                    raise
                if not self._is_published(path, staged):
                    raise staged_is_gone(self.store.url(path)) from error

    def _is_published(self, path: str, staged: Staged) -> bool:
        try:
            answer = self._s3.head_object(**self._bucket, Key=path)
        except self._s3.exceptions.ClientError as error:
            if _code(error) in ("404", "NoSuchKey"):
                return False
            raise
        return bool(answer["Metadata"].get(_TOKEN) == staged["token"])

    def discard(self, path: str, staged: Staged) -> None:
        upload = {**self._bucket, "Key": path, "UploadId": staged["upload"]}
        with self._errors("writing", path):
            try:
                self._s3.abort_multipart_upload(**upload)
            except self._s3.exceptions.ClientError as error:
                if _code(error) not in _NO_UPLOAD:
                    raise

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        with self._errors("listing", prefix):
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(
                **self._bucket, Prefix=prefix
            )
            try:
                found = [
                    Unfinished(each["Key"], {"upload": each["UploadId"]})
                    for page in pages
                    for each in page.get("Uploads", [])
                ]
            except self._s3.exceptions.ClientError as error:
                if _code(error) != "NoSuchUpload":  # what some servers say where there is none
                    raise
                found = []
        yield from found

    @contextmanager
    def _errors(self, doing: str, path: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise self._translated(error, doing, self.store.url(path)) from error

    def _translated(self, error: Exception, doing: str, where: str) -> SystemError_:
        code, text = _code(error), " ".join(str(error).split())[:300]
        variables = "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if code == "NoSuchBucket":
            return SystemError_(
                f"there is no bucket '{self._bucket['Bucket']}'",
                code="E0601",
                notes=[text],
                help=f"make it, or check the name in {where}",
            )
        if code in (
            "AccessDenied",
            "403",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
        ):
            return SystemError_(
                f"permission denied: {doing} {where}",
                code="E0602",
                notes=[text],
                help="the user needs s3:PutObject, s3:GetObject, s3:ListBucket, s3:DeleteObject, "
                "s3:AbortMultipartUpload and s3:ListBucketMultipartUploads; check storage, or "
                f"{variables} in the environment",
            )
        return SystemError_(
            f"{doing} {where} failed: {text}",
            code="E0607",
            retry=Retry.LATER,
            help=f"check that the server answers, and storage, or {variables} in the environment",
        )


def _code(error: Exception) -> str:
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _results(sent: Sequence[Future[str]]) -> list[str]:
    """When it raises, no part is on its way any more: one that came after the upload was discarded would stay."""
    wait(sent, return_when=FIRST_EXCEPTION)
    for each in sent:
        each.cancel()
    wait(sent)
    first = next((e for each in sent if not each.cancelled() and (e := each.exception())), None)
    if first is not None:
        raise first
    return [each.result() for each in sent]
