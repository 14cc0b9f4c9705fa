"""What the products of one export share: the run, what is to be made of it, and things made at most once."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.config import GenerateConfig
from tunesmith.export.card_facts import CardFacts
from tunesmith.export.gguf import FILE_TYPES, write_model
from tunesmith.export.go_template import Frame, find_frame
from tunesmith.export.importance import Importance
from tunesmith.export.vocabulary import Vocabulary, read_vocabulary
from tunesmith.model import TrainedTensors, base_folder, open_trained
from tunesmith.prompts import Template
from tunesmith.runs import disk_errors
from tunesmith.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OF_AN_ADAPTER = ("adapters.safetensors", "adapter_config.json", "README.md", "verification.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished run as its exports need it.

    folder: its model/. dtype: what it computed in. template: what it was trained with.
    modules_to_save: embeddings or head were trained whole beside an adapter. generate: how it answers. max_length: of
    a training row, in tokens.
    """

    folder: Path
    facts: CardFacts
    config: Any
    dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase
    template: Template
    modules_to_save: bool
    generate: GenerateConfig
    max_length: int


@dataclass(frozen=True, slots=True)
class Product:
    """One export: a target, and how numbers are stored where that can be chosen. `name` is its folder.

    weighed: rounded by the importance of columns on the training rows.
    """

    target: str
    file_type: str | None = None
    weighed: bool = False

    @property
    def name(self) -> str:
        return self.target if self.file_type is None else f"{self.target}-{self.type_name}"

    @property
    def type_name(self) -> str:
        """The type, and whether columns were weighed; what files and tags are called by."""
        return f"{self.file_type}-imatrix" if self.weighed else str(self.file_type)

    @property
    def needs_llama_cpp(self) -> bool:
        """Whether only llama.cpp can make it, from a float32 file."""
        kind = None if self.file_type is None else FILE_TYPES.get(self.file_type)
        return kind is not None and (self.weighed or kind.tensor_type is None)

    @property
    def is_gguf(self) -> bool:
        """Whether it is written with the package gguf and tried with llama.cpp."""
        return self.target in ("gguf", "ollama", "gguf-lora")

    @property
    def is_mlx(self) -> bool:
        """Whether it is tried with mlx-lm."""
        return self.target in ("mlx", "mlx-lora")


@dataclass(slots=True)
class Workshop:
    """What products of one call share: the tensors, the vocabulary, and what others are made from, at most once each.

    float_model: a GGUF file in float32. mlx_model: a folder for mlx-lm in the numbers of the run.
    measure: the importance of columns, where a product is weighed by it. examples: question and answer pairs for
    MESSAGE lines. server: address of the llama-server to try files with; None for llama.cpp in this process.
    """

    trained: Trained
    scratch: Path
    on_progress: Progress
    measure: Callable[[], Importance]
    examples: Sequence[tuple[str, str]] = ()
    server: str | None = None
    float_model: Path | None = None
    mlx_model: Path | None = None
    _importance: Importance | None = field(default=None, init=False)
    _tensors: TrainedTensors | None = field(default=None, init=False)

    @property
    def tensors(self) -> TrainedTensors:
        if self._tensors is None:
            self._tensors = open_trained(self.trained.folder)
        return self._tensors

    @property
    def vocabulary(self) -> Vocabulary:
        size = self.trained.config.vocab_size
        return read_vocabulary(self.trained.tokenizer, self.trained.template, size=size)

    @property
    def frame(self) -> Frame:
        return trained_frame(self.trained)

    def write_gguf(self, path: Path, file_type: str, tensors: TrainedTensors) -> None:
        write_model(
            path,
            tensors,
            self.vocabulary,
            self.trained.facts,
            file_type=file_type,
            on_progress=lambda done, total: self.on_progress(f"writing {path.name}", done, total),
        )

    def write_importance(self, path: Path) -> None:
        if self._importance is None:
            self._importance = self.measure()
        self._importance.write(path, origin=f"training rows of {self.trained.facts.name}")

    def float_base(self) -> Path:
        """The untuned base as a float32 GGUF file: what an adapter is tried beside."""
        path = self.scratch / "base-f32.gguf"
        self.write_gguf(path, "f32", open_trained(self.trained.folder, adapter=False))
        return path

    def mlx_base(self, product: Path) -> Path:
        """The base as mlx-lm finds it beside an exported adapter, whose tokenizer files, if any, lie over its own."""
        base = base_folder(self.trained.folder)
        if not (product / "tokenizer_config.json").exists():
            return base
        folder = self.scratch / "mlx-base"
        folder.mkdir(exist_ok=True)
        files = {file.name: file for file in base.iterdir() if file.is_file()}
        files |= {file.name: file for file in product.iterdir() if file.name not in _OF_AN_ADAPTER}
        for name, file in files.items():
            (folder / name).symlink_to(file.absolute())
        return folder


@contextlib.contextmanager
def open_workshop(
    trained: Trained,
    out: Path,
    on_progress: Progress,
    *,
    measure: Callable[[], Importance],
    examples: Sequence[tuple[str, str]] = (),
    server: str | None = None,
) -> Iterator[Workshop]:
    """A workshop with a scratch folder in `out`, which goes when the block ends. The arguments are its fields."""
    scratch = out / f".tmp-export.{secrets.token_hex(4)}"
    with disk_errors(out):
        scratch.mkdir(parents=True)
    try:
        yield Workshop(trained, scratch, on_progress, measure, examples, server)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def trained_frame(trained: Trained) -> Frame:
    """How Ollama writes a run's prompts.

    Raises:
        SettingsError: Go cannot say it.
    """
    vocabulary = read_vocabulary(trained.tokenizer, trained.template, size=trained.config.vocab_size)
    return find_frame(trained.template, trained.tokenizer, add_bos=vocabulary.add_bos)
