"""What every command promises: help without torch, exit codes, streams, one JSON document, no colour in a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment
from tunesmith.cli.app import COMMANDS, GROUPS, main
from tunesmith.config import load_config
from tunesmith.errors import DataError, GateFailed, ResourceError, SettingsError, Stopped
from tunesmith.rating import Item, begin

VERBS = list(COMMANDS)
WITH_JSON = {
    "train": ["train", "faq.xlsx", "--json"],
    "train --resume": ["train", "--resume", "done", "--json"],
    "data inspect": ["data", "inspect", "faq.xlsx", "--json"],
    "eval": ["eval", "done", "--json"],
    "rate --results": ["rate", "done", "--results", "--json"],
    "ask": ["ask", "done", "Who?", "--json"],
    "pretrain": ["pretrain", "a.txt", "--json"],
    "recipes": ["recipes", "--json"],
    "recipes NAME": ["recipes", "quickstart", "--json"],
    "methods": ["methods", "--json"],
    "layers": ["layers", "--json"],
    "settings": ["settings", "--json"],
    "settings SECTION": ["settings", "train", "--json"],
    "runs": ["runs", "--json"],
    "schedule": ["schedule", "three-phases", "--json"],
}
WITHOUT_JSON = {
    "chat": ["chat", "done"],
    "quickstart": ["quickstart", "--name", "first"],
    "init": ["init"],
}
EVERYTHING = {
    **{f"{name} as text": arguments[:-1] for name, arguments in WITH_JSON.items()},
    **WITH_JSON,
    **WITHOUT_JSON,
    "help": ["--help"],
    "no arguments": [],
}
HEAVY = ["torch", "transformers", "peft", "pyarrow", "matplotlib", "numpy", "tunesmith.config"]


COMMAND = [sys.executable, "-m", "tunesmith"]


def test_a_ctrl_c_while_the_program_is_still_loaded_is_no_traceback() -> None:
    """The import of cyclopts, which comes first, is where it arrives."""
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cyclopts': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from tunesmith.cli import main\n"
        "sys.exit(main(['runs']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.fixture
def done(api):
    """A finished run of the name "done", of which a rating was begun."""
    run = api.make_run(load_config(overrides={"name": "done", "data.path": "faq.xlsx"}))
    begin(run.eval_dir / "rating", run.config_path, [Item("Who?", None, {"base": "You.", "tuned": "Me."})])
    return run


# --- help


def test_no_help_imports_what_is_heavy() -> None:
    """One process for all: what a help imports stays, so that the last look sees everything."""
    program = (
        "import json, sys\n"
        "from tunesmith.cli.app import COMMANDS, GROUPS, main\n"
        "asked = [(), *COMMANDS, *((group,) for group in GROUPS)]\n"
        "assert not any(main([*words, '--help']) for words in asked)\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps([heavy, len(asked)]), file=sys.stderr)\n"
    )
    command, env = [sys.executable, "-c", program], environment()
    run = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, check=False)
    assert run.returncode == 0, run.stderr
    heavy, asked = json.loads(run.stderr.strip().splitlines()[-1])
    assert heavy == []
    assert asked == len(VERBS) + len(GROUPS) + 1


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_shows_an_example_and_ignores_the_rest(words: tuple[str, ...], cli) -> None:
    plain = cli(*words, "--help")
    assert (plain.code, plain.err) == (0, "")
    assert re.search(rf"^ *tunesmith {' '.join(words)}\b", plain.out, flags=re.MULTILINE)
    assert cli(*words, "--nonsense", "x", "--help", "more").out == plain.out
    assert cli(*words, "-h").out == plain.out


def test_every_option_is_explained(cli) -> None:
    for words in VERBS:
        text = cli(*words, "--help").out
        for line in re.findall(r"^│ (?:\*  )?(--[a-z-]+)(.*)│$", text, flags=re.MULTILINE):
            assert len(line[1].split()) > 2, f"{words}: {line[0]} has no sentence"
        assert "--overrides" not in text


def test_version(cli) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", cli("--version").out)


def test_python_dash_m_is_the_same(cli) -> None:
    version = subprocess.run(
        [*COMMAND, "--version"], capture_output=True, encoding="utf-8", env=environment(), check=True
    )
    assert version.stdout == cli("--version").out


# --- exit codes

FAQ = "question,answer\n" + "".join(f"Question {n}?,Answer {n}.\n" for n in range(30))


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ["trian", "faq.csv"], "did you mean 'train'"),
        (2, ["frobnicate"], "commands: quickstart, train, data"),
        (2, ["data", "inspct", "faq.csv"], "did you mean 'inspect'"),
        (2, ["train"], "there is no data file"),
        (2, ["train", "faq.csv", "--train.epoch", "3"], "did you mean 'train.epochs'"),
        (2, ["train", "faq.csv", "--epoch", "3"], "did you mean 'train.epochs'"),
        (2, ["train", "faq.csv", "--recipie", "x"], "did you mean --recipe"),
        (2, ["train", "faq.csv", "--epochs", "-1"], "train.epochs = -1"),
        (2, ["train", "faq.csv", "--epochs", "three"], "train.epochs = 'three'"),
        (2, ["train", "faq.csv", "--method", "lara"], "method.name = 'lara'"),
        (2, ["train", "faq.csv", "--seed", "x"], "seed = 'x'"),
        (2, ["train", "faq.csv", "--recipe", "quikstart"], "did you mean 'quickstart'"),
        (2, ["train", "faq.csv", "--config", "none.yaml"], "cannot read the settings file none.yaml"),
        (2, ["train", "faq.csv", "--recipe"], "--recipe needs a value"),
        (2, ["export", "faq", "--to"], "--to needs a value"),
        (2, ["export", "faq"], "tunesmith export needs --to"),
        (2, ["export", "faq"], "--to: Any of merged, gguf, ollama,"),
        (2, ["export", "faq", "--format", "gguf"], "tunesmith export needs --to, and has no --format"),
        (3, ["train", "faq.csv", "other.csv"], "there is no file other.csv"),
        (2, ["train", "faq.csv", "--dataset_path", "other.csv"], "two data files"),
        (2, ["train", "settings.yaml"], "--config settings.yaml"),
        (2, ["train", "--resume", "nope"], "there is no run 'nope'"),
        (2, ["data", "inspect", "faq.csv", "--rows", "some"], '"some"'),
        (2, ["eval", "nope"], "there is no run 'nope'"),
        (2, ["eval"], "tunesmith eval needs RUN"),
        (2, ["ask", "nope", "Who?"], "there is no run 'nope'"),
        (2, ["ask", "nope"], "tunesmith ask needs QUESTION"),
        (2, ["ask", "nope", "who", "is"], "put words that belong together into quotation marks"),
        (2, ["ask", "nope", " "], "the question is empty"),
        (2, ["chat", "nope"], "there is no run 'nope'"),
        (2, ["pretrain"], "there are no texts"),
        (2, ["pretrain", "a.yaml", "b.yaml"], "several files of settings"),
        (2, ["pretrain", "--resume", "nope"], "there is no run 'nope'"),
        (2, ["recipes", "quikstart"], "did you mean 'quickstart'"),
        (2, ["settings", "trian"], "did you mean 'train'"),
        (2, ["runs", "--jsn"], "--json"),
        (2, ["quickstart", "--epochs", "0"], "train.epochs = 0"),
        (3, ["train", "missing.csv"], "missing.csv"),
        (3, ["data", "inspect", "missing.csv"], "missing.csv"),
        (3, ["data", "inspect", "faq.csv", "--data.columns.question", "Frage"], "Frage"),
        (4, ["train", "faq.csv", "--model", "nobody/nothing"], "nobody/nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_have_their_exit_code(
    code: int, arguments: list[str], says: str, cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "faq.csv").write_text(FAQ, encoding="utf-8")
    outcome = cli(*arguments)
    assert outcome.code == code
    assert outcome.out == ""
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert re.search(r"^error: ", outcome.err, flags=re.MULTILINE)
    assert not (home / "runs").exists()


def test_a_wrong_path_is_told_before_anything_heavy_is_imported(cli, api, home: Path) -> None:
    (home / "folder").mkdir()
    for file, says in (("mising.csv", "there is no file mising.csv"), ("folder", "folder is a folder")):
        outcome = cli("train", file)
        assert (outcome.code, api.calls) == (3, [])
        assert says in outcome.err
        assert "loading" not in outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("bad"), 2),
        (DataError("bad", cause="why", fix="do"), 3),
        (ResourceError("bad"), 4),
        (Stopped("bad", fix="resume with: x"), 5),
        (Stopped("bad", signal_number=2), 130),
        (Stopped("bad", signal_number=15), 143),
        (GateFailed("bad"), 100),
        (KeyboardInterrupt(), 130),
        (RuntimeError("odd\nthing"), 1),
    ],
)
def test_every_kind_of_error(error: BaseException, code: int, cli, api) -> None:
    api.raises = error
    outcome = cli("train", "faq.xlsx", "--json")
    assert outcome.code == code
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_a_signal_that_a_library_wrapped_is_still_a_stop(cli, api) -> None:
    api.raises = RuntimeError("Error calling __set_name__ on 'Field'")
    api.raises.__cause__ = KeyboardInterrupt()
    outcome = cli("train", "faq.xlsx")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "stopped; nothing is half-written"


def test_errors_show_cause_and_fix(cli, api) -> None:
    api.raises = DataError("row 7 is odd", cause="faq.xlsx:7:B", fix="correct it")
    lines = cli("train", "faq.xlsx").err.splitlines()
    assert lines[-3:] == ["error: row 7 is odd", "  cause: faq.xlsx:7:B", "  fix:   correct it"]


def test_a_stop_is_no_error(cli, api) -> None:
    api.raises = Stopped("stopped after step 3 of 9", fix="resume with: tunesmith train --resume runs/faq")
    lines = cli("train", "faq.xlsx").err.splitlines()
    assert lines[-2:] == ["stopped after step 3 of 9", "  resume with: tunesmith train --resume runs/faq"]


def test_internal_errors_are_one_line_unless_traced(cli, api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.raises = RuntimeError("odd\nthing")
    line = cli("train", "faq.xlsx").err.splitlines()[-1]
    assert line.startswith("internal error: RuntimeError: odd thing (run again with TUNESMITH_TRACE=1")
    monkeypatch.setenv("TUNESMITH_TRACE", "1")
    assert "Traceback (most recent call last)" in cli("train", "faq.xlsx").err


def test_warnings_of_libraries_are_not_shown(cli, api, done) -> None:
    api.events = []
    api.warns = "an internal of some library is deprecated"
    outcome = cli("train", "faq.xlsx")
    assert outcome.code == 0
    assert api.warns not in outcome.err


def test_control_characters_of_data_do_not_reach_the_terminal(cli, api) -> None:
    api.raises = DataError("a cell holds \x1b[2J\x07")
    assert "\x1b" not in cli("train", "faq.xlsx").err


# --- streams


@pytest.mark.parametrize("name", WITH_JSON)
def test_json_is_one_document(name: str, cli, api, done) -> None:
    outcome = cli(*WITH_JSON[name])
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["schema_version"] == 1


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("variable", [None, "FORCE_COLOR"])
def test_a_pipe_gets_no_escape_codes(
    name: str, variable: str | None, cli, api, done, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = cli(*EVERYTHING[name])
    assert outcome.code == 0
    assert "\x1b" not in outcome.out + outcome.err
    assert "\r" not in outcome.out + outcome.err


def in_terminal(*arguments: str, **changes: str) -> bytes:
    """Everything the command writes when both streams are a terminal."""
    leader, follower = pty.openpty()
    env = environment(**{"TERM": "xterm-256color", **changes})
    process = subprocess.Popen([*COMMAND, *arguments], stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        written += piece
    process.wait()
    os.close(leader)
    return written


def test_a_terminal_gets_colour_unless_asked_not_to(home: Path) -> None:
    assert b"\x1b[" in in_terminal("recipes")
    assert b"\x1b[" in in_terminal("--help")
    for arguments in (["recipes"], ["recipes", "nope"], ["--help"]):
        assert b"\x1b" not in in_terminal(*arguments, NO_COLOR="1")
        assert b"\x1b" not in in_terminal(*arguments, TERM="dumb")


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    command, env = [*COMMAND, "settings", "--json"], environment()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_messages_that_nobody_reads_end_nothing(api, home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """`tunesmith train faq.xlsx 2>&1 | head -3`: what is trained is finished, and only then is the reader missed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", pipe)
        assert main(["train", "faq.xlsx"]) == 0
    assert [verb for verb, _ in api.calls] == ["train"]
    assert "20 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "says"),
    [
        (">&-", "recipes", 0, ""),
        (">&-", "settings --json", 0, ""),
        (">&-", "--help", 0, ""),
        ("2>&-", "recipes nope", 2, ""),
        ("<&- >&- 2>&-", "recipes", 0, ""),
        ("<&-", "ask nope", 2, "error: tunesmith ask needs QUESTION"),
    ],
)
def test_streams_that_are_closed_from_the_start_lead_nowhere(
    closed: str, arguments: str, code: int, says: str, home: Path
) -> None:
    line = f"{shlex.join(COMMAND)} {arguments} {closed}"
    done = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(says)
    assert "internal error" not in done.stderr


