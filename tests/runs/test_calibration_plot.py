"""The reliability diagram draws what it is given, in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tunesmith.runs import CalibrationPoint, plot_calibration
from tunesmith.runs import calibration_plot as module

MODELS = {
    "base": [CalibrationPoint(0.9, 0.97, 0.5, 0.4, 0.65, 10)],
    "tuned": [CalibrationPoint(0.3, 0.35, 0.25, 0.1, 0.6, 4), CalibrationPoint(0.9, 0.95, 1.0, 0.61, 1.0, 6)],
}


def test_points_intervals_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure()
    real = module.render

    def spy(title: str, draw: Callable[[Figure], None], **options: Any) -> bytes:
        draw(figure)
        return real(title, draw, **options)

    monkeypatch.setattr(module, "render", spy)
    path = tmp_path / "calibration.png"
    plot_calibration(path, MODELS, title="faq", subtitle="10 rows")
    assert path.read_bytes().startswith(b"\x89PNG")
    above, below = figure.axes
    diagonal, *lines = above.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [line.get_xydata().tolist() for line in lines] == [[[0.97, 0.5]], [[0.35, 0.25], [0.95, 1.0]]]
    ends = [[segment.ravel().tolist() for segment in bars.get_segments()] for bars in above.collections]
    assert ends == [
        [pytest.approx([0.97, 0.4, 0.97, 0.65])],
        [pytest.approx([0.35, 0.1, 0.35, 0.6]), pytest.approx([0.95, 0.61, 0.95, 1.0])],
    ]
    assert [(bar.get_height(), bar.get_x() + bar.get_width() / 2) for bar in below.patches] == [
        (10, pytest.approx(0.93)),
        *((4, pytest.approx(0.37)), (6, pytest.approx(0.97))),
    ]
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["as sure as right", "base", "tuned"]
