"""training_visuals/: what is drawn, what is written, and that nothing heavy or global is touched."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.errors import SettingsError
from tunesmith.runs import MetricsLog, Run, plot_run, plots
from tunesmith.runs.curves import Series, columns_under, mean_between, needs_log_scale, smooth, thin
from tunesmith.runs.plots import _between

CONFIG = "name: faq\nseed: 42\nmodel:\n  path: org/tiny\nmethod:\n  name: lora\n  r: 16\norigins:\n  seed: flag\n"
FIGURES = ("training_curves.png", "loss_comparison.png", "lr_schedule.png")
FILES = ("training_metrics.json", "training_metrics.csv", "training_config.json")
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (193, 18, 31)


def train(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "kind": "train",
        "loss": loss,
        "learning_rate": 1e-4,
        "grad_norm": 0.5,
        "tokens": 100 + step,
        "tokens_per_second": 900.0,
        "epoch": step / 10,
        "seconds": 0.1,
    }


def lines(*, steps: int = 30, eval_every: int = 10, bad: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        result.append(train(step, math.nan if step in bad else 1 + 2 / step))
        if eval_every and step % eval_every == 0:
            result.append({"step": step, "kind": "eval", "validation_loss": 1.2 + abs(step - 20) / 50})
    return result


def make(folder: Path, content: list[dict[str, Any]], name: str = "faq") -> Run:
    run = Run.create(folder / name, config_text=CONFIG, manifest={})
    log = MetricsLog(run.metrics_path)
    for line in content:
        log.append(line)
    return run


def pixels(run: Run, figure: str) -> NDArray[np.int64]:
    """(H, W, 3) from 0 to 255."""
    import matplotlib.image

    picture = matplotlib.image.imread(run.visuals_dir / figure)
    return np.asarray(np.rint(picture[:, :, :3] * 255), dtype=np.int64)


def has_colour(run: Run, figure: str, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(run, figure) - colour).max(axis=2) <= 2).sum() > 20)


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make(tmp_path_factory.mktemp("runs"), lines())
    paths = plot_run(run)
    assert [path.name for path in paths] == [*FIGURES, *FILES]
    return run


def test_the_six_artifacts_are_written(plotted: Run) -> None:
    assert {path.name for path in plotted.visuals_dir.iterdir()} == {*FIGURES, *FILES}
    for figure in FIGURES:
        assert pixels(plotted, figure).shape == (1050, 1500, 3)


def test_curves_are_drawn_in_their_colours(plotted: Run) -> None:
    for figure in ("training_curves.png", "loss_comparison.png"):
        assert has_colour(plotted, figure, BLUE)
        assert has_colour(plotted, figure, ORANGE)
        assert has_colour(plotted, figure, GREEN), "the best checkpoint is marked"
        assert not has_colour(plotted, figure, RED)
    assert has_colour(plotted, "lr_schedule.png", BLUE)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose loss is NaN at steps 7 and 12."""
    run = make(tmp_path_factory.mktemp("runs"), lines(bad=(7, 12)))
    plot_run(run)
    return run


def test_a_run_whose_process_was_killed_is_not_running_in_its_files(tmp_path: Path) -> None:
    run = make(tmp_path, lines())
    run.update_manifest(status="running")
    plot_run(run)
    assert json.loads((run.visuals_dir / "training_metrics.json").read_text())["status"] == "interrupted"