def test_main_reads_the_arguments_of_the_process(home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tunesmith", "settings", "run"])
    assert main() == 0
    assert "output_dir" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ask", "eval as text", "data inspect as text", "compare --interactive"])
def test_characters_that_an_encoding_lacks_are_spelt_out(
    name: str, api, done, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {**EVERYTHING, "ask": ["ask", "done", "für 🙂?"], "compare --interactive": ["compare", "base", "done"]}
    arguments = [*commands[name], *(["--interactive"] if "compare" in name else [])]
    monkeypatch.setattr("sys.stdin", io.StringIO("für 🙂?"))
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", out)
    assert main(arguments) == 0
    out.seek(0)
    text = out.read()
    if name == "ask":
        assert r"für \U0001f642?" in text
    if "compare" in name:
        assert json.loads(text)["question"] == "für 🙂?"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "what is it? " * 30, "faq"], 2, "is too long for a name"),
        (["train", f"{'x' * 300}.csv"], 2, "is too long for a name"),
        (["init", "file/x.yaml"], 2, "file is there already, and no folder"),
        (["schedule", "three-phases", "--png", "file/x/y.png"], 2, "file/x lies below a file"),
        (["schedule", "three-phases", "--png", "folder.png"], 2, "folder.png is a folder"),
        (["eval", "x" * 300], 2, "is too long for a name"),
    ],
    ids=["ask", "train", "init", "schedule", "schedule-folder", "eval"],
)
def test_paths_that_cannot_be_are_errors_of_the_user(
    arguments: list[str], code: int, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").touch()
    (home / "folder.png").mkdir()
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert "internal error" not in captured.err


def test_what_the_system_refuses_is_told_with_its_path(cli, api) -> None:
    api.raises = PermissionError(13, "Permission denied", "faq.xlsx")
    outcome = cli("train", "faq.xlsx")
    assert outcome.code == 4
    assert "error: faq.xlsx: Permission denied\n  fix: " in outcome.err
    api.raises = ConnectionError("reset")
    assert cli("train", "faq.xlsx").code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output_is_told(home: Path) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [*COMMAND, "settings", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert found.returncode == 4
    assert found.stderr.decode().splitlines() == [
        "error: cannot write: No space left on device",
        "  fix:   free some space",
    ]


def test_columns_of_no_width_hide_nothing(cli, api, done, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = cli("runs").out
    monkeypatch.setenv("COLUMNS", "0")
    assert cli("runs").out == wanted
    assert b"done" in in_terminal("runs", COLUMNS="0")


@pytest.mark.parametrize(("chosen", "spins"), [({}, "2000"), ({"OMP_WAIT_POLICY": "active"}, None)], ids=["", "chosen"])
def test_threads_that_wait_let_other_programs_on(
    chosen: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that wait for one another made training ten times as slow beside one other program."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == spins
