"""Buckets for tests: one of moto, in this process, and a service that answers as it is told."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

from moto import mock_aws

from skiptune.storage.arrays import ArrayStore, open_store


@contextmanager
def bucket(name: str = "images") -> Iterator[str]:
    """Yield the location of an empty bucket, which is gone after the block."""
    with environment(), mock_aws():
        client().create_bucket(Bucket=name)
        yield f"s3://{name}"


def client() -> Any:
    """Return boto's own view of the buckets."""
    return importlib.import_module("boto3").client("s3")


@contextmanager
def new_store(kind: str, folder: Path) -> Iterator[ArrayStore]:
    """Yield an empty store in a ``"folder"``, which is not made yet, or in a ``"bucket"``."""
    if kind == "folder":
        yield open_store(folder / "artifacts")
    else:
        with bucket() as location:
            yield open_store(f"{location}/artifacts")


@contextmanager
def environment(**settings: str) -> Iterator[None]:
    """Settings of AWS for a block, without those of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ours = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    with mock.patch.dict(os.environ, {**kept, **ours, **settings}, clear=True):
        yield


@dataclass
class Answer:
    """What the service says to every request, and what it was asked."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @classmethod
    def refusal(cls, status: int, code: str) -> Answer:
        """Return a refusal in the form of S3."""
        text = f"<Error><Code>{code}</Code><Message>said by the service</Message></Error>"
        return cls(status, text.encode())


@contextmanager
def service(answer: Answer) -> Iterator[None]:
    """Let the block's buckets be of a service that gives this answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        # It says "100 Continue", for which boto waits a second before it sends an object.
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            answer.asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response_only(answer.status)
            length = {"Content-Length": str(len(answer.body))}
            for name, value in {**length, "Connection": "close", **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name in ("do_GET", "do_PUT", "do_DELETE"):
                return self.do
            raise AttributeError(name)

        def log_message(self, format: str, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with environment(
                AWS_ACCESS_KEY_ID="key",
                AWS_SECRET_ACCESS_KEY="secret",
                AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}",
            ):
                yield
        finally:
            server.shutdown()
            thread.join()
