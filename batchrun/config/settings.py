"""``cluster.yaml``: the one place of configuration, validated, every value with its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from batchrun.config.file import (
    FILE_NAME,
    FILES,
    ConnectFile,
    ConnectSettings,
    HookSettings,
    LocalFile,
    LocalSettings,
    RunSettings,
    SecuritySettings,
    ServiceSettings,
    StorageSettings,
    WebhookSettings,
    WorkerGroup,
    json_schema,
    read_size,
    read_time,
    shown_url,
)
from batchrun.config.source import Origin, parse_value, read_yaml
from batchrun.errors import ConfigError, near_miss
from batchrun.resources import format_bytes, format_seconds

__all__ = [
    "ConnectSettings",
    "HookSettings",
    "LocalSettings",
    "RunSettings",
    "SecuritySettings",
    "ServiceSettings",
    "Setting",
    "Settings",
    "WebhookSettings",
    "WorkerGroup",
    "json_schema",
    "load_settings",
    "settings_for_address",
    "shown_url",
]


_URL = ("hooks", "webhook", "url")
"""The key whose value may hold a token."""


@dataclass(frozen=True)
class Setting:
    """One effective value and where it came from."""

    key: str
    """Dotted path of the key, like ``workers.standard.count``."""
    value: str | float | bool | list[str] | None
    """The value as people write it; passwords are masked, and of a webhook's URL the host is shown."""
    source: str
    """``default``, ``flag``, or file and line, like ``cluster.yaml:7``."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured, validated."""

    cluster: LocalSettings | ConnectSettings
    """What runs the tasks."""
    run: RunSettings
    """How runs are driven."""
    store_url: str = field(repr=False)
    """SQLAlchemy URL of the store's database; it may hold a password."""
    artifact_root: str = field(repr=False)
    """Absolute folder or fsspec URL under which each run has its folder."""
    path: Path | None
    """The cluster.yaml that was read; None for the built-in defaults."""
    service: ServiceSettings = field(default_factory=ServiceSettings)
    """How a service drives queued runs."""
    hooks: HookSettings = field(default_factory=HookSettings)
    """Who is told when a run has ended."""
    dashboard_buttons: bool = True
    """Whether the dashboard's page may stop runs and queue them again."""
    listing: tuple[Setting, ...] = field(default=(), repr=False)
    """What `entries` returns."""

    def entries(self) -> list[Setting]:
        """Every effective value with its source, in the order of the manual."""
        return list(self.listing)


def load_settings(path: str | Path | None = None, overrides: Mapping[str, str] | None = None) -> Settings:
    """Read and validate ``cluster.yaml``.

    Without *path* it is looked for in the current folder and those above it; if there is none, the
    built-in defaults hold: two local workers. *overrides* maps dotted keys to values as YAML would read
    them, ``{"workers.standard.count": "4"}``.

    Raises ConfigError with file, line and key if something is wrong.
    """
    found = Path(path).expanduser().absolute() if path is not None else _nearest()
    raw, origin = read_yaml(found) if found else ({}, Origin())
    return _settle(found, raw, origin, overrides or {})


def settings_for_address(
    address: str, path: str | Path | None = None, overrides: Mapping[str, str] | None = None
) -> Settings:
    """Settings that connect to a scheduler at *address*; store and run settings are as `load_settings` finds.

    Raises ConfigError if *address* is not like ``tcp://host:port``.
    """
    found = Path(path).expanduser().absolute() if path is not None else _nearest()
    raw, origin = read_yaml(found) if found else ({}, Origin())
    kept = set(StorageSettings.model_fields)
    if raw.get("kind") == "connect":
        kept |= set(ConnectSettings.model_fields)
    raw = {key: value for key, value in raw.items() if key in kept}
    return _settle(found, raw, origin, {"kind": "connect", "address": address, **(overrides or {})})


def _nearest() -> Path | None:
    here = Path.cwd()
    return next((f / FILE_NAME for f in (here, *here.parents) if (f / FILE_NAME).is_file()), None)


def _settle(path: Path | None, raw: dict[str, Any], origin: Origin, overrides: Mapping[str, str]) -> Settings:
    """Validate the raw mapping and resolve what is relative."""
    origin = _override(raw, origin, overrides)
    file = _validate(raw, origin)
    base = path.parent if path else Path.cwd()
    store_url, artifact_root = _places(file, base)
    shape = LocalSettings if isinstance(file, LocalSettings) else ConnectSettings
    cluster = shape.model_validate({key: getattr(file, key) for key in shape.model_fields})
    if isinstance(cluster, ConnectSettings) and cluster.security is not None:
        files = {key: str(base / Path(name).expanduser()) for key, name in cluster.security}
        cluster = cluster.model_copy(update={"security": SecuritySettings(**files)})
    listing = tuple(
        Setting(".".join(key), _shown(key, value), origin.source(key))
        for key, value in _leaves(file, raw)
        if key not in (("store",), ("artifacts",))
    )
    places = (
        Setting("store", _masked(store_url), origin.source(("store",))),
        Setting("artifacts", _masked(artifact_root), origin.source(("artifacts",))),
    )
    return Settings(
        cluster,
        file.run,
        store_url,
        artifact_root,
        path,
        service=file.service,
        hooks=_hooks(file.hooks, base),
        dashboard_buttons=file.dashboard_buttons,
        listing=listing + places,
    )


