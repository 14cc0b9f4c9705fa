"""From arguments to an exit code: finds the command, takes settings out, parses the rest, answers errors.

Exit codes are those of `tunesmith.errors`; 130 after Ctrl-C, 143 after SIGTERM, 129 where training
lost its terminal, 141 when the reader of the data in a pipe has gone.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from tunesmith.cli.ask import ask
from tunesmith.cli.chat import chat
from tunesmith.cli.compare import compare
from tunesmith.cli.data import inspect
from tunesmith.cli.eval import evaluate
from tunesmith.cli.export import export
from tunesmith.cli.init import init
from tunesmith.cli.layers import layers
from tunesmith.cli.methods import methods
from tunesmith.cli.ollama import ollama
from tunesmith.cli.overrides import split_overrides
from tunesmith.cli.pretrain import pretrain
from tunesmith.cli.push import push
from tunesmith.cli.quickstart import quickstart
from tunesmith.cli.rate import rate
from tunesmith.cli.recipes import recipes
from tunesmith.cli.runs import runs
from tunesmith.cli.schedule import schedule
from tunesmith.cli.settings import settings
from tunesmith.cli.streams import give_up, live, open_streams, unread
from tunesmith.cli.terminal import activation, console
from tunesmith.cli.train import train
from tunesmith.errors import ResourceError, SettingsError, Stopped, Terminated, TunesmithError, did_you_mean
from tunesmith.runs import is_writer

TRACE = "TUNESMITH_TRACE"
# How often a thread of torch on Linux (libgomp) looks again before it sleeps. A step of the built-in model was as fast
# as with libgomp's own 300,000 on two quiet cores, and 18 times as fast where another program held one.
_SPINS = "2000"
# What is wrong with a path that is no path of anything.
_WRONG_NAMES = {
    errno.ENAMETOOLONG: "is too long for a name",
    errno.EEXIST: "is there already, and no folder",
    errno.ENOTDIR: "lies below a file, not a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ELOOP: "is a link that leads to itself",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_LONGEST_PATH = 160
_HELP = """From a spreadsheet to a small language model that is tuned, measured against
its base, and yours to run. Every command explains itself: tunesmith train --help

    tunesmith quickstart                       the whole path on a sample
    tunesmith train faq.xlsx                   on a file of yours
    tunesmith eval faq                         tuned against base
    tunesmith ask faq "How do I reset it?"     one answer"""

_SHARED = (("train",), ("pretrain",))  # commands that several processes can carry out together
GROUPS = {"data": "Look at data before training on it."}
COMMANDS: dict[tuple[str, ...], Callable[..., int | None]] = {
    ("quickstart",): quickstart,
    ("train",): train,
    ("data", "inspect"): inspect,
    ("eval",): evaluate,
    ("compare",): compare,
    ("rate",): rate,
    ("ask",): ask,
    ("chat",): chat,
    ("export",): export,
    ("push",): push,
    ("ollama",): ollama,
    ("runs",): runs,
    ("recipes",): recipes,
    ("methods",): methods,
    ("layers",): layers,
    ("settings",): settings,
    ("schedule",): schedule,
    ("init",): init,
    ("pretrain",): pretrain,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's) and return its exit code."""
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments)
        open_streams()
        _quiet_libraries()
        _share_the_cores()
        with _listen_for_sigterm(), warnings.catch_warnings(), _one_voice():
            if not sys.warnoptions and TRACE not in os.environ:
                warnings.simplefilter("ignore")  # libraries warn their own developers; ours are told as findings
            code = run(tokens)
        sys.stdout.flush()
        return code or 0
    except TunesmithError as error:
        return _answer(error)
    except KeyboardInterrupt as error:
        return _answer_interruption(error)
    except BrokenPipeError:
        give_up(sys.stdout)
        return 141
    except Exception as error:
        stop = _interruption(error)
        if stop is not None:
            return _answer_interruption(stop)
        known = _of_the_system(error) if isinstance(error, OSError) else None
        return _answer_internal(error) if known is None else _answer(known)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of the processes of torchrun the first alone writes to the terminal; others tell only errors of their own."""
    if is_writer():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def _listen_for_sigterm() -> Iterator[None]:
    """By default SIGTERM ends a process without a word. Training listens for itself, from its first step on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(tokens: Sequence[str]) -> int | None:
    """Find and run the command.

    Raises:
        SettingsError: there is no such command, or its arguments cannot be read.
    """
    app, words = build_app(), find_command(tokens)
    if "TORCHELASTIC_RUN_ID" in os.environ and words not in _SHARED:  # set by torchrun
        raise SettingsError(
            f"{' '.join(['tunesmith', *words])} runs in one process; train and pretrain can use several",
            fix="start it without torchrun",
        )
    rest = list(tokens[len(words) :])
    overrides: dict[str, str] = {}
    wants_help = any(token in ("--help", "-h") for token in _before_separator(rest))
    if words in COMMANDS and not wants_help:
        own, takes_overrides = _options(app, words)
        if takes_overrides:
            rest, overrides = split_overrides(rest, own)
    try:
        command, bound, ignored = app.parse_args([*words, *rest], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise _usage_error(error, words) from error
    named: dict[str, Any] = {"overrides": overrides} if "overrides" in ignored else {}
    code: int | None = command(*bound.args, **bound.kwargs, **named)
    return code


def build_app() -> App:
    """The commands with their help."""
    from tunesmith import __version__

    everything = Parameter(negative="", show_default=False)
    shared: dict[str, Any] = {"help_format": "plaintext", "default_parameter": everything}
    out = console(sys.stdout)
    app = App(name="tunesmith", help=_HELP, version=__version__, version_flags=["--version"], console=out, **shared)
    groups = {name: App(name=name, help=text, version_flags=[], **shared) for name, text in GROUPS.items()}
    for place, (words, function) in enumerate(COMMANDS.items()):
        parent = app
        if len(words) > 1:
            parent = groups[words[0]]
            parent.sort_key = place
        parent.command(function, name=words[-1], sort_key=place)
    for group in groups.values():
        app.command(group)
    return app


def find_command(tokens: Sequence[str]) -> tuple[str, ...]:
    """The words that name a command or a group of them: ("train",), ("data", "inspect"), ("data",) or none.

    Raises:
        SettingsError: the first word is no command; the message names the nearest and all.
    """
    if not tokens or tokens[0].startswith("-"):
        return ()
    first = tokens[0]
    if first not in GROUPS:
        _check_known(first, [*(words[0] for words in COMMANDS)], "tunesmith")
        return (first,)
    if len(tokens) == 1 or tokens[1].startswith("-"):
        return (first,)
    _check_known(tokens[1], [words[1] for words in COMMANDS if words[0] == first], f"tunesmith {first}")
    return (first, tokens[1])


def _check_known(word: str, known: Sequence[str], parent: str) -> None:
    names = list(dict.fromkeys(known))
    if word not in names:
        nearest = did_you_mean(word, names, cutoff=0.5)
        raise SettingsError(f"there is no command '{parent} {word}'{nearest}", fix=f"commands: {', '.join(names)}")


def _before_separator(tokens: Sequence[str]) -> Sequence[str]:
    return tokens[: tokens.index("--")] if "--" in tokens else tokens


def _options(app: App, words: Sequence[str]) -> tuple[dict[str, bool], bool]:
    """A command's options by Python name, whether each takes a value, and whether it takes settings besides."""
    command = app
    for word in words:
        command = command[word]
    arguments = command.assemble_argument_collection()
    named = [argument for argument in arguments if argument.parse and argument.name.startswith("--")]
    own = {argument.name[2:].replace("-", "_"): argument.token_count()[0] > 0 for argument in named}
    return own, any(argument.name == "--overrides" for argument in arguments)


def _usage_error(error: CycloptsError, words: Sequence[str]) -> SettingsError:
    name = " ".join(["tunesmith", *words])
    fix = f"{name} --help shows how it is written"
    cause = None
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        wanted = error.argument.name
        unknown = [token for token in error.unused_tokens or [] if token.startswith("--")]
        cause = f"{wanted}: {error.argument.parameter.help}"
        message = f"{name} needs {wanted}" + "".join(f", and has no {option}" for option in unknown)
        if error.keyword is not None:  # it is there, and nothing after it
            message = f"{wanted} needs a value"
    elif isinstance(error, UnusedCliTokensError):
        unused = error.unused_tokens or []
        message = f"unexpected: {' '.join(unused)}"
        if not any(token.startswith("-") for token in unused):
            fix = f"put words that belong together into quotation marks; {fix}"
    else:
        message = str(error).strip().rstrip(".")
        message = message[:1].lower() + message[1:]
    return SettingsError(message, cause=cause, fix=fix)


def _quiet_libraries() -> None:
    """Progress bars and advice of the libraries below us, unless somebody asked for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not live(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _share_the_cores() -> None:
    """Threads that wait for one another let other programs on, unless somebody chose how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is loaded


def _answer(error: TunesmithError) -> int:
    if TRACE in os.environ:
        traceback.print_exception(error)
    if error.is_told:
        return error.exit_code
    if isinstance(error, Stopped):
        first = activation()
        lines = [error.message, *([f"first: {first}"] if error.fix and first else []), *filter(None, [error.fix])]
        _message("\n  ".join(lines))
    else:
        _message(str(error), label="error")
    return error.exit_code


def _interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The signal behind an error: one that arrives while Python makes a class, say, comes out as a RuntimeError."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause


def _of_the_system(error: OSError) -> TunesmithError | None:
    """What the system refused of a path, or of standard output, in words; None of anything else, such as a connection.

    Where something is written that should last, its own message comes before: see `runs.disk_errors`.
    """
    number, name = error.errno, error.filename2 or error.filename  # of a renaming it is the new name that matters
    if name is None and number in _NO_ROOM:
        give_up(sys.stdout)
        return ResourceError(f"cannot write: {error.strerror}", fix="free some space")
    if number is None or not isinstance(name, (str, bytes, os.PathLike)):
        return None
    path = os.fsdecode(name)
    shown = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
    if number in _WRONG_NAMES:
        found: TunesmithError = SettingsError(f"{shown} {_WRONG_NAMES[number]}", fix="give another name or path")
    else:
        found = ResourceError(f"{shown}: {error.strerror}", fix=f"check it; {TRACE}=1 shows what it was needed for")
    found.__cause__ = error
    return found


def _answer_interruption(error: KeyboardInterrupt) -> int:
    _message("stopped; nothing is half-written")
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _answer_internal(error: Exception) -> int:
    if TRACE in os.environ:
        traceback.print_exception(error)
        return 1
    what = " ".join(f"{type(error).__name__}: {error}".split())
    _message(f"{what[:400]} (run again with {TRACE}=1 for the traceback)", label="internal error")
    return 1


def _message(text: str, *, label: str | None = None) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import plain

    line = Text(f"{label}: ", style="bold red") if label else Text()
    with unread():
        console(sys.stderr).print(line.append(Text(plain(text), style="default")), soft_wrap=True)
