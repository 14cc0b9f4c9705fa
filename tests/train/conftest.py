"""The runs that are stopped and resumed, each mode made once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resume_runs import Harness, contents


@pytest.fixture(scope="session")
def harness(
    tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """harness("lora") -> (Harness, contents of the uninterrupted run)."""
    made: dict[str, tuple[Harness, dict[str, Any]]] = {}

    def get(mode: str) -> tuple[Harness, dict[str, Any]]:
        if mode not in made:
            one = Harness(mode, tiny_model_dir)
            folder = tmp_path_factory.mktemp("whole")
            made[mode] = one, contents(folder, one.start(folder))
        return made[mode]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield get
