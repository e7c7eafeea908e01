"""A hook that is a server: the run is posted to it, signed, and again if it does not get through."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrun.config import WebhookSettings, shown_url
from batchrun.resources import format_seconds
from batchrun.store.deliveries import Delivery

__all__ = ["SIGNATURE", "post", "signature", "wait_before"]

SIGNATURE = "X-Batchrun-Signature"
"""The header that proves who posted, and when."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most."""
REDIRECTS = 3
"""How often a try is sent on, within the same host."""
_TRY_AGAIN = (408, 429)
_SENT_ON = (301, 302, 307, 308)


@dataclass(frozen=True)
class _Answer:
    """What came of one try."""

    error: str = ""
    """Why it did not get through; empty if it did."""
    again: bool = False
    """Whether another try may."""


def signature(secret: bytes, body: bytes, at: int) -> str:
    """The value of the header for a body that is posted at that second.

    >>> signature(b"hush", b"{}", 1700000000)[:30]
    't=1700000000,v1=763081ea12e3b1'
    """
    signed = hmac.new(secret, b"%d.%b" % (at, body), hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


def wait_before(retry: int, chance: float) -> float:
    """Seconds to wait before a retry, of which the first is 1: twice as long each time, less up to half by
    *chance*, a number from 0 to 1.

    >>> [wait_before(retry, 1.0) for retry in (1, 2, 3, 12)], wait_before(1, 0.0)
    ([1.0, 2.0, 4.0, 60.0], 0.5)
    """
    longest: float = min(LONGEST_WAIT, 2.0 ** (retry - 1))
    return longest * (0.5 + chance / 2)


def post(
    webhook: WebhookSettings, body: bytes, *, pause: Callable[[float], object], chance: Callable[[], float]
) -> Delivery:
    """Post JSON until it gets through or the retries are used up.

    No answer, an answer of 5xx, 408 or 429 leads to another try; any other than 2xx does not.

    Args:
        webhook: Where to, and how often.
        body: What is posted, UTF-8.
        pause: Called with the seconds to wait before another try.
        chance: Gives numbers from 0 to 1.
    """
    began = time.monotonic()
    secret, missing = _secret(webhook)
    answer, tries = _Answer(missing), 0
    while not missing:
        answer, tries = _try(webhook, body, secret), tries + 1
        if not answer.again or tries > webhook.retries:
            break
        pause(wait_before(tries, chance()))
    target = shown_url(webhook.url)
    return Delivery("webhook", target, not answer.error, tries, time.monotonic() - began, answer.error)


def _secret(webhook: WebhookSettings) -> tuple[bytes | None, str]:
    """The secret that signs, and why there is none where there should be one."""
    if webhook.secret_file is None:
        return None, ""
    try:
        secret = Path(webhook.secret_file).read_bytes().strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return None, f"the secret in {webhook.secret_file} cannot be read: {reason}"
    return secret, "" if secret else f"{webhook.secret_file} is empty, where there should be a secret"


def _try(webhook: WebhookSettings, body: bytes, secret: bytes | None) -> _Answer:
    """Post once, and give up when it takes too long, whatever it is that takes long."""
    answers: list[_Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(_send(webhook, body, secret)), name="batchrun-webhook", daemon=True
    )
    thread.start()
    thread.join(webhook.timeout)
    return answers[0] if answers else _too_late(webhook)


def _too_late(webhook: WebhookSettings) -> _Answer:
    return _Answer(f"no answer within {format_seconds(webhook.timeout)}", again=True)


def _send(webhook: WebhookSettings, body: bytes, secret: bytes | None) -> _Answer:
    """Post once, and where it is sent on to within the same host."""
    url = webhook.url
    for _ in range(1 + REDIRECTS):
        try:
            status, location = _exchange(url, body, secret, webhook.timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return _broken_off(webhook, error)
        if 200 <= status < 300:
            return _Answer()
        if status not in _SENT_ON or not location:
            return _Answer(f"the answer was {status}", again=status >= 500 or status in _TRY_AGAIN)
        try:
            onward = urllib.parse.urljoin(url, location)
            if not _is_same_host(url, onward):
                return _Answer(f"it is sent on to {shown_url(onward)}, another host, which is not followed")
        except ValueError:
            return _Answer("it is sent on to what is no address")
        url = onward
    return _Answer(f"it was sent on more than {REDIRECTS} times")


def _exchange(url: str, body: bytes, secret: bytes | None, timeout: float) -> tuple[int, str | None]:
    """The status of the answer, and where it sends to."""
    headers = {"Content-Type": "application/json", "User-Agent": "batchrun"}
    if secret is not None:
        headers[SIGNATURE] = signature(secret, body, int(time.time()))
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  the scheme was checked
    try:
        with _opener().open(request, timeout=timeout) as response:
            return int(response.status), None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Lets answers that send on come back as they are."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Stay)


def _is_same_host(url: str, other: str) -> bool:
    """Whether the other URL is of the same host and port, and no less safe."""
    here, there = urllib.parse.urlsplit(url), urllib.parse.urlsplit(other)
    if there.username is not None or there.hostname != here.hostname:
        return False
    if (here.scheme, there.scheme) == ("http", "https"):
        return here.port is None and there.port is None
    return here.scheme == there.scheme and here.port == there.port


def _broken_off(webhook: WebhookSettings, error: Exception) -> _Answer:
    """What went wrong on the way, without the URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return _too_late(webhook)
    said = getattr(reason, "strerror", None) or type(reason).__name__
    return _Answer(f"it cannot be reached: {said}", again=not isinstance(error, ValueError))
