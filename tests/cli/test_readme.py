"""Every command of the README is one that the program takes, and every one of the docs is one that it reads."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from cyclopts import App

from tunesmith.cli import app
from tunesmith.config import load_config
from tunesmith.errors import SettingsError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("tunesmith ")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("tunesmith ")]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_the_program_takes_it(line: str, cli, api, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text("train: {epochs: 2}\n")
    Path("maths.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n')
    shutil.copy("faq.xlsx", "more.xlsx")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # chat reads to the end and leaves
    arguments = shlex.split(line, comments=True)[1:]
    if arguments[0] in ("eval", "ask", "chat", "compare"):
        api.make_run(load_config(overrides={"name": "faq", "data.path": "faq.xlsx"}))
    if arguments[0] == "rate":
        arguments.append("--help")  # it would wait for raters
    result = cli(*arguments)
    assert result.code == 0, result.err


def words_of(line: str) -> list[str]:
    """What the program is given of a line of a shell."""
    words = shlex.split(line, comments=True)[1:]
    return words[: next((place for place, word in enumerate(words) if word in ("<", ">", "|")), None)]


def problems_of(overrides: dict[str, str]) -> str:
    try:
        load_config(overrides=overrides)
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_the_program_reads_it(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of commands, options and settings, and how many arguments there are. Nothing is carried out."""
    read, seen = App.parse_args, list[dict[str, str]]()

    def parse(self: App, *tokens: object, **options: object) -> tuple[object, object, object]:
        _, bound, ignored = read(self, *tokens, **options)  # type: ignore[arg-type]
        return (lambda *_, overrides=None, **__: seen.append(overrides or {})), bound, ignored

    monkeypatch.setattr(App, "parse_args", parse)
    for line in commands_of(page):
        app.run(words_of(line))
        said = problems_of(seen[-1])  # also what the command's own arguments would mend
        assert "unknown setting" not in said, line


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", "\n".join(BLOCKS), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_linked_pages_and_headings_exist(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", without_code(page)):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in anchors_of(linked), f"{target}#{heading}"


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """Of every heading, as GitHub makes them: small letters and hyphens, nothing else."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
