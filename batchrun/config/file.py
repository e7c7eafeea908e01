"""What ``cluster.yaml`` may say: its sections, keys, types and defaults."""

from __future__ import annotations

import re
import urllib.parse
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    TypeAdapter,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from batchrun.allowance import read_allowance
from batchrun.errors import PipelineError
from batchrun.resources import MEMORY, parse_bytes, parse_seconds

__all__ = [
    "FILES",
    "FILE_NAME",
    "ConnectFile",
    "ConnectSettings",
    "HookSettings",
    "LocalFile",
    "LocalSettings",
    "RunSettings",
    "SecuritySettings",
    "ServiceSettings",
    "StorageSettings",
    "WebhookSettings",
    "WorkerGroup",
    "json_schema",
    "read_size",
    "read_time",
    "shown_url",
]

FILE_NAME = "cluster.yaml"
"""What the file is called where none is named."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_size(value: object) -> int:
    """A size in bytes, for pydantic, which wants a ValueError."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ValueError("a size is wanted, like '2GiB' or '512MiB'")
    try:
        return parse_bytes(value)
    except PipelineError as error:
        raise ValueError(str(error)) from error


def read_time(value: object) -> float:
    """A time in seconds, for pydantic, which wants a ValueError."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError("a time is wanted, like '10s' or '2min'")
    try:
        return parse_seconds(value)
    except PipelineError as error:
        raise ValueError(str(error)) from error


def _allowance(value: object) -> int | float | None:
    """A number of rows or a share of them, for pydantic."""
    try:
        return read_allowance(value)
    except PipelineError as error:
        raise ValueError("a number of rows, like 100, or a share, like 5%, is wanted") from error


def _endpoint(value: object) -> str | None:
    """``host:port``, or None for ``off``, which YAML reads as false."""
    if value is False or value is None or value == "off":
        return None
    host, separator, port = str(value).rpartition(":")
    if not (isinstance(value, str) and separator and host and port.isdecimal() and int(port) < 65536):
        raise ValueError("write host:port, like 127.0.0.1:8787, or off")
    return value


def _webhook_url(value: object) -> str:
    """A URL to post to; what is wrong with it is said without showing it."""
    if not isinstance(value, str):
        raise ValueError("a URL is wanted, like https://example.org/batchrun")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a URL has no blanks and only ASCII letters; write others as %xx")
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL that begins with http:// or https:// and a host is wanted")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a URL holds no user and password here, since logs on the way would keep them; "
            "sign what is posted with `secret_file`"
        )
    _ = parts.port  # raises ValueError for one that is no number
    return value


def shown_url(url: str) -> str:
    """The URL as it may be shown: its path and query may hold a token.

    >>> shown_url("https://hooks.example.org:8443/services/T0/hush?key=hush")
    'https://hooks.example.org:8443/…'
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" + ("/…" if parts.path.strip("/") or parts.query else "")


Size = Annotated[
    int, BeforeValidator(read_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["2GiB"]})
]
Time = Annotated[
    float, BeforeValidator(read_time), WithJsonSchema({"type": ["string", "number"], "examples": ["10s"]})
]
Allowance = Annotated[
    int | float | None,
    BeforeValidator(_allowance),
    WithJsonSchema({"type": ["string", "number", "null"], "examples": [100, "5%"]}),
]
Endpoint = Annotated[
    str | None,
    BeforeValidator(_endpoint),
    WithJsonSchema({"type": ["string", "boolean", "null"], "examples": ["127.0.0.1:8787", "off"]}),
]
Quantity = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    """A mapping of cluster.yaml; its fields' docstrings are the schema's descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WorkerGroup(_Section):
    """Workers of one shape."""

    count: StrictInt = Field(default=1, ge=0)
    """How many workers; 0 leaves the group out."""
    threads: StrictInt = Field(default=1, ge=1)
    """Tasks that each worker runs at once."""
    memory: Size = 2 * 2**30
    """Memory of each worker; it is the limit of the process and what it advertises as MEMORY."""
    resources: dict[str, Quantity] = Field(default_factory=dict)
    """Resource tags of each worker, and how much it has of each."""

    @field_validator("resources")
    @classmethod
    def _tags(cls, tags: dict[str, float]) -> dict[str, float]:
        if MEMORY in tags:
            raise ValueError(f"{MEMORY} is advertised by every worker; set it by `memory`")
        for tag in tags:
            if not _NAME.fullmatch(tag):
                raise ValueError(f"{tag!r} is no name for a tag; use letters, digits, _ and -")
        return tags


class SecuritySettings(_Section):
    """The TLS files of a scheduler at a ``tls://`` address."""

    ca_file: str
    """Certificate of the authority that signed the others, PEM."""
    cert_file: str
    """Certificate of this client, PEM."""
    key_file: str
    """Private key of this client, PEM."""


class RunSettings(_Section):
    """How runs are driven; the defaults suit most."""

    small_result: Size = 2**20
    """Results of up to this size travel to the runner, which collects them; larger ones are written by the
    worker."""
    flush_every: Time = 0.5
    """The longest that a finished chunk waits to be recorded together with others."""
    flush_bytes: Size = 8 * 2**20
    """Collected results of this size are recorded at once."""
    stop_after_alike: StrictInt = Field(default=3, ge=0)
    """A run stops early when its first so many chunks all fail alike; 0 never stops it."""
    look_ahead: Time = 0.25
    """Work that may wait on a worker's thread beside the chunk that it runs, in measured time; chunks that
    take longer are handed out one by one."""
    store_timeout: Time = 60.0
    """How long a run goes on while the store or the artifact root cannot be written."""
    workers_timeout: Time = 60.0
    """How long a run waits for a worker that can meet a waiting demand, when none is left."""
    max_quarantined: Allowance = None
    """A run ends early once more rows than this are quarantined: a number, or a share like 5%."""
    spool: Literal["auto", "memory", "disk"] = "auto"
    """Where a frame in memory is written for workers to map: shared memory, the disk, or shared memory if at
    least twice its size is free there and all workers are on this machine."""
    stop_grace: Time = 0.5
    """How long chunks that run may go on after a first Ctrl-C or a cancel, before they are ended."""
    solution_grace: Time = 5.0
    """How long a stage may go on after its stop_after, before it is ended and its last incumbent taken."""
    chunks_per_child: StrictInt = Field(default=100, ge=1)
    """How many chunks run in one child process before it is replaced by a fresh one."""
    speculate: StrictBool = False
    """Whether a chunk that takes far longer than it should is started a second time on an idle worker; stages
    must be fit to run twice at the same time."""