def test_the_files_say_what_the_log_says(broken: Run) -> None:
    read = MetricsLog(broken.metrics_path).read()
    summary = json.loads((broken.visuals_dir / "training_metrics.json").read_text())
    assert summary["run"] == "faq"
    assert summary["status"] == "created"
    assert (summary["best_validation_loss"], summary["best_step"], summary["steps"]) == (1.2, 20, 30)
    assert summary["nonfinite_steps"] == [7, 12]
    with (broken.visuals_dir / "training_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(read)
    for row, line in zip(rows, read, strict=True):
        expected = {name: "" if value is None else str(value) for name, value in line.items() if name != "nonfinite"}
        assert {name: row[name] for name in expected} == expected
        assert row["nonfinite"] == " ".join(line.get("nonfinite", []))
        assert all(not row[name] for name in row.keys() - line.keys())
    settings = json.loads((broken.visuals_dir / "training_config.json").read_text())
    assert settings == {
        "name": "faq",
        "seed": 42,
        "model": {"path": "org/tiny"},
        "method": {"name": "lora", "r": 16},
    }


def test_a_loss_that_is_not_finite_is_marked_red(broken: Run) -> None:
    assert has_colour(broken, "training_curves.png", RED)
    assert has_colour(broken, "loss_comparison.png", RED)


def test_a_gradient_that_is_never_finite_is_marked_red(tmp_path: Path) -> None:
    run = make(tmp_path, [{**line, "grad_norm": math.inf} for line in lines(eval_every=0)])
    plot_run(run)
    assert has_colour(run, "training_curves.png", RED)
    assert has_colour(run, "training_curves.png", BLUE)
    assert not has_colour(run, "training_curves.png", ORANGE), "there was no validation to name in the legend"


CASES: dict[str, list[dict[str, Any]]] = {
    "no line": [],
    "one step": lines(steps=1),
    "one evaluation": [{"step": 0, "kind": "eval", "validation_loss": 2.0}],
    "one step and one evaluation": lines(steps=1, eval_every=1),
    "no validation": lines(eval_every=0),
    "nothing finite": lines(bad=tuple(range(1, 31)), eval_every=0),
    "bare lines": [{"step": step, "kind": "train"} for step in range(1, 4)],
    "zero loss": [train(step, 0.0) for step in range(1, 30)],
    "divergence": [train(step, 1.0 if step < 25 else 10.0 ** (step - 20)) for step in range(1, 30)],
    "validation not finite": [*lines(), {"step": 31, "kind": "eval", "validation_loss": math.inf}],
    "learning rate of zero": [{**train(step, 1.0), "learning_rate": 0.0} for step in range(1, 4)],
}


@pytest.mark.parametrize("case", CASES)
def test_odd_logs_are_drawn_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(plots, "_DPI", 40)  # faster
    run = make(tmp_path, CASES[case], name="名前 $x_$ %s")
    plot_run(run)
    for figure in FIGURES:
        assert pixels(run, figure).shape == (280, 400, 3)
    json.loads((run.visuals_dir / "training_metrics.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_a_long_run_is_drawn_fast(tmp_path: Path) -> None:
    run = make(tmp_path, [])
    text = [json.dumps(train(step, 1 + math.sin(step) / 9)) for step in range(1, 100_001)]
    run.metrics_path.write_text("\n".join(text) + "\n")
    start = time.process_time()
    plot_run(run)
    assert time.process_time() - start < 30  # about 3 s on one quiet core


def test_the_plots_are_whole_or_not_there(tmp_path: Path) -> None:
    run = make(tmp_path, lines())
    run.config_path.write_text("a: [")
    with pytest.raises(SettingsError):
        plot_run(run)
    assert not run.visuals_dir.exists()


def test_neither_torch_nor_pyplot_is_loaded_and_no_style_is_changed(tmp_path: Path) -> None:
    make(tmp_path, lines(steps=3))
    program = f"""
import sys
import tunesmith.runs as runs
print(sorted({{"torch", "numpy", "matplotlib"}} & set(sys.modules)))
import matplotlib
style = lambda: [matplotlib.rcParams[name] for name in ("font.size", "axes.grid", "legend.framealpha")]
before = style()
runs.plot_run(runs.Run.open({str(tmp_path / "faq")!r}))
print(sorted({{"torch", "matplotlib.pyplot"}} & set(sys.modules)), style() == before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "[] True"]
    assert result.stderr == ""


FLOATS = st.floats(0.01, 100) | st.just(math.nan)


@given(st.lists(FLOATS, max_size=40), st.floats(1, 30), st.booleans())
def test_smoothing_is_the_weighted_mean_since_the_last_gap(values: list[float], span: float, logarithmic: bool) -> None:
    smoothed = smooth(Series(list(range(len(values))), values), span, logarithmic=logarithmic).values
    alpha = 2 / (span + 1)
    start = 0
    for index, value in enumerate(values):
        if math.isnan(value):
            start = index + 1
            assert math.isnan(smoothed[index])
            continue
        stretch = np.array(values[start : index + 1])
        weights = (1 - alpha) ** np.arange(len(stretch))[::-1]
        stretch = np.log(stretch) if logarithmic else stretch
        mean = float((weights * stretch).sum() / weights.sum())
        assert smoothed[index] == pytest.approx(math.exp(mean) if logarithmic else mean, rel=1e-9)


@given(st.lists(FLOATS, min_size=1, max_size=300), st.integers(6, 60))
def test_thinning_loses_no_peak_and_no_gap(values: list[float], limit: int) -> None:
    series = Series(list(range(len(values))), values)
    thinned = thin(series, limit)
    assert thinned.steps == sorted(set(thinned.steps))
    assert len(thinned.steps) <= limit + 3
    assert all(math.isnan(values[step]) == math.isnan(v) for step, v in zip(thinned.steps, thinned.values, strict=True))
    if series.finite:
        assert max(thinned.finite) == max(series.finite)
        assert min(thinned.finite) == min(series.finite)
    assert any(math.isnan(v) for v in thinned.values) == any(math.isnan(v) for v in values)


def test_the_mean_between_validations_is_weighted_by_tokens() -> None:
    content: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.0, "tokens": 10},
        {"step": 2, "loss": 4.0, "tokens": 30},
        {"step": 3, "loss": 5.0, "tokens": 1},
        {"step": 4, "loss": None, "tokens": 7},
        {"step": 5, "loss": 2.0, "tokens": 3},
        {"step": 9, "loss": 8.0, "tokens": 3},
    ]
    means = mean_between(content, [0, 2, 3, 4, 6, 7])
    assert means.steps == [0, 2, 3, 4, 6, 7]
    assert means.values == pytest.approx([math.nan, 130 / 40, 5.0, math.nan, 2.0, math.nan], nan_ok=True)


def test_a_log_axis_is_for_peaks_over_positive_values() -> None:
    assert needs_log_scale([1.0, 1.0, 1.0, 21.0])
    assert not needs_log_scale([1.0, 1.0, 1.0, 20.0])
    assert not needs_log_scale([0.0, 1.0, 1.0, 900.0])
    assert not needs_log_scale([])


def test_each_task_has_a_curve_of_its_own(tmp_path: Path) -> None:
    pink = (204, 121, 167)
    with_tasks = [
        {**line, "validation_loss/faq": 1.5, "validation_loss/maths": 2.5} if line["kind"] == "eval" else line
        for line in lines()
    ]
    found = columns_under(with_tasks, "validation_loss/")
    assert found == {"faq": Series([10, 20, 30], [1.5] * 3), "maths": Series([10, 20, 30], [2.5] * 3)}
    run, plain = make(tmp_path, with_tasks, "tasks"), make(tmp_path, lines(), "plain")
    plot_run(run, status="finished")
    plot_run(plain, status="finished")
    assert has_colour(run, "training_curves.png", pink)
    assert not has_colour(plain, "training_curves.png", pink)
    with (run.visuals_dir / "training_metrics.csv").open(newline="") as file:
        assert [row["validation_loss/maths"] for row in csv.DictReader(file) if row["kind"] == "eval"] == ["2.5"] * 3


def test_a_run_that_begins_within_an_epoch_has_its_epochs_where_they_are() -> None:
    to_epoch, to_step = _between((1, 0.25), (11, 0.75))
    assert (to_epoch(1), to_epoch(6), to_epoch(0)) == (0.25, 0.5, pytest.approx(0.2))
    assert to_step(0.5) == 6
