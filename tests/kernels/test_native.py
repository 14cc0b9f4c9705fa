"""Kernels in C++: made once for a machine, or a reason in a line why there are none."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tunesmith.kernels import native
from tunesmith.kernels.native import is_native, native_kernels, why_not_native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="not tried elsewhere")

# A compiler that counts what it compiles, in a file beside it.
MAKES = """
echo made >> "$0.log"
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""
FAILS = """
echo made >> "$0.log"
while [ "$1" != -o ]; do shift; done
echo half a library > "$2"
echo 'In file included from attention.cpp:13:' >&2
echo 'simd.h:7:10: error: no such header' >&2
echo 'simd.h:9:10: error: and another' >&2
exit 1
"""


class Compiler:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(MAKES)

    def write(self, script: str, *, version: str = "a compiler 1.0") -> None:
        self.path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{script}')
        self.path.chmod(0o755)

    @property
    def count(self) -> int:
        log = Path(f"{self.path}.log")
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """That of a machine whose CPU has all that is needed. What it makes is taken for a library."""
    made = Compiler(tmp_path / "c++")
    monkeypatch.setenv("CXX", str(made.path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(native._NEEDED, True))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: SimpleNamespace(made=Path(path).read_text()))
    native._load.cache_clear()
    yield made
    native._load.cache_clear()


@pytest.fixture
def libraries(tmp_path: Path) -> Callable[[], list[Path]]:
    return lambda: sorted((tmp_path / "cache" / "tunesmith" / "native").rglob("*"))


def as_a_new_process() -> str | None:
    native._load.cache_clear()
    return why_not_native()


def test_a_library_is_made_once(compiler: Compiler, libraries: Callable[[], list[Path]]) -> None:
    assert why_not_native() is None
    made = libraries()
    assert [path.suffix for path in made] == [".so"]
    assert as_a_new_process() is None
    assert (compiler.count, libraries()) == (1, made)


def test_another_compiler_makes_another_one(compiler: Compiler, libraries: Callable[[], list[Path]]) -> None:
    assert why_not_native() is None
    compiler.write(MAKES, version="a compiler 2.0")
    assert as_a_new_process() is None
    assert (compiler.count, len(libraries())) == (2, 2)


def test_changed_sources_make_another_one(
    compiler: Compiler, libraries: Callable[[], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_not_native() is None
    sources = Path(shutil.copytree(native._FOLDER, tmp_path / "sources"))
    monkeypatch.setattr(native, "_FOLDER", sources)
    assert as_a_new_process() is None
    assert compiler.count == 1
    header = sources / "simd.h"
    header.write_text(header.read_text() + "// changed\n")
    assert as_a_new_process() is None
    assert (compiler.count, len(libraries())) == (2, 2)


def test_a_cpu_without_the_instructions(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert why_not_native() == "this CPU has no avx512_bf16"
    assert compiler.count == 0


def test_no_compiler(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert why_not_native() == "there is no C++ compiler on this machine"


def test_a_compiler_that_fails_leaves_its_first_error_and_nothing_else(
    compiler: Compiler, libraries: Callable[[], list[Path]]
) -> None:
    compiler.write(FAILS)
    for _ in range(2):  # it is asked once for the process
        assert why_not_native() == "they do not compile: simd.h:7:10: error: no such header"
    assert (compiler.count, libraries()) == (1, [])


def test_a_folder_that_cannot_be_written(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    reason = why_not_native()
    assert reason is not None
    assert reason.startswith("they cannot be compiled or loaded: ")
    assert compiler.count == 0


def test_two_processes_that_compile_at_once(compiler: Compiler, libraries: Callable[[], list[Path]]) -> None:
    """Each in a thread, which shares no more with the other than the disk: both see no library when they begin."""
    wait = 'n=0; while [ $(wc -l < "$0.log") -lt 2 ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done'
    compiler.write(f'echo made >> "$0.log"\n{wait}\n{MAKES}')
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(native._compiled, [str(compiler.path)] * 2)
    assert compiler.count == 4  # each wrote two lines
    assert first == second
    assert libraries() == [first]
    assert first.read_text() == "library\n"


def test_they_are_used_inside_only(compiler: Compiler) -> None:
    inside, other = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    assert not is_native(inside)
    with native_kernels(wanted=True):
        assert is_native(inside, inside)
        assert not is_native(inside, other)
    assert not is_native(inside)
    with native_kernels(wanted=False):
        assert not is_native(inside)


def test_wanted_and_not_there(compiler: Compiler) -> None:
    compiler.write("exit 1")
    with pytest.raises(RuntimeError, match="they do not compile"), native_kernels(wanted=True):
        pytest.fail("it began without them")
    assert not is_native(torch.zeros(1, dtype=torch.bfloat16))
