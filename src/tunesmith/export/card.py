"""The model card: README.md of a model folder, Hugging Face metadata on top, plain facts below.

A function of `CardFacts` alone: no clock, no machine paths, so the same facts give the same bytes. Nothing is invented:
what is not known (licence, language, measurements) is left out of the metadata, and the text says so where it matters.
Knows nothing of how models are trained or measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from tunesmith.config import METHODS
from tunesmith.runs import atomic_write

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

BaseKind = Literal["hub", "local", "builtin"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# metric -> (its id on the Hub, title, digits shown)
_METRICS = {
    "perplexity": ("perplexity", "Perplexity (lower is better)", 2),
    "exact_match": ("exact_match", "Exact match", 3),
    "token_f1": ("f1", "Token F1", 3),
    "bleu": ("bleu", "BLEU", 3),
    "chrf": ("chrf", "chrF", 3),
    "rouge1": ("rouge", "ROUGE-1", 3),
    "rouge2": ("rouge", "ROUGE-2", 3),
    "rougeL": ("rouge", "ROUGE-L", 3),
    "accuracy": ("accuracy", "Accuracy", 3),
    "macro_f1": ("f1", "Macro F1", 3),
    "log_loss": ("log_loss", "Log loss (lower is better)", 3),
    "calibration_error": ("calibration_error", "Calibration error (lower is better)", 3),
    "bits_per_byte": ("bits_per_byte", "Bits per byte (lower is better)", 3),
    "micro_f1": ("f1", "Micro F1", 3),
    "semantic_similarity": ("semantic_similarity", "Semantic similarity (cosine)", 3),
    "ended": ("ended", "Ended by itself", 3),
    "repetition": ("repetition", "Repetition (lower is better)", 3),
    "words": ("words", "Words of an answer", 1),
    "length_ratio": ("length_ratio", "Words over words of the reference", 2),
    "contains": ("contains", "Contains what it should", 3),
    "equals": ("equals", "Equals what it should", 3),
    "regex": ("regex", "Fits the pattern", 3),
    "number": ("number", "Ends with the number", 3),
    "json_schema": ("json_schema", "Valid by the JSON schema", 3),
    "judge_score": ("judge_score", "Judge, 1 to 10", 2),
    "judge_pass": ("judge_pass", "Passed by the judge", 3),
    "judge_preference": ("judge_preference", "Preferred by the judge", 3),
}
_LABELS_NAMED = 200
_FEW_ROWS = 100  # below, one answer moves a share by more than a point


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
    merged: the adapter was added to the weights of the base.
    epochs: passes made; best_validation_loss: nats per token, of the weights that were saved when keep_best is on.
    data_files: (file name, SHA-256); rows: split name -> count.
    stop_ids: tokens that end an answer; system: the system prompt of the training conversations.
    conversational: False when plain text was trained on. labels: what it chooses from when it classifies.
    base_metrics, tuned_metrics: perplexity, and scores from 0 to 1; empty when not measured, None for a number that
        summary.json could not hold. test_rows: measured rows.
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
    merged: bool = False
    version: str

    @property
    def is_adapter(self) -> bool:
        """Whether the files need the base beside them."""
        return METHODS[self.method].is_adapter and not self.merged

    def as_merged(self) -> CardFacts:
        """The same model as whole weights."""
        return replace(self, merged=True)


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


def write_card(folder: str | Path, facts: CardFacts) -> Path:
    """Write README.md into a model folder, over the generic one that PEFT leaves there.

    Raises:
        ResourceError: the disk refuses.
    """
    path = Path(folder) / "README.md"
    atomic_write(path, card_text(facts))
    return path


def card_text(facts: CardFacts) -> str:
    """The whole README.md. Metadata as in https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
    sections = [
        f"---\n{_metadata(facts)}\n---\n\n# {facts.name}",
        _introduction(facts),
        "## How it was made\n\n" + _making(facts),
        "## How good it is\n\n" + _measurements(facts),
        "## How to use it\n\n" + _usage(facts),
        "## Limits\n\n" + _limits(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    is_adapter = facts.is_adapter
    relation = "adapter" if is_adapter else "finetune"
    on_hub = facts.base_kind == "hub"
    results = _results(facts)
    data = ModelCardData(
        base_model=facts.base if on_hub else None,
        base_model_relation=relation if on_hub else None,
        language=facts.language,
        library_name="peft" if is_adapter else "transformers",
        license_name=facts.license.name if facts.license else None,
        license_link=facts.license.link if facts.license else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        pipeline_tag="text-generation",
        tags=["tunesmith", facts.method if METHODS[facts.method].is_adapter else "full-fine-tuning"],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    if facts.license:  # the Hub takes several; the class is typed for one
        identifiers = facts.license.identifiers
        data["license"] = identifiers[0] if len(identifiers) == 1 else list(identifiers)
    return str(data.to_yaml(line_break="\n"))


def _results(facts: CardFacts) -> list[EvalResult]:
    """What the Hub shows beside a model. The data are private, so the data set's type says so instead of naming one."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type="private",
            dataset_name=f"held-out rows of {_file_names(facts)}",
            dataset_split="test",
            metric_type=_METRICS[metric][0],
            metric_name=_METRICS[metric][1],
            metric_value=round(value, 4),
        )
        for metric, value in facts.tuned_metrics.items()
        if value is not None and math.isfinite(value)
    ]


def _introduction(facts: CardFacts) -> str:
    method = METHODS[facts.method]
    kind = f"{_article(method.title)} adapter for" if facts.is_adapter else "A fine-tuned version of"
    text = f"{kind} {_base_name(facts)}, made with Tunesmith {facts.version} from {_code(_file_names(facts))}."
    if facts.merged and method.is_adapter:
        text += f" The {method.title} adapter is added to the weights: nothing else is needed."
    if facts.is_adapter:
        text += " It holds only what changed: the base model is needed beside it."
    if facts.labels:
        text += f"\n\nIt classifies a text with one of {len(facts.labels)} labels: {_label_names(facts.labels)}."
    return text


def _label_names(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _LABELS_NAMED} more" if len(labels) > _LABELS_NAMED else ""
    return ", ".join(_code(label) for label in labels[:_LABELS_NAMED]) + more


def _article(title: str) -> str:
    return f"{'An' if title[0] in 'AEIOU' else 'A'} {title}"


def _making(facts: CardFacts) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in facts.method_settings.items())
    method = METHODS[facts.method].title
    rows = ", ".join(f"{count} {split}" for split, count in facts.rows.items())
    loss = facts.best_validation_loss
    lines: list[tuple[str, str | None]] = [
        ("Base model", _base_name(facts)),
        ("Base revision", _code(facts.base_revision) if facts.base_revision else None),
        ("Method", f"{method} ({_cell(settings)})" if settings else method),
        ("Steps", f"{facts.steps} ({facts.epochs:g} epochs)"),
        ("Learning rate", f"{facts.learning_rate:g}" if facts.learning_rate is not None else None),
        ("Seed", str(facts.seed)),
        ("Rows", rows),
        *((f"Data {_code(_file_name(name))}", f"SHA-256 `{sha256}`") for name, sha256 in facts.data_files),
        ("Best validation loss", None if loss is None else f"{loss:.4f} nats per token"),
        ("Prompt template", _code(facts.template)),
        ("Hardware", _cell(facts.hardware) if facts.hardware else None),
        ("Training time", f"{facts.training_seconds:.0f} seconds" if facts.training_seconds is not None else None),
    ]
    return _table(["", ""], [[label, value] for label, value in lines if value is not None])


def _measurements(facts: CardFacts) -> str:
    if not facts.tuned_metrics:
        return "Not measured. `tunesmith eval` measures it against its base on rows it was not trained on."
    table = []
    for metric, tuned in facts.tuned_metrics.items():
        _, title, digits = _METRICS[metric]
        base = facts.base_metrics.get(metric)
        change = "" if base is None or tuned is None else f"{tuned - base:+.{digits}f}"
        table.append([title, *("" if value is None else f"{value:.{digits}f}" for value in (base, tuned)), change])
    text = f"On {facts.test_rows} rows that were never trained on; shares run from 0 to 1, perplexity from 1 up."
    if facts.labels:
        text += " Both models chose the likeliest of the labels."
    text += "\n\n"
    return text + _table(["Metric", "Base", "Tuned", "Change"], table)


def _usage(facts: CardFacts) -> str:
    ask = 'tunesmith ask . "Your question"' if facts.conversational else 'tunesmith ask . "Beginning of a text"'
    return (
        f"In the folder of this file:\n\n```bash\n{ask}\ntunesmith chat .\n```\n\n"
        f"Without Tunesmith, the template comes with the tokenizer:\n\n```python\n{_snippet(facts)}\n```"
    )


def _snippet(facts: CardFacts) -> str:
    loading, imports = _loading(facts)
    if facts.conversational:
        system = [f'    {{"role": "system", "content": {facts.system!r}}},'] if facts.system else []
        asking = [
            "messages = [",
            *system,
            '    {"role": "user", "content": "Your question"},',
            "]",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        asking = ['inputs = tokenizer("Beginning of a text", return_tensors="pt")']
    lines = [
        *imports,
        "",
        'folder = "."  # the folder of this file',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *loading,
        *asking,
        "output = model.generate(",
        "    **inputs, max_new_tokens=128, do_sample=False,",
        f"    eos_token_id={list(facts.stop_ids)}, pad_token_id=tokenizer.pad_token_id,",
        ")",
        'answer = output[0, inputs["input_ids"].shape[1]:]',
        "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
    ]
    return "\n".join(lines)


def _loading(facts: CardFacts) -> tuple[list[str], list[str]]:
    """Lines that load the model, and the imports they need."""
    transformers = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if not facts.is_adapter:
        return ["model = AutoModelForCausalLM.from_pretrained(folder)"], [transformers]
    apply = [
        "model = AutoModelForCausalLM.from_pretrained(base)",
        "model = PeftModel.from_pretrained(model, folder)",
    ]
    if facts.base_kind == "builtin":
        name = facts.base.removeprefix("builtin:")
        where = f'base = files("tunesmith") / "model" / "builtin" / {name!r}'
        imports = ["from importlib.resources import files", "", "from peft import PeftModel", transformers]
        return [where, *apply], imports
    if facts.base_kind == "local":
        where = "base = PeftConfig.from_pretrained(folder).base_model_name_or_path  # where the base model was"
        return [where, *apply], ["from peft import PeftConfig, PeftModel", transformers]
    if facts.base_revision and not facts.base_revision.startswith("sha256"):  # only the Hub's own revisions
        apply[0] = f"model = AutoModelForCausalLM.from_pretrained(base, revision={facts.base_revision!r})"
    return [f"base = {facts.base!r}", *apply], ["from peft import PeftModel", transformers]


def _limits(facts: CardFacts) -> str:
    points = ["It can be wrong and sound sure of it. What its base model gets wrong, it may get wrong too."]
    if facts.tuned_metrics:
        points.append("The numbers above hold for questions like those in its data; other questions were not measured.")
        if facts.test_rows < _FEW_ROWS:
            points.append(f"{facts.test_rows} test rows are few: small differences may be chance.")
    if facts.license:
        points.append(f"Licence: {_cell(', '.join(facts.license.identifiers))}, inherited from the base model.")
    else:
        points.append("Licence: unknown: check the base model before passing this on.")
    return "\n".join(f"- {point}" for point in points)


def _base_name(facts: CardFacts) -> str:
    if facts.base_kind == "builtin":
        return f"Tunesmith's built-in model {_code(facts.base.removeprefix('builtin:'))}"
    if facts.base_kind == "local":
        return f"the model in the local folder {_code(_file_name(facts.base))}"
    return f"[{facts.base}](https://huggingface.co/{facts.base})"


def _file_names(facts: CardFacts) -> str:
    return ", ".join(_file_name(name) for name, _ in facts.data_files)


def _file_name(path: str) -> str:
    """Last part of a path of any system: a card tells no one where its author keeps files."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """A code span that survives any content: in a table, with backticks, over line breaks."""
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if "`" in text else ""
    return f"{ticks}{padding}{_cell(text)}{padding}{ticks}"
