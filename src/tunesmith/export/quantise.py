"""K-quants, which only llama.cpp makes: through llama-cpp-python, or a `llama-quantize` on PATH. Knows files alone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import ResourceError
from tunesmith.export.gguf import FILE_TYPES
from tunesmith.export.importance import read_means
from tunesmith.export.llamacpp import import_llama_cpp, is_installed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROGRAM = "llama-quantize"


def check_quantiser() -> None:
    """Refuse before anything is written.

    Raises:
        ResourceError: neither the package nor the program is there.
    """
    if not is_installed() and shutil.which(_PROGRAM) is None:
        raise ResourceError(
            f"K-quants need llama.cpp: neither the package llama-cpp-python nor {_PROGRAM} on PATH is there",
            fix='pip install "tunesmith[llamacpp]", or take --quantize q8_0 or q4_0, which need neither',
        )


def quantise(source: Path, target: Path, *, file_type: str, matrix: Path | None = None) -> None:
    """Write a float32 GGUF file as another type.

    Args:
        matrix: an importance matrix (`Importance.write`) of the columns of its tensors, for types below 8 bits.

    Raises:
        ResourceError: llama.cpp is not there or refuses; its own words are the cause.
    """
    name = FILE_TYPES[file_type].file_type.removeprefix("MOSTLY_")
    if is_installed():
        code, words = _with_library(source, target, name, {} if matrix is None else read_means(matrix)), ""
    else:
        check_quantiser()
        code, words = _with_program(source, target, name, matrix)
    if code:
        raise ResourceError(
            f"llama.cpp could not write {file_type}: it ended with code {code}",
            cause=words or None,
            fix="check the room on the disk, update llama.cpp, or take --quantize q8_0, which does not need it",
        )


def _with_library(source: Path, target: Path, name: str, means: Mapping[str, NDArray[np.float32]]) -> int:
    llama_cpp: Any = import_llama_cpp()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    settings.nthread = os.cpu_count() or 1
    if means:
        entry = llama_cpp.llama_model_imatrix_data
        numbers = ctypes.POINTER(ctypes.c_float)
        entries = [entry(key.encode(), mean.ctypes.data_as(numbers), mean.size) for key, mean in means.items()]
        # one without a name ends the list; `means` and this array live until llama.cpp is done
        settings.imatrix = (entry * (len(entries) + 1))(*entries)
    return int(llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)))


def _with_program(source: Path, target: Path, name: str, matrix: Path | None) -> tuple[int, str]:
    weighed = [] if matrix is None else ["--imatrix", str(matrix)]
    program = subprocess.run(
        [str(shutil.which(_PROGRAM)), *weighed, str(source), str(target), name.lower()],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return program.returncode, program.stderr.strip()[-400:]
