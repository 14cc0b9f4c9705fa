"""`import tunesmith` and every --help answer without torch in 300 ms of processor time, quick commands in 600."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tunesmith.runs import Run

REPO = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "transformers", "peft", "accelerate", "pyarrow", "matplotlib", "sacrebleu", "python_calamine"]
BUDGET_SECONDS = 0.3
LOOKING = 2  # budgets: pydantic, YAML and rich are imported to answer
RUNS = 5
# Imports of the standard library, which slow processors are slow at in the same way. Where the budget was set they take
# so long; a machine that needs longer is allowed proportionally more.
YARDSTICK = (
    "import asyncio, concurrent.futures, csv, decimal, email.message, http.server, inspect, logging.config, pydoc, "
    "sqlite3, statistics, typing, unittest.mock, xml.dom.minidom, zipfile"
)
YARDSTICK_SECONDS = 0.085

IMPORT = "import tunesmith"
QUICK = (
    *(("runs",), ("methods",), ("recipes",), ("recipes", "quickstart"), ("settings",), ("init", "new.yaml", "--force")),
    *(("schedule",), ("schedule", "three-phases"), ("schedule", "--json")),
)
INSPECT = ("data", "inspect", str(REPO / "examples" / "presscrafters_faq.xlsx"))
RUN = "import sys; sys.argv = ['tunesmith', *{words!r}]\nfrom tunesmith.cli import main\nsys.exit(main())"
HELP = "import sys; sys.argv = ['tunesmith', *{words!r}, '--help']\nfrom tunesmith.cli import main\nsys.exit(main())"
# Printed at exit on standard error, so that what the command itself prints cannot be mistaken for it.
REPORT = (
    "import atexit, json, sys\n"
    f"atexit.register(lambda: print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr))\n"
)


def start(program: str) -> tuple[float, list[str]]:
    """Processor seconds (user and system) of a fresh Python that runs the program, and its heavy modules at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", REPORT + program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stderr is not None
    with process.stderr as stream:
        errors = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors
    return usage.ru_utime + usage.ru_stime, list(json.loads(errors.strip().splitlines()[-1]))


def allowed() -> float:
    """Processor seconds of one budget on this machine now: some machines change their speed from minute to minute."""
    return BUDGET_SECONDS * max(1.0, start(YARDSTICK)[0] / YARDSTICK_SECONDS)


def problems(program: str, budgets: float) -> list[str]:
    """Heavy modules, and the time when none of five starts is within so many budgets, each measured just before."""
    for _ in range(RUNS):
        limit = budgets * allowed()
        seconds, heavy = start(program)
        if seconds < limit:
            return heavy
    return [*heavy, f"{seconds:.2f} s, {limit:.2f} s are allowed"]


@cache
def pages() -> ModuleType:
    """docs/generate.py, which finds the commands in the help itself."""
    spec = importlib.util.spec_from_file_location("generate", REPO / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_check_sees_a_heavy_import() -> None:
    assert problems("import python_calamine", 200) == ["python_calamine"]


def test_the_check_sees_a_slow_start() -> None:
    busy = "import time\nwhile time.process_time() < {}: pass"
    assert problems(busy.format(allowed() * 3), 1) != []
    assert problems(busy.format(allowed() * 0.3), 1) == []


def test_import_is_light() -> None:
    assert problems(IMPORT, 1) == []


@pytest.mark.parametrize("words", [(), ("train",), ("export",)], ids=["tunesmith", "train", "export"])
def test_a_help_is_light(words: tuple[str, ...]) -> None:
    """Of all commands what is imported is watched by tests/cli/test_contract.py, in one process."""
    assert problems(HELP.format(words=words), 1) == []


@pytest.mark.slow
def test_every_help_is_light() -> None:
    commands = list(pages().commands())
    assert {("train",), ("data", "inspect")} <= set(commands)
    found = {words: problems(HELP.format(words=words), 1) for words in commands}
    assert {words: listed for words, listed in found.items() if listed} == {}


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_a_command_that_only_looks_things_up_is_light(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no runs
    assert problems(RUN.format(words=words), LOOKING) == []


@pytest.mark.parametrize("words", [INSPECT, (*INSPECT, "--json")], ids=["rendered rows", "json"])
def test_a_look_at_data_imports_no_torch(words: tuple[str, ...]) -> None:
    _, heavy = start(RUN.format(words=words))
    assert set(heavy) <= {"python_calamine", "transformers"}  # the reader, and the tokenizer of the packaged model


def test_what_would_be_pushed_is_shown_without_torch(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "faq", config_text="{}", manifest={"kind": "finetune"})
    run.update_manifest(status="finished")
    run.model_dir.mkdir(exist_ok=True)
    (run.model_dir / "README.md").write_text("# faq\n")
    _, heavy = start(RUN.format(words=("push", str(run.path), "ada/faq", "--dry-run")))
    assert heavy == []