def _hooks(hooks: HookSettings, base: Path) -> HookSettings:
    """The hooks, with the file of the secret found from the folder *base*."""
    webhook = hooks.webhook
    if webhook is None or webhook.secret_file is None:
        return hooks
    secret_file = str(base / Path(webhook.secret_file).expanduser())
    return hooks.model_copy(update={"webhook": webhook.model_copy(update={"secret_file": secret_file})})


def _override(raw: dict[str, Any], origin: Origin, overrides: Mapping[str, str]) -> Origin:
    """Write the overrides into *raw* and note that they came from a flag."""
    for dotted, text in overrides.items():
        key = tuple(dotted.split("."))
        if key[0] == "workers" and "workers" not in raw and len(key) > 1:
            raw["workers"] = {"standard": {"count": 2}}
        place = raw
        for part in key[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"flag: {dotted}: `{part}` is a single value and has no keys of its own")
            place = inner
        place[key[-1]] = parse_value(text, f"flag: {dotted}")
        origin = origin.flagged(key)
    return origin


def _validate(raw: dict[str, Any], origin: Origin) -> LocalFile | ConnectFile:
    kind = raw.get("kind", "local")
    if kind not in FILES:
        hint = near_miss(str(kind), FILES)
        raise ConfigError(f"{origin.place(('kind',))}: kind: {kind!r} is not local or connect.{hint}")
    try:
        return FILES[kind].model_validate(raw)
    except ValidationError as error:
        lines = [_explain(kind, issue, origin) for issue in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _explain(kind: str, issue: Any, origin: Origin) -> str:
    """One problem as pydantic saw it, in words, with file, line and key."""
    key = tuple(str(part) for part in issue["loc"] if part != "[key]")
    place, dotted = origin.place(key), ".".join(key)
    if issue["type"] == "extra_forbidden":
        other = "connect" if kind == "local" else "local"
        if len(key) == 1 and key[0] in FILES[other].model_fields:
            return f"{place}: `{dotted}` belongs to `kind: {other}`, but the kind is {kind}"
        known = _known_keys(FILES[kind], key[:-1])
        return f"{place}: unknown key `{dotted}`.{near_miss(key[-1], known)} Known here: {', '.join(known)}"
    if issue["type"] == "missing":
        return f"{place}: `{dotted}` is missing; `kind: {kind}` needs it"
    said = re.sub(r"^(Value error, |Input should be )", "", issue["msg"])
    if issue["type"] == "value_error":
        return f"{place}: {dotted}: {said}" if dotted else f"{place}: {said}"
    if issue["type"] == "string_pattern_mismatch":
        said = "an address like tcp://127.0.0.1:8786"
    if key[:2] == _URL[:2]:  # what is written there may hold a token
        return f"{place}: {dotted}: it should be {said}"
    return f"{place}: {dotted}: {issue['input']!r} is not {said.removeprefix('a valid ')}"


def _known_keys(model: type[BaseModel], key: tuple[str, ...]) -> list[str]:
    """The keys that a mapping at *key* may have."""
    sections: dict[str, type[BaseModel]] = {
        "run": RunSettings,
        "service": ServiceSettings,
        "workers": WorkerGroup,
        "security": SecuritySettings,
        "hooks": HookSettings,
        "hooks.webhook": WebhookSettings,
    }
    section = sections.get(".".join(key)) or sections[key[0]] if key else model
    return list(section.model_fields)


def _leaves(model: BaseModel, raw: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every single value under *model* with its key, as it was written or as people would write it."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        written = raw.get(name) if isinstance(raw, dict) else None
        yield from _descend((name,), value, written, _unit(model, name))


def _descend(
    key: tuple[str, ...], value: Any, written: Any, unit: Any
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, BaseModel):
        yield from ((key + inner, leaf) for inner, leaf in _leaves(value, written))
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = written.get(name) if isinstance(written, dict) else None
            yield from _descend((*key, name), item, inner, None)
    elif written is not None:
        yield key, "off" if written is False and value is None else written
    else:
        yield key, unit(value) if unit and value is not None else value


def _unit(model: BaseModel, name: str) -> Any:
    """How a default of that field is written for people."""
    metadata = type(model).model_fields[name].metadata
    functions = [item.func for item in metadata if isinstance(item, BeforeValidator)]
    return format_bytes if read_size in functions else format_seconds if read_time in functions else None


def _places(file: StorageSettings, base: Path) -> tuple[str, str]:
    """URL of the database, and the artifact root."""
    folder = base / ".batchrun"
    if "://" not in file.store:
        folder = base / Path(file.store).expanduser()
        url = f"sqlite:///{(folder / 'store.db').as_posix()}"
    elif file.store.startswith("sqlite:///"):
        database = base / file.store.removeprefix("sqlite:///")
        folder, url = database.parent, f"sqlite:///{database.as_posix()}"
    else:
        url = file.store
    if file.artifacts is None:
        return url, str(folder / "runs")
    remote = "://" in file.artifacts
    return url, file.artifacts if remote else str(base / Path(file.artifacts).expanduser())


def _shown(key: tuple[str, ...], value: Any) -> Any:
    """A value as it may be shown."""
    return shown_url(value) if key == _URL else value


def _masked(url: str) -> str:
    """The URL without its password."""
    url = re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", url)
    return re.sub(r"((?:password|secret|token)=)[^&]*", r"\1***", url)
