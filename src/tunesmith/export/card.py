"""The model card: README.md of a model folder, Hugging Face metadata on top, plain facts below.

A function of `CardFacts` alone: no clock, no machine paths, so the same facts give the same bytes. Nothing is invented:
what is not known (licence, language, measurements) is left out of the metadata, and the text says so where it matters.
Knows nothing of how models are trained or measured.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.config import METHODS
from tunesmith.export.card_facts import FORMS, CardFacts, base_name, file_name, file_names, in_cell, in_code
from tunesmith.export.card_usage import usage
from tunesmith.runs import atomic_write

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

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
# form -> what its files are
_WHAT = {
    "gguf": "For llama.cpp and what is built on it: {file} holds weights, vocabulary and template. Numbers: {numbers}.",
    "ollama": "For Ollama: {file} holds the weights, `Modelfile` the prompt template and the stop tokens. "
    "Numbers: {numbers}.",
    "gguf-lora": "For llama.cpp: {file} is used beside a GGUF file of the base.",
    "mlx": "For mlx-lm: whole weights in its layout, tokenizer and template. Numbers: {numbers}.",
    "mlx-lora": "For mlx-lm: the adapter in its layout, used beside the base.",
}
_AS_TRAINED = (None, "f32", "f16", "bf16")
_FEW_ROWS = 100  # below, one answer moves a share by more than a point


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
        "## How to use it\n\n" + usage(facts),
        "## Limits\n\n" + _limits(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    is_adapter = facts.is_adapter
    relation = "adapter" if is_adapter else "finetune"
    on_hub = facts.base_kind == "hub"
    form = FORMS[facts.form]
    method = facts.method if METHODS[facts.method].is_adapter else "full-fine-tuning"
    # what was measured is the trained model; fewer bits are another one
    results = _results(facts) if facts.file_type in _AS_TRAINED else []
    data = ModelCardData(
        base_model=facts.base if on_hub else None,
        base_model_relation=relation if on_hub else None,
        language=facts.language,
        library_name="peft" if is_adapter and facts.form == "run" else form.library,
        license_name=facts.license.name if facts.license else None,
        license_link=facts.license.link if facts.license else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(["tunesmith", method, *form.tags])),
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
            dataset_name=f"held-out rows of {file_names(facts)}",
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
    text = f"{kind} {base_name(facts)}, made with Tunesmith {facts.version} from {in_code(file_names(facts))}."
    if method.is_adapter and not facts.is_adapter:
        text += f" The {method.title} adapter is added to the weights: nothing else is needed."
    if facts.is_adapter:
        text += " It holds only what changed: the base model is needed beside it."
    if facts.form in _WHAT:
        text += f"\n\n{_WHAT[facts.form].format(file=in_code(facts.file or ''), numbers=_numbers(facts))}"
    if facts.labels:
        text += f"\n\nIt classifies a text with one of {len(facts.labels)} labels: {_label_names(facts.labels)}."
    return text


def _numbers(facts: CardFacts) -> str:
    return "those of the run" if facts.file_type is None else in_code(facts.file_type)


def _label_names(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _LABELS_NAMED} more" if len(labels) > _LABELS_NAMED else ""
    return ", ".join(in_code(label) for label in labels[:_LABELS_NAMED]) + more


def _article(title: str) -> str:
    return f"{'An' if title[0] in 'AEIOU' else 'A'} {title}"


def _making(facts: CardFacts) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in facts.method_settings.items())
    method = METHODS[facts.method].title
    rows = ", ".join(f"{count} {split}" for split, count in facts.rows.items())
    loss = facts.best_validation_loss
    lines: list[tuple[str, str | None]] = [
        ("Base model", base_name(facts)),
        ("Base revision", in_code(facts.base_revision) if facts.base_revision else None),
        ("Method", f"{method} ({in_cell(settings)})" if settings else method),
        ("Steps", f"{facts.steps} ({facts.epochs:g} epochs)"),
        ("Learning rate", f"{facts.learning_rate:g}" if facts.learning_rate is not None else None),
        ("Seed", str(facts.seed)),
        ("Rows", rows),
        *((f"Data {in_code(file_name(name))}", f"SHA-256 `{sha256}`") for name, sha256 in facts.data_files),
        ("Best validation loss", None if loss is None else f"{loss:.4f} nats per token"),
        ("Prompt template", in_code(facts.template)),
        ("Hardware", in_cell(facts.hardware) if facts.hardware else None),
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
    if facts.form != "run":
        text += " Measured with the trained model in Python; `verification.json` has how near these files come to it."
    text += "\n\n"
    return text + _table(["Metric", "Base", "Tuned", "Change"], table)


def _limits(facts: CardFacts) -> str:
    points = ["It can be wrong and sound sure of it. What its base model gets wrong, it may get wrong too."]
    if facts.tuned_metrics:
        points.append("The numbers above hold for questions like those in its data; other questions were not measured.")
        if facts.test_rows < _FEW_ROWS:
            points.append(f"{facts.test_rows} test rows are few: small differences may be chance.")
    if facts.license:
        points.append(f"Licence: {in_cell(', '.join(facts.license.identifiers))}, inherited from the base model.")
    else:
        points.append("Licence: unknown: check the base model before passing this on.")
    return "\n".join(f"- {point}" for point in points)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
