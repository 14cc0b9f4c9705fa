"""A model folder run by mlx-lm: its tokens, its prompts, its logits, its answers. The other side of a verification.

Everything goes the way `mlx_lm.generate` goes, but that numbers are computed in float32: what is compared is what the
files hold. Also makes fewer bits of a folder, which mlx alone does. Knows files alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.export.runner import Answer, in_turn
from tunesmith.optional import need

# type -> bits for each weight, in groups of 64 with a scale and an offset: mlx-lm's own default ("affine")
BITS: Mapping[str, int] = {"8bit": 8, "6bit": 6, "4bit": 4}
GROUP = 64


def import_mlx_lm() -> ModuleType:
    """The package.

    Raises:
        ResourceError: it is not installed.
    """
    return need("mlx_lm", extra="mlx")


def bits_per_weight(file_type: str) -> float:
    """Stored for each weight, scales and offsets in 16 bits included."""
    return BITS[file_type] + 2 * 16 / GROUP


def quantise_mlx(source: Path, folder: Path, *, file_type: str) -> None:
    """Write a folder of whole weights for mlx-lm with fewer bits, by mlx-lm's own function.

    Matrices whose rows are no multiple of 64 stay as they are.

    Raises:
        ResourceError: mlx-lm is not installed.
    """
    import_mlx_lm()
    utils: Any = need("mlx_lm.utils", extra="mlx")
    with _silent():
        model, config = utils.load_model(source, lazy=True)
        model, config = utils.quantize_model(model, config, GROUP, BITS[file_type])
        utils.save_model(folder, model, donate_model=True)
        utils.save_config(config, folder / "config.json")
    for file in source.iterdir():
        if not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy2(file, folder / file.name)


class MlxModel:
    """A loaded folder.

    Args:
        folder: weights, configuration and tokenizer. adapter: folder of an adapter for it.

    Raises:
        ResourceError: mlx-lm is not installed.
        ValueError: mlx-lm cannot load it; its own words.
    """

    def __init__(self, folder: Path, *, adapter: Path | None = None) -> None:
        self._library: Any = import_mlx_lm()
        self._core: Any = need("mlx.core", extra="mlx")
        where = None if adapter is None else str(adapter)
        try:
            with _silent():
                model, tokenizer = self._library.load(str(folder), adapter_path=where)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error
        model.set_dtype(self._core.float32)
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._generated_tokens = 0
        self._seconds = 0.0

    positions: int | None = None  # one pass answers for all

    @property
    def tokens_per_second(self) -> float:
        """Of all answers so far, prompts not counted; 0 before the first."""
        return self._generated_tokens / self._seconds if self._seconds else 0.0

    @property
    def tokens(self) -> list[str]:
        """Every token as the tokenizer spells it, "" where it has none."""
        words = {token_id: token for token, token_id in self._tokenizer.get_vocab().items()}
        return [words.get(token_id, "") for token_id in range(int(self._model.args.vocab_size))]

    def setting(self, name: str) -> object:
        """What the loaded model took a setting of config.json for; None where it has no such setting."""
        return getattr(self._model.args, name, None)

    def ends(self, token_id: int) -> bool:
        """Whether mlx-lm ends an answer at this token."""
        return token_id in self._tokenizer.eos_token_ids

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt that mlx-lm writes."""
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt that a template wrote."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def logits(self, ids: Sequence[int], at: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(P, V) for the positions `at` of a sequence, or (T, V) for each."""
        found = np.array(self._model(self._core.array([list(ids)]))[0].astype(self._core.float32))
        return found if at is None else found[list(at)]

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        """Greedy answers of at most `limit` tokens."""
        return in_turn(prompts, lambda prompt: self._answer(prompt, limit), on_progress)

    def _answer(self, prompt: Sequence[int], limit: int) -> Answer:
        written: list[int] = []
        ended = False
        for response in self._library.stream_generate(self._model, self._tokenizer, list(prompt), max_tokens=limit):
            ended = response.finish_reason == "stop"
            if not ended:
                written.append(int(response.token))
        self._generated_tokens += response.generation_tokens
        self._seconds += response.generation_tokens / response.generation_tps
        return Answer(tuple(written), self._text(written).strip(), ended)

    def _text(self, ids: Sequence[int]) -> str:
        """As mlx-lm writes it piece by piece, without the special tokens that Tunesmith does not write either."""
        pieces = self._tokenizer.detokenizer
        pieces.reset()
        special = set(self._tokenizer.all_special_ids)
        for token_id in ids:
            if token_id not in special:
                pieces.add_token(token_id)
        pieces.finalize()
        return str(pieces.text).rstrip("\ufffd")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """mlx-lm prints what it does."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
