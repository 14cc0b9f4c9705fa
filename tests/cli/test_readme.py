"""Every command of the README is one that the program takes."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tunesmith.config import load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("tunesmith ")]


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


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", "\n".join(BLOCKS), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_pages_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
