"""The package keeps the house rules: layers, cycles, optional packages, forbidden calls, budgets.

The rules themselves are proven able to fail in test_rules.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import architecture_rules as rules

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "src" / "tunesmith"

# layer, part -> parts it may import. Parts that are planned but not written yet have their place already.
TABLE: dict[str, tuple[int, tuple[str, ...]]] = {
    "config": (1, ()),
    "runs": (1, ()),
    "kernels": (1, ()),
    "prompts": (2, ("config",)),
    "model": (2, ("config", "kernels")),
    "search": (2, ("config", "runs")),
    "data": (3, ("config", "prompts")),
    "generate": (3, ("config", "prompts", "model")),
    "advise": (3, ("config", "runs", "model")),
    "export": (3, ("config", "runs", "prompts", "model")),
    "train": (4, ("config", "runs", "prompts", "data", "model")),
    "evaluate": (4, ("config", "runs", "data", "model", "generate")),
    "serve": (4, ("config", "runs", "prompts", "generate")),
    "api": (
        5,
        (
            *("config", "runs", "kernels", "prompts", "model", "search"),
            *("data", "generate", "advise", "export", "train", "evaluate"),
        ),
    ),
    "rating": (5, ("runs", "evaluate")),
    "cli": (6, ("config", "runs", "api", "serve", "rating")),
    "studio": (6, ("config", "runs", "api", "serve")),
}
MAY_IMPORT = {part: allowed for part, (_, allowed) in TABLE.items()}
# import name where it is not the distribution's name with "_" for "-"
IMPORT_NAMES = {"pyyaml": "yaml"}


@pytest.fixture(scope="module")
def modules() -> dict[str, rules.Module]:
    return rules.read_package(PACKAGE)


def base_packages() -> set[str]:
    """Import names of the dependencies in pyproject.toml."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=!~\[ ]", dependency)[0].lower() for dependency in project["dependencies"]]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def expect_none(violations: Iterable[rules.Violation]) -> None:
    found = sorted(set(violations))
    if found:
        pytest.fail("\n".join(map(str, found)), pytrace=False)


def test_the_table_only_goes_down() -> None:
    for part, (layer, allowed) in TABLE.items():
        for other in allowed:
            assert TABLE[other][0] < layer, f"{part} (layer {layer}) may not import {other} (layer {TABLE[other][0]})"


def test_the_table_is_the_one_in_the_docs() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    documented: dict[str, tuple[int, set[str]]] = {}
    for layer, parts, may_import in re.findall(r"^\| (\d) \| ([^|]+) \| ([^|]+) \|", page, flags=re.MULTILINE):
        for part in parts.split(","):
            documented[part.strip()] = (int(layer), set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)", "", may_import))))
    assert documented == {part: (layer, set(allowed)) for part, (layer, allowed) in TABLE.items()}


def test_parts_import_only_downward_and_only_parts(modules: dict[str, rules.Module]) -> None:
    expect_none(rules.layer_violations(modules, MAY_IMPORT))


def test_only_base_dependencies_are_imported(modules: dict[str, rules.Module]) -> None:
    expect_none(rules.package_violations(modules, base_packages()))


def test_the_benchmark_keeps_the_budgets() -> None:
    bench = {path.name: path.read_text(encoding="utf-8") for path in (REPO / "bench").glob("*.py")}
    expect_none(rules.budget_violations(rules.parse(bench)))


@pytest.mark.parametrize("rule", rules.RULES)
def test_rule(rule: str, modules: dict[str, rules.Module]) -> None:
    expect_none(rules.RULES[rule](modules))
