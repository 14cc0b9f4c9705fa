"""Defaults < recipe < file < flags -> RunConfig, with the origin of every value and all problems told together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from tunesmith.config.aliases import NOTHING, YES_OR_NO, canonical
from tunesmith.config.describe import sections, settings_by_name
from tunesmith.config.files import dump_yaml, key_lines, parse_yaml, read_settings
from tunesmith.config.method_config import MethodConfig, base_problems, loop_problems
from tunesmith.config.methods import METHODS, settings_of
from tunesmith.config.problems import instead_of, nearest, problems_of, settings_error
from tunesmith.config.schema import RunConfig
from tunesmith.config.section import IN_PARTS
from tunesmith.errors import SettingsError

ABOUT = ("description", "source")  # what a recipe says of itself in `tunesmith recipes`
# Settings whose keys are the user's own: data.columns.question, train.learning_rates.lora_B, eval.checks.regex.
MAPPINGS = ("data.columns", "train.learning_rates", "eval.checks")
# Settings that older runs do not have -> what those runs do, whatever the default is.
OF_OLDER_RUNS: dict[str, object] = {"train.native": "off"}

_OLDER = "detected: the run is older than this setting"


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    given_name: str
    value: object
    origin: str


def load_config(
    *,
    recipe: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    stored: Path | None = None,
) -> RunConfig:
    """Resolve the settings of a run.

    Args:
        stored: config.yaml of an existing run, the start instead of the defaults; its origins are kept. What an older
            run does not have is as it was then.
        recipe: name of a recipe that ships with the package, or a path to one.
        file: the user's YAML or JSON file, nested, dotted or with other people's names.
        overrides: flags or keyword arguments, dotted or other people's names; text values are parsed as YAML.

    Raises:
        SettingsError: with every unknown key, wrong type and value out of range, each with its place and nearest name.
    """
    values: list[_Value] = []
    kept_origins: dict[str, str] = {}
    if stored is not None:
        content = read_settings(stored)
        kept_origins = content.pop("origins", None) or {}
        values += [_Value(name, name, value, _OLDER) for name, value in OF_OLDER_RUNS.items()]
        values += [value for key, item in content.items() for value in _flatten(key, item, str(stored))]
    if recipe is not None:
        path = find_recipe(recipe)
        values += _read_file(path, f"recipe {path.stem}")
    if file is not None:
        values += _read_file(Path(file), str(file))
    for given_name, raw in (overrides or {}).items():
        value = _parse_flag(given_name, raw) if isinstance(raw, str) else raw
        values += _flatten(given_name, value, "flag" if isinstance(raw, str) else "argument")
    config = _build(_for_the_method(_without_idle_noes(values)))
    if stored is not None:
        new = {name: origin for name, origin in config.origins.items() if origin != str(stored)}
        config.set_origins({**kept_origins, **new})
    return config


def dump_config(config: RunConfig) -> str:
    """Every resolved value as YAML, then the origin of each that is no default. `load_config(stored=...)` reads it."""
    return dump_yaml({**config.model_dump(mode="json"), "origins": dict(sorted(config.origins.items()))})


def check_config(config: RunConfig) -> None:
    """Refuse what `load_config` would have refused, of settings that were built or changed in Python.

    Assigning one setting checks it, but not what it is to go together with.

    Raises:
        SettingsError: with every problem, as from `load_config`.
    """
    content, origins = config.model_dump(mode="json"), config.origins
    values = [value for name, item in content.items() for value in _flatten(name, item, "settings")]
    _build([replace(value, origin=origins.get(value.name, value.origin)) for value in values])


def recipe_paths() -> dict[str, Path]:
    """Recipes in the package by name."""
    folder = Path(str(resources.files("tunesmith"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A recipe's file, by name or path.

    Raises:
        SettingsError: there is none; the message names the nearest.
    """
    recipes = recipe_paths()
    if name in recipes:
        return recipes[name]
    if Path(name).is_file():
        return Path(name)
    raise SettingsError(
        f"there is no recipe {name!r}{nearest(name, recipes)}",
        fix=f"take one of: {', '.join(recipes)} (tunesmith recipes), or a path to a YAML file",
    )


def _read_file(path: Path, origin: str) -> list[_Value]:
    content = _filled(read_settings(path))
    content.pop("origins", None)  # a run's config.yaml can be used as a settings file
    for name in ABOUT:
        content.pop(name, None)
    lines = key_lines(path)
    values: list[_Value] = []
    for key, item in content.items():
        for value in _flatten(key, item, origin):
            line = lines.get(value.given_name) or lines.get(key)
            place = f"{path}:{line}" if line else str(path)
            values.append(replace(value, origin=f"{origin} ({place})" if origin.startswith("recipe") else place))
    return values


