"""`tunesmith quickstart`: the public path from a workbook to a measured model, on the sample that ships with us."""

from __future__ import annotations

from pathlib import Path

from tunesmith.cli.overrides import Overrides
from tunesmith.errors import ResourceError

SAMPLE = "presscrafters_faq.xlsx"
RECIPE = "quickstart"


def quickstart(*, overrides: Overrides) -> None:
    """Tune the built-in model on a sample workbook, and show what it learned.

    Needs no network and no data. The run is runs/quickstart, the next one
    runs/quickstart-2. Any setting is a flag.

        tunesmith quickstart
        tunesmith quickstart --epochs 3
    """
    from tunesmith.cli.eval import compare, show_comparison
    from tunesmith.cli.report import files, reference
    from tunesmith.cli.terminal import commands, shell, show, tell
    from tunesmith.cli.train import run_training
    from tunesmith.config import load_config
    from tunesmith.runs import Run

    sample = sample_workbook()
    own = {"data.path": str(sample), "name": Run.free_name("quickstart"), **overrides}
    config = load_config(recipe=RECIPE, overrides=own)
    flags = [word for name, value in overrides.items() if name != "name" for word in (f"--{name}", value)]
    same = shell("tunesmith", "train", sample, "--recipe", RECIPE, "--name", config.name, *flags)
    tell("this is the same as", f"  {same}", "")
    run = run_training(config)
    name = reference(run)
    comparison = compare(str(run.path), {})
    show_comparison(comparison)
    question = comparison.tuned.rows[0]["question"]
    show(
        files(run),
        "",
        commands(
            [
                (shell("tunesmith", "ask", name, question), "one answer"),
                (shell("tunesmith", "chat", name), "talk to it"),
                (shell("tunesmith", "train", "yours.xlsx"), "the same with your file"),
            ]
        ),
    )


def sample_workbook() -> Path:
    """The sample, in the repository or in the package; relative to where we are if it is below.

    Raises:
        ResourceError: it is in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "examples", package / "examples"):
        path = folder / SAMPLE
        if path.is_file():
            return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    raise ResourceError(
        f"the sample workbook {SAMPLE} is not installed",
        fix="run it from a copy of the repository, or use a file of your own: tunesmith train FILE",
    )
