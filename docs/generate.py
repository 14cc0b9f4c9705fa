"""Write the generated pages: settings.md from the schema, cli.md from every help, recipes.md from the recipes; and the
table of scores in evaluation.md.

Usage: python docs/generate.py [--check]     --check writes nothing and exits 1 when a page is out of date.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
GENERATED = "<!-- Written by docs/generate.py (make docs): do not edit. -->"
RUN_CLI = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith.cli import main; sys.exit(main())"


def settings_page() -> str:
    """Every setting by section: type, default, range, sentence, and the other names that are accepted for it."""
    from tunesmith.config import RunConfig, describe

    lines = [
        "# Settings",
        "",
        GENERATED,
        "",
        "A setting has one name everywhere: `train.epochs` on the command line is `--train.epochs 3`, in YAML",
        "`train: {epochs: 3}`. Values are taken in this order: defaults, recipe, file, flags; the last one wins, and",
        "`config.yaml` of a run says where each value came from. The names that other tools use for a setting (after",
        '"Also") are accepted everywhere too. `null` means that the program chooses the value and tells which it took.',
    ]
    section: str | None = None
    for setting in describe():
        name = setting.name.split(".")[0] if "." in setting.name else "run"
        if name != section:
            section = name
            field = RunConfig.model_fields.get(name)
            title = (field.annotation.__doc__ if field and field.annotation else None) or "The run itself."
            lines += [
                "",
                f"## {name}",
                "",
                title.strip().split("\n")[0],
                "",
                "| setting | type | default | what it does |",
            ]
            lines += ["| --- | --- | --- | --- |"]
        kind = f"{setting.type}, {setting.allowed}" if setting.allowed else setting.type
        default = json.dumps(setting.default, ensure_ascii=False)
        unit = f" {setting.unit}" if setting.unit and setting.default is not None else ""
        also = [f"`{alias}`" for alias in _aliases(setting.name)]
        sentence = f"{setting.sentence} Also: {', '.join(also)}." if also else setting.sentence
        cells = [f"`{setting.name}`", kind, f"`{default}`{unit}", sentence]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _aliases(name: str) -> Iterator[str]:
    from tunesmith.config.aliases import ALIASES

    for alias, target in ALIASES.items():
        if (target if isinstance(target, str) else target[0]) == name:
            yield alias


def recipes_page() -> str:
    """Every recipe: what it is, the document it follows, each value and its reason."""
    from tunesmith.config import list_recipes

    found = list_recipes()
    lines = [
        "# Recipes",
        "",
        GENERATED,
        "",
        "A recipe is a set of settings with reasons. `tunesmith train FILE --recipe NAME` uses one, any flag beside it",
        "wins, `tunesmith recipes show NAME` explains it in the terminal and `tunesmith recipes NAME > mine.yaml` is a",
        "start for your own. What a recipe leaves out is a [default](settings.md). The values are those of the",
        "document that the recipe names; they were not measured here, unless the reason says so. A recipe with",
        "`pretrain` settings is for `tunesmith pretrain --recipe NAME`.",
        "",
        "The reason of a value is the comment beside it in the YAML file: one place for both, which a test keeps",
        "complete.",
        "",
        "| recipe | what it is |",
        "| --- | --- |",
    ]
    lines += [f"| [{recipe.name}](#{recipe.name.replace('.', '')}) | {_cell(recipe.description)} |" for recipe in found]
    for recipe in found:
        lines += ["", f"## {recipe.name}", "", recipe.description, "", f"Source: {recipe.source}.", ""]
        lines += ["| setting | value | why |", "| --- | --- | --- |"]
        for value in recipe.values:
            shown = json.dumps(value.value, ensure_ascii=False)
            lines.append(f"| `{value.name}` | `{_cell(shown)}` | {_cell(value.reason)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def cli_page() -> str:
    """The help of every command, as it is printed on 100 columns."""
    lines = ["# Command line", "", GENERATED]
    for words in commands():
        lines += ["", f"## {' '.join(['tunesmith', *words])}", "", "```text", help_text(words), "```"]
    return "\n".join(lines) + "\n"


def commands(words: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, parents first: (), ("data",), ("data", "inspect"), ..., found in the help itself."""
    yield tuple(words)
    panel = re.search(r"─ Commands ─.*?╰", help_text(words), flags=re.DOTALL)
    for name in re.findall(r"^│ ([a-z][a-z0-9-]*)(?: |$)", panel.group() if panel else "", flags=re.MULTILINE):
        yield from commands([*words, name])


def evaluation_page() -> str:
    """The page as it is, with the table of scores between its markers."""
    from tunesmith.evaluate import EVALUATORS

    lines = ["| name | score | what it is | look at it for |", "| --- | --- | --- | --- |"]
    for name, score in EVALUATORS.items():
        better = {"higher": "", "lower": "; lower is better", "neither": "; neither direction is better"}[score.better]
        setting = f" (set `{score.setting}`)" if score.setting else ""
        lines.append(f"| `{name}` | {score.title} | {score.meaning}{better} | {score.task}{setting} |")
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    head, rest = page.split("<!-- scores: begin -->", 1)
    tail = rest.split("<!-- scores: end -->", 1)[1]
    return "\n".join([f"{head}<!-- scores: begin -->", *lines, f"<!-- scores: end -->{tail}"])


def help_text(words: Sequence[str]) -> str:
    """What `tunesmith <words> --help` prints, without colour."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        [sys.executable, "-c", RUN_CLI, *words, "--help"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return "\n".join(line.rstrip() for line in run.stdout.strip().splitlines())


def main(arguments: Sequence[str]) -> int:
    pages = {"settings.md": settings_page(), "cli.md": cli_page(), "recipes.md": recipes_page()}
    pages["evaluation.md"] = evaluation_page()
    outdated = 0
    for name, text in pages.items():
        path = DOCS / name
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        if found == text:
            continue
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
            continue
        outdated += 1
        print(f"docs/{name} is out of date; run: make docs", file=sys.stderr)
        changes = difflib.unified_diff(found.splitlines(), text.splitlines(), "is", "should be", n=0, lineterm="")
        print("\n".join(list(changes)[:12]), file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
