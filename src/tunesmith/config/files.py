"""Files of settings, YAML or JSON: their content, the line of every key, and what typed text stands for in YAML.

Knows no settings: a file is any mapping. How the two are read is also how files of questions are (`YamlLoader`,
`unique_keys`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import SettingsError


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `no`, `off` and 2024-01-31 stay text, 1e-4 is a number. PyYAML knows 1.1 only.

    Digits behind a zero stay text too: a sheet may be called 007, and where a number is wanted it still is 7. A key
    that is there twice is refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"{name!r} is there twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts text into quotes that either version of YAML would take for something else: others read the file as 1.1."""


_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
        "-+.0123456789",
    ),
}
YamlLoader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (YamlLoader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])


def parse_yaml(text: str) -> Any:
    """What a text stands for.

    Raises:
        yaml.YAMLError: it is no YAML, or holds a key twice or a number that Python does not read.
    """
    loader = YamlLoader(text)
    try:
        return loader.get_single_data()
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def dump_yaml(content: Mapping[str, object]) -> str:
    """A mapping as YAML, in its order: `parse_yaml` reads the same values back."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_settings(path: Path) -> dict[str, Any]:
    """Content of a file of settings; nothing of an empty one.

    Raises:
        SettingsError: it cannot be read, is neither YAML nor JSON, or holds no mapping.
    """
    text = _text(path)
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        content = json.loads(text, object_pairs_hook=unique_keys) if kind == "JSON" else parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid {kind}", cause=str(error), fix="correct it there") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds a {type(content).__name__}, not settings", fix="write `name: value` lines")
    return {str(key): value for key, value in content.items()}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as `object_pairs_hook`; Python's own takes the last of two values.

    Raises:
        ValueError: a key is there twice.
    """
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice")
    return dict(pairs)


def settings_tree(path: Path) -> tuple[yaml.Node | None, list[str]]:
    """The syntax tree of a file that `read_settings` takes, None of an empty one, and its lines."""
    text = _text(path)
    return _composed(text), text.splitlines()


def key_lines(path: Path) -> dict[str, int]:
    """Line of every key, dotted, counted from 1."""
    try:
        root = _composed(_text(path))
    except yaml.YAMLError:
        return {}
    lines: dict[str, int] = {}

    def visit(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
                visit(value, f"{prefix}{key.value}.")

    visit(root, "")
    return lines


def _composed(text: str) -> yaml.Node | None:
    """JSON is read as YAML, of which it is a subset but for tabs."""
    return yaml.compose(text.replace("\t", "  "), Loader=yaml.SafeLoader)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(
            f"cannot read the settings file {path}", cause=error.strerror, fix="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text", cause=str(error), fix="save it as UTF-8") from error
