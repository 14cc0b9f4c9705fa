"""The schedules that are compared, and what their page says of made-up runs."""

from __future__ import annotations

from typing import Any

import pytest

from bench import schedules, schedules_report
from bench.pages import is_picture_of, write_picture
from bench.tuning import COMMON
from tunesmith.config import load_config
from tunesmith.train import resolve

SEEDS = (1, 2, 3, 4, 5, 6)


def run(schedule: str, seed: int, losses: tuple[float, ...], *, f1: float = 0.5, peak: float = 2e-3) -> dict[str, Any]:
    return {
        **{"task": "home orders", "schedule": schedule, "peak": peak, "seed": seed, "steps": 30, "tokens": 900},
        "validation": [(10 * (place + 1), loss) for place, loss in enumerate(losses)],
        "scores": {"token_f1": f1, "exact_match": f1},
        "rows": {"train": 320, "validation": 24, "test": 56},
    }


def content() -> dict[str, Any]:
    """Three phases reach in 20 steps what cosine reaches in 30, and linear sooner; constant is above by chance."""
    runs = []
    for seed in SEEDS:
        up = 0.01 * seed
        runs += [
            run("three phases", seed, (3.0 + up, 2.0 + up, 1.0 + up), f1=0.6),
            run("cosine", seed, (3.0 + up, 2.5 + up, 2.0 + up), f1=0.5),
            run("linear", seed, (3.0 + up, 1.0 + up, 0.9 + up), f1=0.6),
            run("constant", seed, (3.0 + up, 2.0 + up, 1.0 + up + (0.1 if seed % 2 else -0.1)), f1=0.6),
        ]
    return {
        **{"command": "x", "date": "2026-01-01", "threads": 1, "versions": {"torch": "2"}},
        "settings": {**COMMON, **schedules.SETTINGS},
        "tasks": {"home orders": "nlu_home_domain_semicolon.csv"},
        "peaks": {"home orders": dict.fromkeys(("three phases", "cosine", "linear", "constant"), 2e-3)},
        "tuning": [
            run(name, 0, (4.0, loss), peak=peak)
            for name in ("three phases", "cosine", "linear", "constant")
            for peak, loss in ((5e-4, 3.0), (2e-3, 1.0), (8e-3, 2.0))
        ],
        "runs": runs,
    }


def test_all_schedules_have_the_same_peak_and_warm_up_alike() -> None:
    """The three phases are the recipe's, scaled; 5 % of 1,000 steps are 50 (the recipe: 15 % of a third)."""
    for peak in (5e-4, 8e-3):
        for name, settings in schedules.schedules(peak).items():
            config = load_config(overrides={**settings, "train.max_steps": 1000})
            schedule = resolve.schedule_for(config, 1000)
            rates = [schedule(step) for step in range(1000)]
            assert max(rates) == pytest.approx(peak), name
            assert rates.index(max(rates)) == pytest.approx(50, abs=1), name
    recipe = load_config(recipe="three-phases").train.phases
    assert schedules.schedules(5e-4)["three phases"]["train.phases"] == [
        phase.model_dump(by_alias=True) for phase in recipe
    ]


def test_every_run_of_a_seed_differs_in_the_schedule_alone() -> None:
    peaks = {task: dict.fromkeys(schedules.schedules(1.0), (0.002,)) for task in schedules.COMPARED}
    jobs = list(schedules.jobs(peaks, 3, answers=True))
    assert len(jobs) == 4 * len(schedules.COMPARED)
    assert {(job["seed"], job["answers"]) for job in jobs} == {(3, True)}
    shared = [{key: job["settings"][key] for key in schedules.SETTINGS} for job in jobs]
    assert shared == [dict(schedules.SETTINGS)] * len(jobs)


def test_steps_are_read_between_validations() -> None:
    curve = [(10, 3.0), (20, 2.0), (30, 2.5), (40, 1.0)]
    assert schedules_report.steps_to(curve, 3.5) == 10
    assert schedules_report.steps_to(curve, 2.25) == pytest.approx(17.5)
    assert schedules_report.steps_to(curve, 1.75) == pytest.approx(35)
    with pytest.raises(ValueError, match="never falls to"):
        schedules_report.steps_to(curve, 0.5)
    assert schedules_report.steps_to_same(run("a", 1, (3.0, 2.0, 1.0)), run("b", 1, (3.0, 2.5, 2.0))) == (20, 30)


def test_the_peak_has_the_lowest_last_loss() -> None:
    assert schedules_report.chosen_peaks(content()["tuning"]) == content()["peaks"]


def test_what_the_page_says() -> None:
    text = schedules_report.tables(content())
    assert "| cosine | 0.002 | 2.035 [2.0" in text
    # 30 steps become 20: in all six seeds the same
    assert "**20 for 30: -33% [-33%, -33%], p 0.0" in text
    assert "| against cosine | **-1.000 [-1.000, -1.000], p 0.0" in text
    assert "**+0.100 [+0.100, +0.100], p 0.0" in text
    constant = next(line for line in text.splitlines() if line.startswith("| against constant"))
    assert "**" not in constant  # up in three seeds, down in three
    assert (
        "Of the 3 comparisons above, three phases need fewer steps in 1 (cosine on home orders), more in 1 (linear"
        in text
    )
    assert "| home orders, cosine | 3.000 | 1.000 | 2.000 |" in text


def test_fewer_than_six_seeds_are_refused(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    with pytest.raises(SystemExit):
        schedules.main(["--data", str(tmp_path), "--seeds", "1", "2", "3", "4", "5"])
    assert "takes 6 or more" in capsys.readouterr().err
    five = [0.1, 0.2, 0.1, 0.2, 0.1]
    assert not schedules_report.is_told_apart(schedules_report.compared([0.0] * 5, five))
    assert schedules_report.is_told_apart(schedules_report.compared([0.0] * 6, [*five, 0.2]))


def test_a_picture_knows_its_results(tmp_path) -> None:
    path = tmp_path / "schedules.png"
    write_picture(path, schedules_report.picture(content()), content())
    assert is_picture_of(path, content())
    assert not is_picture_of(path, {**content(), "date": "2026-01-02"})


def test_the_page_agrees_with_the_results() -> None:
    """Fails when bench/schedules.json, page or picture was changed alone: python -m bench.schedules_report."""
    assert schedules_report.REPORT.is_up_to_date()
