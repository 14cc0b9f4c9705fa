"""One project for all tests of several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from process_runs import Project, write_questions
from tests.processes import Crew
from tunesmith.runs import Run


@pytest.fixture(scope="session")
def project(crew: Crew, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "model").symlink_to(tiny_model_dir("llama"))
    (folder / "tied").symlink_to(tiny_model_dir("qwen3"))
    write_questions(folder)
    return Project(folder, crew)


@pytest.fixture(scope="session")
def alone(project: Project) -> Callable[[str], Run]:
    """alone("lora") -> the run of one process."""

    def made(method: str) -> Run:
        if not project.run(f"alone-{method}").path.exists():
            assert project.train(f"alone-{method}", world=1, method__name=method) == [0], project.crew.said(0)
        return project.run(f"alone-{method}")

    return made
