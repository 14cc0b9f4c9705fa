"""`tunesmith schedule`: the drawing, the picture, and where a configuration comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.cli.app import main
from tunesmith.cli.schedule import draw


def test_the_drawing_goes_where_the_rate_goes() -> None:
    lines = draw([0.0, 1.0, 1.0, 0.5], [0, 1], columns=4)
    curve = [line[11:].ljust(4) for line in lines[:-2]]
    assert [row.count("*") for row in zip(*curve, strict=True)] == [1, 12, 1, 6]  # steep parts have no gap
    assert curve[0] == " ***"
    assert curve[-1] == "**  "
    assert lines[0].startswith(" 1.00e+00 |")
    assert lines[-1].split() == ["0", "3"]


def test_phases_are_marked_where_they_begin_and_every_line_has_the_same_columns() -> None:
    lines = draw([1e-4] * 100, [0, 50], columns=40)
    assert [line.index(":") for line in lines[1:-2]] == [11 + 20] * 11
    assert max(map(len, lines)) == 11 + 40


@pytest.mark.parametrize("rates", [[0.0], [1e-3], [0.0, 0.0]])
def test_short_and_empty_curves_are_drawn(rates: list[float]) -> None:
    assert sum("*" in line for line in draw(rates, [0], columns=20)) == 1


def test_plain_characters_and_what_was_assumed(api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "three-phases"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert out.split("+--")[0].isascii()
    assert "2e-04" in out or "2.00e-04" in out
    assert "down" in out
    assert "4 steps are assumed" in err
    assert "shares of the peak" in err


def test_a_recipe_a_file_and_flags(api, home: Path) -> None:
    Path("mine.yaml").write_text("train:\n  max_steps: 7\n")
    assert main(["schedule", "mine.yaml", "--train.schedule", "linear"]) == 0
    assert main(["schedule", "three-phases"]) == 0
    assert main(["schedule", "three-fases"]) == 2
    configs = [arguments["config"] for _, arguments in api.calls]
    assert [(config.train.schedule, config.train.max_steps) for config in configs] == [("linear", 7), ("phases", None)]
    assert configs[0].origin("train.max_steps") == "mine.yaml:2"


def test_a_picture_is_written_and_nothing_else_with_json(api, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "--png", "curve.png", "--json"]) == 0
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip().endswith("}")
    assert main(["schedule", "--png", "curve"]) == 2
    assert "--png curve.png" in capsys.readouterr().err