def _filled(content: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Without the sections that have no value: all their lines are comments."""
    return {
        key: _filled(item, f"{prefix}{key}.") if isinstance(item, Mapping) else item
        for key, item in content.items()
        if item is not None or f"{prefix}{key}" not in sections()
    }


def _parse_flag(name: str, text: str) -> object:
    """The value that typed text stands for. A setting that takes text gets it as typed: `--name 007` stays 007."""
    own_name = canonical(name, text)[0]
    setting = settings_by_name().get(own_name)
    mapping = _mapping_of(own_name)
    if mapping is not None and settings_by_name()[mapping].type == "dict of text":
        return text
    nothing = text.strip().lower() in {"null", "none", "~"}
    if setting is not None and setting.type in {"text", "text | null"}:
        return None if nothing and "null" in setting.type else text
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return text
    return text if value is None and not nothing else value


def _mapping_of(name: str) -> str | None:
    """The setting that this is an entry of: data.columns, of data.columns.question."""
    return next((each for each in MAPPINGS if name.startswith(f"{each}.")), None)


def _flatten(name: str, value: object, origin: str, given_prefix: str | None = None) -> Iterator[_Value]:
    """Leaves of a nested mapping under our dotted names. Mapping-valued settings (data.columns) stay whole."""
    given = given_prefix if given_prefix is not None else name
    if isinstance(value, Mapping) and name.replace("-", "_") not in settings_by_name():
        for key, item in value.items():
            yield from _flatten(f"{name}.{key}", item, origin, f"{given}.{key}")
        return
    own_name, own_value = canonical(name, value)
    yield _Value(own_name, given, own_value, origin)


def _without_idle_noes(values: list[_Value]) -> list[_Value]:
    """Without a no to something that is not asked for: `fp16: false` says nothing against `bf16: true` above it."""
    kept: list[_Value] = []
    for value in values:
        given = value.given_name.replace("-", "_")
        if given in YES_OR_NO and value.value == NOTHING:
            before = next((one.value for one in reversed(kept) if one.name == value.name), None)
            if before not in (None, canonical(given, True)[1]):
                continue
        kept.append(value)
    return kept


def _for_the_method(values: list[_Value]) -> list[_Value]:
    """Without settings that the method does not read and that nobody asked for.

    Those are a recipe's for its own method, where a file or a flag takes another, and `lora_r` and the like of scripts
    beside their `use_lora: false`.
    """
    names = [value for value in values if value.name == "method.name"]
    if not names or str(names[-1].value) not in METHODS:
        return values
    chosen = names[-1]
    is_switch = chosen.given_name.replace("-", "_") == "use_lora"

    def is_asked_for(value: _Value) -> bool:
        of_the_recipe = value.origin.startswith("recipe") and not chosen.origin.startswith("recipe")
        return not of_the_recipe and not (is_switch and value.given_name.startswith("lora"))

    unread = MethodConfig.model_fields.keys() - {"name", *settings_of(str(chosen.value))}
    return [value for value in values if value.name.removeprefix("method.") not in unread or is_asked_for(value)]


def _build(values: list[_Value]) -> RunConfig:
    problems: list[str] = []
    known = settings_by_name()
    nested: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for value in values:
        name = value.name
        whole = _mapping_of(name)
        if whole is not None:
            part, mapping = whole.split(".")
            entries = nested.setdefault(part, {}).get(mapping, {})
            if isinstance(entries, Mapping):  # anything else is told below
                nested[part][mapping] = {**entries, name.removeprefix(f"{whole}."): value.value}
            origins[whole] = value.origin
            continue
        if name not in known:
            problems.append(
                f"{value.origin}: unknown setting {value.given_name!r}{instead_of(value.given_name, known)}"
            )
            continue
        *path, leaf = name.split(".")
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[leaf] = _as_text(value.value) if known[name].type.startswith("text") else value.value
        origins[name] = value.origin
    try:
        config = RunConfig.model_validate(nested, context=IN_PARTS)
    except ValidationError as error:
        problems += [
            problem
            for problem in problems_of(error, RunConfig, origins=origins, otherwise="settings")
            if problem not in problems
        ]
    problems += [f"settings: {part}: {message}" for part, message in _combined(nested)]
    if problems:
        raise settings_error(problems)
    config.set_origins(origins)
    return config


def _combined(nested: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """What of method, base and loop does not go together, by section, whatever else is wrong with any of them."""
    defaults = RunConfig()

    def given(section: str, name: str) -> Any:
        return nested.get(section, {}).get(name, getattr(getattr(defaults, section), name))

    method, quantize = str(given("method", "name")), str(given("model", "quantize"))
    for message in base_problems(method, quantize, str(given("model", "device"))):
        yield "method", message
    recomputes, sharding = _is_yes(given("train", "gradient_checkpointing")), str(given("train", "sharding"))
    for message in loop_problems(method, quantize, gradient_checkpointing=recomputes, sharding=sharding):
        yield "train", message


def _is_yes(value: object) -> bool:
    """Whether the schema takes a value for true: yes, on and 1 are among them. What it refuses is told elsewhere."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
