"""A GGUF file run by llama.cpp: its tokens, its prompts, its logits, its answers. The other side of a verification.

Everything goes the way a server of llama.cpp goes: prompts are rendered from the template in the file, and a text is
tokenised with the flags of the file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.export.runner import Answer, in_turn
from tunesmith.optional import need

_F32 = 0  # ggml_type of the key-value cache; the default f16 alone moves logits by 5e-3
_kept: list[Any] = []  # callbacks that llama.cpp holds


def is_installed() -> bool:
    """Whether llama-cpp-python is there; nothing is imported."""
    return importlib.util.find_spec("llama_cpp") is not None


def import_llama_cpp() -> ModuleType:
    """The package, silent.

    Raises:
        ResourceError: it is not installed.
    """
    llama_cpp = need("llama_cpp", extra="llamacpp")
    if not _kept:

        def silent(level: int, text: bytes, data: object) -> None:
            """llama.cpp writes its life to standard error."""

        _kept.append(llama_cpp.llama_log_callback(silent))
        llama_cpp.llama_log_set(_kept[0], ctypes.c_void_p(0))
    return llama_cpp


class LlamaCpp:
    """A loaded GGUF file; close it.

    Args:
        path: the file. context: longest prompt and answer together, in tokens. adapter: a GGUF LoRA adapter for it.

    Raises:
        ResourceError: llama-cpp-python is not installed.
        ValueError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, *, context: int, adapter: Path | None = None) -> None:
        self._library: Any = import_llama_cpp()
        self._model: Any = self._library.Llama(
            str(path),
            lora_path=None if adapter is None else str(adapter),
            n_ctx=context,
            n_batch=min(context, 512),
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            logits_all=True,
            verbose=False,
            type_k=_F32,
            type_v=_F32,
        )
        self._vocabulary: Any = self._library.llama_model_get_vocab(self._model.model)
        self._metadata: Mapping[str, str] = self._model.metadata
        self._generated_tokens = 0
        self._seconds = 0.0

    positions: int | None = None  # one pass answers for all

    def close(self) -> None:
        self._model.close()

    @property
    def tokens_per_second(self) -> float:
        """Of all answers so far, prompts not counted; 0 before the first."""
        return self._generated_tokens / self._seconds if self._seconds else 0.0

    @property
    def tokens(self) -> list[str]:
        """Every token as the file spells it."""
        text = self._library.llama_vocab_get_text
        return [
            text(self._vocabulary, token_id).decode("utf-8", "replace") for token_id in range(self._model.n_vocab())
        ]

    def ends(self, token_id: int) -> bool:
        """Whether llama.cpp ends an answer at this token."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token_id))

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the file's own template writes."""
        formatter: Any = need("llama_cpp.llama_chat_format", extra="llamacpp").Jinja2ChatFormatter
        template = self._metadata["tokenizer.chat_template"]
        bos, eos = (self._text_of(role) for role in ("bos", "eos"))
        return str(formatter(template, eos_token=eos, bos_token=bos)(messages=list(turns)).prompt)

    def tokenize(self, text: str) -> list[int]:
        """Token ids as llama-server makes them: BOS by the file's flag, not twice."""
        bos = self._text_of("bos")
        adds_bos = bool(self._library.llama_vocab_get_add_bos(self._vocabulary))
        if adds_bos and bos:
            text = text.removeprefix(bos)
        return list(self._model.tokenize(text.encode(), add_bos=adds_bos, special=True))

    def logits(self, ids: Sequence[int], at: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(P, V) for the positions `at` of a sequence, or (T, V) for each."""
        self._model.reset()
        self._model.eval(list(ids))
        return np.array(self._model.scores[range(len(ids)) if at is None else list(at)], dtype=np.float32)

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        """Greedy answers of at most `limit` tokens."""
        return in_turn(prompts, lambda prompt: self._answer(prompt, limit), on_progress)

    def _answer(self, prompt: Sequence[int], limit: int) -> Answer:
        model = self._model
        model.reset()
        model.eval(list(prompt))
        written: list[int] = []
        started = time.perf_counter()
        ended = False
        while len(written) < limit:
            token_id = int(model.scores[model.n_tokens - 1].argmax())
            ended = self.ends(token_id)
            if ended:
                break
            written.append(token_id)
            if len(written) < limit:
                model.eval([token_id])
        self._seconds += time.perf_counter() - started
        self._generated_tokens += len(written)
        text = model.detokenize(written, prev_tokens=list(prompt)).decode("utf-8", "replace")
        return Answer(tuple(written), text.rstrip("\ufffd").strip(), ended)

    def _text_of(self, role: str) -> str:
        token_id = getattr(self._library, f"llama_vocab_{role}")(self._vocabulary)
        return "" if token_id < 0 else str(self._library.llama_vocab_get_text(self._vocabulary, token_id).decode())