class ServiceSettings(_Section):
    """How a service (``batchrun up``) drives queued runs."""

    lease: Time = 30.0
    """For how long a service may be silent before another one takes its runs over."""
    runs: StrictInt = Field(default=16, ge=1)
    """How many runs it drives at once; they share the workers."""

    @field_validator("lease")
    @classmethod
    def _not_too_short(cls, lease: float) -> float:
        if lease < 1:
            raise ValueError("a lease of less than a second would pass on a busy machine; use 1s or more")
        return lease


class WebhookSettings(_Section):
    """Where the end of a run is posted to."""

    url: Annotated[str, BeforeValidator(_webhook_url)] = Field(repr=False)
    """An http or https URL; only its host is ever shown."""
    secret_file: str | None = None
    """A file with the secret that signs what is posted; without it nothing is signed."""
    retries: StrictInt = Field(default=5, ge=0, le=20)
    """How often it is tried again when nobody answers or the other side has trouble of its own."""
    timeout: Time = 10.0
    """How long each try may take."""


class HookSettings(_Section):
    """Who is told when a run has ended; nobody by default."""

    command: list[str] | None = Field(default=None, min_length=1)
    """A program and its arguments, started without a shell; it reads the run as JSON."""
    timeout: Time = 30.0
    """How long the command may take before it is ended."""
    webhook: WebhookSettings | None = None
    """Where the run is posted to as JSON."""
    only: list[Literal["succeeded", "partial", "failed", "cancelled"]] = Field(default_factory=list)
    """Only runs that ended so are told of; all of them if it is empty."""

    @property
    def on(self) -> bool:
        """Whether there is anybody to tell."""
        return self.command is not None or self.webhook is not None


class LocalSettings(_Section):
    """A cluster that batchrun starts on this machine and closes again."""

    kind: Literal["local"] = "local"
    """Start a cluster on this machine."""
    workers: dict[str, WorkerGroup] = Field(default_factory=lambda: {"standard": WorkerGroup(count=2)})
    """Worker groups by name."""
    dashboard: Endpoint = "127.0.0.1:8787"
    """Where Dask's dashboard is served, host:port, or off; a free port is taken when that one is in use."""
    expose_dashboard: StrictBool = False
    """Allow a dashboard host that other machines can reach. It has no login."""

    @field_validator("workers")
    @classmethod
    def _groups(cls, groups: dict[str, WorkerGroup]) -> dict[str, WorkerGroup]:
        for name in groups:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a worker group; use letters, digits, _ and -")
        if not any(group.count for group in groups.values()):
            raise ValueError("no group has a worker; give one a count of 1 or more")
        return groups

    @model_validator(mode="after")
    def _stays_here(self) -> LocalSettings:
        host = (self.dashboard or "127.0.0.1:0").rpartition(":")[0].strip("[]")
        if host not in _LOOPBACK and not self.expose_dashboard:
            raise ValueError(
                f"dashboard: {self.dashboard} can be reached from other machines and has no login; use "
                "127.0.0.1, or say `expose_dashboard: true` if that is meant"
            )
        return self


class ConnectSettings(_Section):
    """A Dask scheduler that exists already."""

    kind: Literal["connect"]
    """Connect to a scheduler that runs elsewhere."""
    address: str = Field(pattern=r"^[a-z]+://[^/\s]+$")
    """Address of the scheduler, like tcp://127.0.0.1:8786 or tls://dask.example.org:8786."""
    timeout: Time = 10.0
    """How long to wait for the scheduler to answer."""
    security: SecuritySettings | None = None
    """TLS files, for a tls:// address."""


class StorageSettings(_Section):
    """What both kinds of cluster.yaml say besides the cluster."""

    store: str = ".batchrun"
    """Where runs are recorded: a folder, or the URL of a database."""
    artifacts: str | None = None
    """Where the files of runs are: a folder or an fsspec URL; by default `runs` in the store's folder."""
    run: RunSettings = Field(default_factory=RunSettings)
    """How runs are driven."""
    service: ServiceSettings = Field(default_factory=ServiceSettings)
    """How a service drives queued runs."""
    hooks: HookSettings = Field(default_factory=HookSettings)
    """Who is told when a run has ended."""
    dashboard_buttons: StrictBool = True
    """Let the dashboard's page stop runs and queue them again, for who opens it on this machine."""


class LocalFile(StorageSettings, LocalSettings):
    """cluster.yaml for a local cluster."""


class ConnectFile(StorageSettings, ConnectSettings):
    """cluster.yaml for a scheduler elsewhere."""


FILES: dict[str, type[LocalFile] | type[ConnectFile]] = {"local": LocalFile, "connect": ConnectFile}


def json_schema() -> dict[str, Any]:
    """The JSON schema of ``cluster.yaml``."""
    union = Annotated[LocalFile | ConnectFile, Field(union_mode="left_to_right")]
    schema = TypeAdapter[Any](union).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FILE_NAME, **schema}
