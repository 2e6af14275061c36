"""A shelf in a bucket of S3, or of a service that speaks its language (the extra `s3`).

A bucket shows an object whole or not at all, and dates it by its own clock; nothing is locked.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final

from skiptune.errors import DiskFullError, StorageError, UnavailableError, quoted
from skiptune.storage.failpoints import fail_point
from skiptune.storage.shelves import FULL_HINT, Entry, without_password

__all__ = ["CONNECT_SECONDS", "READ_SECONDS", "BucketShelf"]

CONNECT_SECONDS: Final = 10.0
"""How long a connection may take to be made."""

READ_SECONDS: Final = 60.0
"""How long a service may be silent; the file of a chunk is a few megabytes."""

_PAGE: Final = 1000  # the most that a service lists at once

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BUSY: Final = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException")
_BUSY_STATUS: Final = (429, 500, 502, 503, 504)
_STALE: Final = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
# Of MinIO and Ceph; 507 is "Insufficient Storage" (RFC 4918, section 11.5).
_FULL: Final = ("XMinioStorageFull", "QuotaExceeded")
_FULL_STATUS: Final = 507


class BucketShelf:
    """A bucket, or a prefix in one.

    Credentials, region and endpoint come from where the AWS tools look for them, e.g.
    ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID``, ``AWS_DEFAULT_REGION``, ``AWS_ENDPOINT_URL``.

    Arguments:
        location: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        StorageError: The location has another form, boto3 is missing, or AWS settings are wrong.
    """

    kind = "bucket"

    def __init__(self, location: str) -> None:
        self.bucket, self.prefix = _bucket_and_prefix(location)
        self._root = f"{self.prefix}/" if self.prefix else ""
        try:
            # Not at the top: this takes long to load, and who uses a folder need not have it.
            session = importlib.import_module("boto3.session").Session
            config = importlib.import_module("botocore.config").Config
            self._exceptions: Any = importlib.import_module("botocore.exceptions")
            self._unparsed: Any = importlib.import_module("botocore.parsers").ResponseParserError
        except ImportError as error:
            raise StorageError(
                self.location,
                expected="the package boto3, which reaches buckets",
                found=str(error),
                hint="pip install 'skiptune[s3]'",
            ) from error
        with self._explained():
            # Of a session of its own: clients may be shared by threads, the default session not.
            self._client: Any = session().client(
                "s3",
                config=config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    # A file is verified by the digest that names it.
                    response_checksum_validation="when_required",
                ),
            )

    def __repr__(self) -> str:
        return f"BucketShelf({self.location!r})"

    @property
    def location(self) -> str:
        """The URL ``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def place(self, name: str) -> str:
        """Return the URL of a name."""
        return f"{self.location}/{name}"

    def exists(self) -> bool:
        """Return True; a bucket that is missing raises."""
        self._list(self._root, most=1)
        return True

    def find(self, name: str) -> Entry | None:
        """Return what is known of a name, None where there is none."""
        # Not HEAD, whose "not found" does not tell a missing name from a missing bucket. Names
        # come in order, so one that others begin with is the first of them.
        for item in self._list(self._root + name, most=1).get("Contents", ()):
            entry = self._entry(item)
            if entry.name == name:
                return entry
        return None

    def get(self, name: str) -> bytes | None:
        """Return the bytes of a name, None where there is none."""
        with self._explained():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._root + name)
                return bytes(answer["Body"].read())
            except self._client.exceptions.NoSuchKey:
                return None

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name; what was there is replaced, and its age starts again."""
        fail_point("store_file.before")
        with self._explained():
            self._client.put_object(Bucket=self.bucket, Key=self._root + name, Body=data)
        fail_point("store_file.after")

    def remove(self, name: str) -> None:
        """Remove a name; it may be missing."""
        with self._explained():
            self._client.delete_object(Bucket=self.bucket, Key=self._root + name)

    def entries(self, below: str = "") -> Iterator[Entry]:
        """Yield every name that begins with `below`, which is empty or ends with a slash."""
        token: str | None = None
        while True:
            page = self._list(self._root + below, most=_PAGE, after=token)
            yield from map(self._entry, page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    def now(self) -> float:
        """Return the time of the service that dates the objects, in whole seconds."""
        headers = self._list(self._root, most=1)["ResponseMetadata"]["HTTPHeaders"]
        try:
            return parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, ValueError) as error:
            raise StorageError(
                self.location,
                expected="a service that says the time (the header Date)",
                found=f"Date: {headers['date']}" if "date" in headers else "no such header",
                hint="check AWS_ENDPOINT_URL, and what is between here and the service",
            ) from error

    def _list(self, prefix: str, *, most: int, after: str | None = None) -> dict[str, Any]:
        more = {} if after is None else {"ContinuationToken": after}
        with self._explained():
            answer: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self.bucket, Prefix=prefix, MaxKeys=most, **more
            )
        return answer

    def _entry(self, item: dict[str, Any]) -> Entry:
        name = str(item["Key"]).removeprefix(self._root)
        return Entry(name, int(item["Size"]), item["LastModified"].timestamp())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what boto says into a StorageError."""
        said = self._exceptions
        try:
            yield
        except said.ClientError as error:
            raise self._refused(error) from error
        except (said.SSLError, said.InvalidEndpointConfigurationError) as error:
            raise self._misled(error) from error
        except (said.ConnectionError, said.HTTPClientError, said.IncompleteReadError) as error:
            raise UnavailableError(
                self.location,
                expected="an answer from the service",
                found=str(error),
                hint="check the network and AWS_ENDPOINT_URL, then run the same command again:"
                " nothing committed is lost",
            ) from error
        except (
            said.NoCredentialsError,
            said.PartialCredentialsError,
            said.CredentialRetrievalError,
            said.TokenRetrievalError,
            said.SSOError,
            said.ProfileNotFound,
        ) as error:
            raise self._forbidden(str(error)) from error
        except (said.BotoCoreError, self._unparsed, ValueError) as error:
            raise self._misled(error) from error

    def _refused(self, error: Any) -> StorageError:
        """Return the error for an answer that is a refusal."""
        code = str(error.response.get("Error", {}).get("Code", "?"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = error.response.get("Error", {}).get("Message") or "no explanation"
        found = f"{code}: {said}"
        if code == "NoSuchBucket":
            return StorageError(
                self.location,
                expected="an existing bucket",
                found="no such bucket",
                hint=f"make it with `aws s3 mb s3://{self.bucket}`, or name another one with"
                " --artifacts",
            )
        if code in _FULL or status == _FULL_STATUS:
            return DiskFullError(
                self.location, expected="space in the bucket", found=found, hint=FULL_HINT
            )
        if code in _BUSY or status in _BUSY_STATUS:
            return UnavailableError(
                self.location,
                expected="a service that is up and not too busy",
                found=found,
                hint="run the same command again in a moment: nothing committed is lost",
            )
        if code == "RequestTimeTooSkewed":
            return StorageError(
                self.location,
                expected="a clock that agrees with the service's",
                found=found,
                hint="set the clock of this machine: `timedatectl set-ntp true`",
            )
        if code in _STALE or status in (401, 403):
            return self._forbidden(found)
        return StorageError(
            self.location,
            expected="a bucket that can be used",
            found=found,
            hint=f"see what the AWS tools say: `aws s3 ls {quoted(self.location + '/')}`",
        )

    def _forbidden(self, found: str) -> StorageError:
        return StorageError(
            self.location,
            expected="credentials that may list, get, put and delete objects here",
            found=found,
            hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; try them with"
            f" `aws s3 ls {quoted(self.location + '/')}`",
        )

    def _misled(self, error: Exception) -> StorageError:
        return StorageError(
            self.location,
            expected="settings of AWS that lead to a service of S3",
            found=str(error),
            hint="check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and AWS_CA_BUNDLE; try them with"
            f" `aws s3 ls {quoted(self.location + '/')}`",
        )


def _bucket_and_prefix(location: str) -> tuple[str, str]:
    """Return the two parts of ``s3://bucket/prefix``; no prefix is the empty one."""
    found = re.fullmatch(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)((?:/[^/?#]+)*)/?", location)
    if found is None or {".", ".."} & set(found[2].split("/")):
        raise StorageError(
            without_password(location),
            expected="s3://BUCKET/PREFIX",
            found="a text of another form",
            hint="name a bucket and a prefix: --artifacts s3://BUCKET/PREFIX",
        )
    return found[1], found[2].removeprefix("/")
