"""K-quants through a program on PATH where the package is not there: what it is given, and what it says on failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import ResourceError
from tunesmith.export import quantise as quantising


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A llama-quantize that writes down its type after the file, and refuses q2_k."""
    path = tmp_path / "bin" / "llama-quantize"
    path.parent.mkdir()
    path.write_text(
        '#!/bin/sh\n[ "$3" = q2_k ] && { echo "too few bits" >&2; exit 3; }\n{ cat "$1"; echo "$3"; } > "$2"\n'
    )
    path.chmod(0o755)
    monkeypatch.setattr(quantising, "is_installed", lambda: False)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def test_the_program_makes_the_file(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "f32.gguf"
    source.write_text("weights\n")
    quantising.quantise(source, tmp_path / "small.gguf", file_type="q4_k_m")
    assert (tmp_path / "small.gguf").read_text() == "weights\nq4_k_m\n"


def test_the_program_is_given_the_importance_matrix(program: Path, tmp_path: Path) -> None:
    program.write_text('#!/bin/sh\necho "$@" > "$4"\n')
    quantising.quantise(
        tmp_path / "f32.gguf", tmp_path / "small.gguf", file_type="q4_k_m", matrix=tmp_path / "importance.gguf"
    )
    given = (tmp_path / "small.gguf").read_text().split()
    assert given == ["--imatrix", *(f"{tmp_path}/{name}.gguf" for name in ("importance", "f32", "small")), "q4_k_m"]


def test_its_own_words_are_the_cause(program: Path, tmp_path: Path) -> None:
    (tmp_path / "f32.gguf").write_text("weights\n")
    with pytest.raises(ResourceError, match="code 3") as caught:
        quantising.quantise(tmp_path / "f32.gguf", tmp_path / "small.gguf", file_type="q2_k")
    assert caught.value.cause == "too few bits"


def test_without_either_it_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantising.check_quantiser()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="K-quants need"):
        quantising.check_quantiser()
