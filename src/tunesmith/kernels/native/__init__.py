"""Kernels in C++ for CPUs with bfloat16, compiled by the machine that uses them and kept on its disk.

They compute in bfloat16 what the kernels beside this folder compute with PyTorch's operations, which stay where there
is no compiler, no such CPU or another number format.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
_SOURCES = ("attention.cpp", "lora.cpp", "pointwise.cpp")
# Flags of the CPU, by torch's names, and those of the compiler. AMX is compiled in and used where there is some.
_NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "fma3")
_FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mamx-tile", "-mamx-bf16"),
)

_TAKE_MEMORY = ("attend", "attend_backward", "lora", "lora_backward")  # and return 0 where there is too little

NO_COMPILER = "there is no C++ compiler on this machine"  # one of the reasons of `why_not_native`

_Argument = Tensor | int | float

_SWITCH = SimpleNamespace(library=None)  # ctypes.CDLL inside `native_kernels`


@contextmanager
def native_kernels(*, wanted: bool) -> Iterator[None]:
    """Inside, in every thread, kernels are those in C++ wherever they can compute what is asked, or not wanted.

    Raises:
        RuntimeError: they are wanted and `why_not_native` says why not.
    """
    before, loaded = _SWITCH.library, _load() if wanted else None
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    _SWITCH.library = loaded
    try:
        yield
    finally:
        _SWITCH.library = before


def why_not_native() -> str | None:
    """Why this machine has no kernels in C++, or None where it has. Compiles them at its first call."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def find_compiler() -> str | None:
    """The C++ compiler of this machine: $CXX, g++ or clang++, the first that there is."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)


def code_cache(kind: str) -> Path:
    """The folder of this user's cache where compiled code of a kind is kept for the next process."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tunesmith" / kind


def is_native(*tensors: Tensor) -> bool:
    """Whether kernels in C++ are switched on and take these tensors."""
    return _SWITCH.library is not None and all(t.dtype == torch.bfloat16 and t.device.type == "cpu" for t in tensors)


def call(name: str, *arguments: _Argument | Sequence[_Argument]) -> None:
    """Call a function of the library: tensors as addresses, numbers as int64 or float, sequences as arrays of these.

    Other Python threads run meanwhile. Its last arguments are told here: how many threads it may use, and whether it
    may use AMX.

    Raises:
        MemoryError: it is one that takes memory of its own, and there was not enough.
    """
    function = _SWITCH.library[name]
    if name not in _TAKE_MEMORY:
        function.restype = None
    numbers = ctypes.c_int(torch.get_num_threads()), ctypes.c_int(_has_amx())
    if function(*map(_as_c, arguments), *numbers) == 0:
        raise MemoryError(f"not enough memory for the kernel {name}")


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    items = [_as_c(item) for item in argument]
    return (type(items[0]) * len(items))(*items)


@lru_cache(maxsize=1)
def _has_amx() -> bool:
    """Asks the kernel, once for the process, for leave to use it."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and bool(torch.cpu._init_amx())


@lru_cache(maxsize=1)  # of a failure too: a compiler would fail as long again
def _load() -> ctypes.CDLL | str:
    """The library, or a line that says why there is none."""
    if sys.platform != "linux":
        return f"not tried on {sys.platform}"
    capabilities = torch.cpu.get_capabilities()
    if not all(capabilities.get(flag) for flag in _NEEDED):
        return "this CPU has no avx512_bf16"
    compiler = find_compiler()
    if compiler is None:
        return NO_COMPILER
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except OSError as error:  # the cache cannot be read or written, or programs there may not run
        return f"they cannot be compiled or loaded: {error}"
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [f"{compiler} failed"]
        return f"they do not compile: {lines[0]}"


def _compiled(compiler: str) -> Path:
    """The library, made anew when a source, a flag or the compiler is another one."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    contents = [path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in (".cpp", ".h")]
    digest = hashlib.sha256(b"\0".join([version, " ".join(_FLAGS).encode(), *contents])).hexdigest()
    cache = code_cache("native")
    library = cache / f"{digest[:24]}.so"
    if library.exists():
        return library
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # code is loaded from it
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / library.name
        command = [compiler, *_FLAGS, *(str(_FOLDER / source) for source in _SOURCES), "-o", str(made)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        with made.open("rb") as file:  # whole on the disk before it has its name
            os.fsync(file.fileno())
        made.replace(library)
    return library
