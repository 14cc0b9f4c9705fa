"""What a model card says, as data: the facts of a run, and the forms that its model can be written in.

Knows nothing of how models are trained or measured, and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from tunesmith.config import METHODS

BaseKind = Literal["hub", "local", "builtin"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a model.

    library: what the Hub calls the program that loads it; None where it has no such name. tags: for the Hub.
    can_be_adapter: of a method that has one, it is the adapter alone.
    """

    library: str | None
    tags: tuple[str, ...] = ()
    can_be_adapter: bool = False


# Of the run itself: peft or transformers, by its method.
FORMS: Mapping[str, Form] = {
    "run": Form(library="transformers", can_be_adapter=True),
    "merged": Form(library="transformers"),
    "gguf": Form(library=None, tags=("gguf", "llama.cpp")),
    "ollama": Form(library=None, tags=("gguf", "llama.cpp", "ollama")),
    "gguf-lora": Form(library=None, tags=("gguf", "llama.cpp", "lora"), can_be_adapter=True),
    "mlx": Form(library="mlx", tags=("mlx",)),
    "mlx-lora": Form(library="mlx", tags=("mlx",), can_be_adapter=True),
}


@dataclass(frozen=True, slots=True)
class License:
    """A licence as the Hub writes it: its identifiers, and for "other" a name and a link."""

    identifiers: tuple[str, ...]
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Everything a card says.

    base: as configured: hub id, local folder (only its name is printed) or builtin:<name>.
    base_revision: its commit on the Hub, or "sha256:..." of its files.
    method: a name of config.METHODS. method_settings: what distinguishes the method, such as {"r": 16, "alpha": 32}.
    epochs: passes made; best_validation_loss: nats per token, of the weights that were saved when keep_best is on.
    data_files: (file name, SHA-256); rows: split name -> count.
    stop_ids: tokens that end an answer; system: the system prompt of the training conversations.
    conversational: False when plain text was trained on. labels: what it chooses from when it classifies.
    base_metrics, tuned_metrics: perplexity, and scores from 0 to 1; empty when not measured, None for a number that
        summary.json could not hold. test_rows: measured rows.
    form: what the files are: a name of FORMS. file: the main one of them, where it has a name of its own; file_type:
        how it stores numbers, None for those of the run. own_tokenizer: tokenizer files, for llama.cpp the
        template, lie beside an adapter whose program would take the base's.
    """

    name: str
    base: str
    base_kind: BaseKind
    base_revision: str | None = None
    method: str
    method_settings: Mapping[str, object] = field(default_factory=dict)
    steps: int
    epochs: float
    seed: int
    learning_rate: float | None = None
    best_validation_loss: float | None = None
    data_files: tuple[tuple[str, str], ...]
    rows: Mapping[str, int]
    template: str
    stop_ids: tuple[int, ...]
    system: str | None = None
    conversational: bool = True
    labels: tuple[str, ...] = ()
    base_metrics: Mapping[str, float | None] = field(default_factory=dict)
    tuned_metrics: Mapping[str, float | None] = field(default_factory=dict)
    test_rows: int = 0
    license: License | None = None
    language: str | None = None
    hardware: str | None = None
    training_seconds: float | None = None
    form: str = "run"
    file: str | None = None
    file_type: str | None = None
    own_tokenizer: bool = False
    version: str

    @property
    def is_adapter(self) -> bool:
        """Whether the files need the base beside them."""
        return METHODS[self.method].is_adapter and FORMS[self.form].can_be_adapter


def base_kind(path: str) -> BaseKind:
    """Where a configured base model is: shipped with the package, a folder on this machine, or the Hub."""
    if path.startswith("builtin:"):
        return "builtin"
    return "hub" if _HUB_ID.fullmatch(path) and not Path(path).exists() else "local"


def read_license(base_folder: str | Path, *, hub_id: str | None = None) -> License | None:
    """The licence that the base model's own README.md declares; None when it has none or cannot be read.

    Args:
        base_folder: the folder of the base model.
        hub_id: its id on the Hub, which makes a link to a file of that repository absolute.
    """
    from huggingface_hub import metadata_load

    try:
        declared = metadata_load(Path(base_folder) / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = declared.get("license")
    found = found if isinstance(found, list) else [found]
    identifiers = tuple(text for text in found if isinstance(text, str) and text.strip() not in {"", "unknown"})
    if not identifiers:
        return None
    name, link = declared.get("license_name"), declared.get("license_link")
    if isinstance(link, str) and not link.startswith(("http://", "https://")):
        link = f"https://huggingface.co/{hub_id}/blob/main/{link}" if hub_id else None
    return License(identifiers, name if isinstance(name, str) else None, link if isinstance(link, str) else None)


def base_name(facts: CardFacts) -> str:
    if facts.base_kind == "builtin":
        return f"Tunesmith's built-in model {in_code(facts.base.removeprefix('builtin:'))}"
    if facts.base_kind == "local":
        return f"the model in the local folder {in_code(file_name(facts.base))}"
    return f"[{facts.base}](https://huggingface.co/{facts.base})"


def public_base(facts: CardFacts) -> str:
    """The base as others may read it: of a local folder the last part of its path."""
    return file_name(facts.base) if facts.base_kind == "local" else facts.base


def file_names(facts: CardFacts) -> str:
    return ", ".join(file_name(name) for name, _ in facts.data_files)


def file_name(path: str) -> str:
    """Last part of a path of any system: a card tells no one where its author keeps files."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def in_code(text: str) -> str:
    """A code span that survives any content: in a table, with backticks, over line breaks."""
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if "`" in text else ""
    return f"{ticks}{padding}{in_cell(text)}{padding}{ticks}"
