"""YAML text as plain values, each of which remembers its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from batchrun.errors import ConfigError

__all__ = ["Origin", "parse_value", "read_yaml"]

Key = tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where values came from."""

    name: str = ""
    """Name of the file; empty if there is none."""
    lines: Mapping[Key, int] = field(default_factory=dict)
    """Line of each key of the file, from 1."""
    flags: frozenset[Key] = frozenset()
    """Keys that a flag has set."""

    def flagged(self, key: Key) -> Origin:
        """The same, with *key* set by a flag."""
        return Origin(self.name, self.lines, self.flags | {key})

    def source(self, key: Key) -> str:
        """Where the value of *key* came from: ``default``, ``flag`` or file and line."""
        if key in self.flags:
            return "flag"
        return f"{self.name}:{self.lines[key]}" if key in self.lines else "default"

    def place(self, key: Key) -> str:
        """Where to look for *key*, or for the nearest thing around it."""
        while key:
            if key in self.flags or key in self.lines:
                return self.source(key)
            key = key[:-1]
        return self.name or "flag"


def read_yaml(path: Path) -> tuple[dict[str, Any], Origin]:
    """The mapping in the file at *path*, and the line of every key in it.

    Raises ConfigError if the file cannot be read, is not YAML, is not a mapping or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; `batchrun config` shows which one is used"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    reader = _Reader(text, path.name)
    try:
        value = reader.read()
    except yaml.YAMLError as error:
        raise ConfigError(_syntax(error, path.name)) from None
    return value, Origin(path.name, reader.lines)


def parse_value(text: str, place: str) -> Any:
    """A value given by a flag, read as YAML would.

    Raises ConfigError, naming *place*, if it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{place}: {text!r} is not a YAML value: {getattr(error, 'problem', error)}"
        ) from None


class _Reader:
    """Builds plain values from YAML nodes."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self.lines: dict[Key, int] = {}

    def read(self) -> dict[str, Any]:
        self._loader = yaml.SafeLoader(self._text)
        try:
            node = self._loader.get_single_node()
            if node is None:
                return {}
            if not isinstance(node, yaml.MappingNode):
                raise ConfigError(f"{self._at(node)}: a mapping is wanted here, like `kind: local`")
            value: dict[str, Any] = self._value(node, ())
            return value
        finally:
            self._loader.dispose()

    def _at(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}"

    def _value(self, node: yaml.Node, key: Key) -> Any:
        if len(key) > 20:
            raise ConfigError(f"{self._at(node)}: values are nested too deeply; does an alias hold itself?")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*key, str(number))) for number, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        first: dict[str, int] = {}
        for name, _ in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise ConfigError(f"{self._at(name)}: a key must be a plain word")
            if name.value in first:
                dotted = ".".join((*key, name.value))
                raise ConfigError(
                    f"{self._at(name)}: `{dotted}` is set twice, first in line {first[name.value]}; keep one"
                )
            first[name.value] = line
        self._loader.flatten_mapping(node)  # `<<` after the check: a merged key may be set again
        value = {}
        for name, item in node.value:
            self.lines[(*key, name.value)] = name.start_mark.line + 1
            value[name.value] = self._value(item, (*key, name.value))
        return value


def _syntax(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{name}:{mark.line + 1}" if mark else name
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{place}: not valid YAML: {said}"
