"""One project and one undisturbed run for all fault tests."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_runs import SEED, Project, Reference, result_of
from tests.processes import Crew


@pytest.fixture(scope="session")
def project(crew: Crew, tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    draw = random.Random(SEED)
    words = ["press", "sheet", "ink", "paper", "plate", "roller", "queue", "colour"]
    lines = [
        f"What does {w} {n} do?,It {draw.choice(words)}s {draw.choice(words)} {n}." for n, w in enumerate(words * 4)
    ]
    (folder / "faq.csv").write_text("question,answer\n" + "\n".join(lines) + "\n")
    (folder / "model").symlink_to(tiny_model_dir("llama"))
    return Project(folder, crew)


@pytest.fixture(scope="session")
def reference(project: Project) -> Reference:
    """The run that nothing happens to."""
    started = time.monotonic()
    code, output = project.start("reference")
    assert code == 0, output
    seconds, run = time.monotonic() - started, project.run("reference")
    loop_seconds = (run.checkpoints_dir / "LATEST").stat().st_mtime - run.config_path.stat().st_mtime
    return Reference(result_of(run), seconds, loop_seconds)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)
