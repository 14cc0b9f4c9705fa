"""Settings on the command line: taken out of the arguments before the rest is parsed.

`--train.epochs 3`, `--num-train-epochs=3`, `--gradient_checkpointing`: whatever is no option of the command itself is
a setting. Whether it exists and what it may be is for `load_config` to say, which tells all problems together.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from tunesmith.errors import SettingsError

_BOOLEANS = {"true", "false", "yes", "no", "on", "off", "0", "1"}
_CLOSE = 0.7
_OF_RUNS = ("name", "output_dir")
_OF_TRAINING = ("method", "train", "continual", "pretrain", "export")  # sections

Overrides = Annotated[dict[str, str], Parameter(parse=False)]
Json = Annotated[bool, Parameter(help="Print one JSON document, and nothing else, on standard output.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Sources:
    """Where settings come from, besides flags."""

    recipe: Annotated[
        str | None, Parameter(help="Settings that ship with tunesmith (tunesmith recipes), or a path.")
    ] = None
    config: Annotated[str | None, Parameter(help="Your own settings: a YAML or JSON file (tunesmith init).")] = None
    seed: Annotated[str | None, Parameter(help="Seed of the split, the order, dropout and sampling.")] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Place:
    """Where a run goes, or which one is continued."""

    name: Annotated[str | None, Parameter(help="Name of the run; without it, the file's name with a number.")] = None
    output_dir: Annotated[str | None, Parameter(help="Folder of the run; without it, runs/<name>.")] = None
    resume: Annotated[str | None, Parameter(help="Continue this run, by name or folder (last: the newest).")] = None
    allow_drift: Annotated[
        bool, Parameter(help="Continue although data, settings or package versions have changed since.")
    ] = False


NO_SOURCES = Sources()
NO_PLACE = Place()


def given(overrides: Mapping[str, str], **own: str | None) -> dict[str, str]:
    """Settings from the options that a command names itself (`output_dir`, ...), then those it does not."""
    named = {name.replace("__", "."): value for name, value in own.items() if value is not None}
    return {**named, **overrides}


def check_asking(overrides: Mapping[str, str]) -> None:
    """
    Raises:
        SettingsError: settings of training are given to a command that asks a model as it is.
    """
    own = {name: _own_name(name) for name in overrides}
    idle = [
        f"--{name}" for name, setting in own.items() if setting in _OF_RUNS or setting.split(".")[0] in _OF_TRAINING
    ]
    if idle:
        raise SettingsError(
            f"{', '.join(idle)} would change nothing here: a model is asked as it is",
            fix="leave it out; settings of training are for tunesmith train",
        )


def split_overrides(tokens: Sequence[str], own: Mapping[str, bool]) -> tuple[list[str], dict[str, str]]:
    """Divide a command's arguments into its own and settings.

    A setting that is true or false needs no value. A list setting may be given several times.

    Args:
        tokens: the arguments after the command's name.
        own: the command's options as written in Python (output_dir), and whether each takes a value.

    Returns:
        The command's own arguments, options spelled with dashes; and value by setting name, as text.

    Raises:
        SettingsError: an option is misspelt, or a setting has no value.

    >>> split_overrides(["a.xlsx", "--lr", "1e-4", "--grad-checkpoint", "--output_dir", "x"], {"output_dir": True})
    (['a.xlsx', '--output-dir', 'x'], {'lr': '1e-4', 'grad_checkpoint': 'true'})
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    items: dict[str, list[str]] = {}
    problems: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "--":
            rest += ["--", *tokens[position:]]
            break
        if not token.startswith("--"):
            rest.append(token)
            continue
        written, has_value, value = token[2:].partition("=")
        name = written.replace("-", "_")
        following = tokens[position] if position < len(tokens) and not tokens[position].startswith("--") else None
        if name in own:
            option = f"--{name.replace('_', '-')}"
            rest.append(f"{option}={value}" if has_value else option)
            if own[name] and not has_value and following is not None:
                rest.append(following)
                position += 1
            continue
        if not has_value:
            is_flag, is_known = _kind(name)
            if is_flag and (following is None or following.lower() not in _BOOLEANS):
                value = "true"
            elif following is not None:
                value, position = following, position + 1
            elif is_known:
                problems.append(f"--{written} needs a value")
        misspelt = _misspelt(name, own)
        if misspelt:
            problems.append(f"there is no option --{written}, did you mean --{misspelt.replace('_', '-')}?")
        _add(overrides, items, name, value)
    if problems:
        raise SettingsError(
            "cannot read the command line:", problems=tuple(problems), fix="--help shows how it is written"
        )
    return rest, overrides


def _add(overrides: dict[str, str], items: dict[str, list[str]], name: str, value: str) -> None:
    """The last one wins, also over another name of the same setting. Items of a list add up; [a, b] is a whole list."""
    overrides.pop(name, None)  # its place is at the end now
    if _is_list(name):
        if value.lstrip().startswith("["):
            items.pop(name, None)
        else:
            items.setdefault(name, []).append(value)
            value = json.dumps(items[name], ensure_ascii=False)
    overrides[name] = value


def _kind(name: str) -> tuple[bool, bool]:
    """Whether it is a setting that is true or false, and whether it is a setting at all."""
    from tunesmith.config import ALIASES, MAPPINGS, YES_OR_NO, describe

    target = ALIASES.get(name, name)
    if isinstance(target, tuple):
        return name in YES_OR_NO, True
    setting = next((setting for setting in describe() if setting.name == target), None)
    return bool(setting and setting.is_flag), setting is not None or target.startswith(
        tuple(f"{mapping}." for mapping in MAPPINGS)
    )


def _is_list(name: str) -> bool:
    from tunesmith.config import describe

    own_name = _own_name(name)
    return any(setting.name == own_name and setting.type.startswith("list of") for setting in describe())


def _own_name(name: str) -> str:
    """Our name of a setting, or what is no name of one as it is."""
    from tunesmith.config import ALIASES

    target = ALIASES.get(name, name)
    return target[0] if isinstance(target, tuple) else target


def _misspelt(name: str, own: Mapping[str, bool]) -> str | None:
    """The command's own option that was meant, unless a setting is as near."""
    from tunesmith.config import ALIASES, describe

    if "." in name or name in ALIASES:
        return None
    settings = [setting.name for setting in describe()]
    if name in settings:
        return None
    close = difflib.get_close_matches(name, [*own, *ALIASES, *settings], n=1, cutoff=_CLOSE)
    return close[0] if close and close[0] in own else None
