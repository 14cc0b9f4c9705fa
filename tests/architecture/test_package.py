"""The wheel holds every file of the package: templates, recipes and the built-in model included."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tunesmith.cli.quickstart import SAMPLE

REPO = Path(__file__).resolve().parents[2]
SOURCE = REPO / "src"


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    run = subprocess.run(build, cwd=REPO, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_complete(wheel_names: set[str]) -> None:
    source = {
        p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert {name for name in source if not name.endswith(".py")} >= {"tunesmith/py.typed"}
    assert source - wheel_names == set()
    assert f"tunesmith/examples/{SAMPLE}" in wheel_names


def test_the_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == {"tunesmith"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_the_lock_has_every_dependency() -> None:
    """A dependency added to pyproject.toml without `make lock` would be missing from every installation."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    lines = (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")}
    names = {item.split(">")[0].split("=")[0].split("<")[0].strip().lower().replace("_", "-") for item in wanted}
    assert names - locked == set()
    assert all("==" in line and "+" not in line for line in lines if not line.startswith("#"))
