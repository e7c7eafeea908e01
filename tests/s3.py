"""A server that speaks S3, one for all tests of a process; it keeps its objects in memory."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["S3Server", "s3", "s3_server"]

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """moto's server in a thread, at a port of this machine."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        """Its address."""
        self._serial = itertools.count()

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to reach it."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": self.endpoint}

    def bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"bucket-{next(self._serial)}"
        self._filesystem().mkdir(name)
        return f"s3://{name}"

    def names(self, folder: str) -> list[str]:
        """The names of all objects below a URL."""
        found: list[str] = self._filesystem().find(folder.removeprefix("s3://"))
        return found

    def buckets(self) -> list[str]:
        """The names of all buckets."""
        found: list[str] = self._filesystem().ls("", detail=False)
        return found

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Within this context it knows nobody's key."""
        self._require_keys_after(0)
        try:
            yield
        finally:
            self._require_keys_after(10**9)

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def _require_keys_after(self, requests: int) -> None:
        import urllib.request

        urllib.request.urlopen(
            urllib.request.Request(
                f"{self.endpoint}/moto-api/reset-auth",
                str(requests).encode(),
                headers={"Content-Type": "text/plain"},
            )
        ).close()

    def _filesystem(self):
        from s3fs import S3FileSystem

        return S3FileSystem(endpoint_url=self.endpoint, key="key", secret="secret", use_listings_cache=False)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server; its absence is a failure where CI is set, a skip elsewhere."""
    missing = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"no S3: {', '.join(missing)} is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    server = S3Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, to which this process, and those that it starts, speak when they say ``s3://``."""
    from s3fs import S3FileSystem

    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.environment.items():
            environment.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # they keep the address that they once had
        yield s3_server
        S3FileSystem.clear_instance_cache()
