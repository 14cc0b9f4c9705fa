"""Here pictures are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tunesmith.runs import plots


@pytest.fixture(autouse=True, scope="module")
def rendered(rendering: Callable[..., bytes]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "render", rendering)
        yield
