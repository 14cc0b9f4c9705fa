"""K-quants, which only llama.cpp makes: through llama-cpp-python, or a `llama-quantize` on PATH. Knows files alone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tunesmith.errors import ResourceError
from tunesmith.export.gguf import FILE_TYPES
from tunesmith.export.llamacpp import import_llama_cpp, is_installed

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


def quantise(source: Path, target: Path, *, file_type: str) -> None:
    """Write a float32 GGUF file as another type.

    Raises:
        ResourceError: llama.cpp is not there or refuses; its own words are the cause.
    """
    name = FILE_TYPES[file_type].file_type.removeprefix("MOSTLY_")
    if is_installed():
        llama_cpp: Any = import_llama_cpp()
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
        settings.nthread = os.cpu_count() or 1
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
        words = ""
    else:
        check_quantiser()
        program = subprocess.run(
            [str(shutil.which(_PROGRAM)), str(source), str(target), name.lower()],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        code, words = program.returncode, program.stderr.strip()[-400:]
    if code:
        raise ResourceError(f"llama.cpp could not write {file_type}: it ended with code {code}", cause=words or None)
