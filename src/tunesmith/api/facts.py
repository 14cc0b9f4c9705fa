"""What a model card says of a run, gathered from its manifest, settings, metrics and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer

from tunesmith.config import METHODS, RunConfig, quantize_of
from tunesmith.export import CardFacts, License, base_kind, read_license
from tunesmith.model import find_source
from tunesmith.prompts import check_template
from tunesmith.runs import Run, read_json


def card_facts(run: Run, config: RunConfig) -> CardFacts:
    """Everything the card needs, from the run directory alone: the same run always gives the same card."""
    manifest = run.manifest
    training: dict[str, Any] = manifest["training"]
    data: dict[str, Any] = manifest["data"]
    scores = read_json(run.eval_dir / "summary.json")
    template = check_template("chat", AutoTokenizer.from_pretrained(run.model_dir))
    kind = base_kind(config.model.path)
    return CardFacts(
        name=run.name,
        base=config.model.path,
        base_kind=kind,
        base_revision=manifest["model"]["revision"],
        method=config.method.name,
        method_settings=_method_settings(config),
        steps=training["step"],
        epochs=manifest["epochs"],
        seed=config.seed,
        learning_rate=config.train.learning_rate,
        best_validation_loss=training["best_loss"],
        data_files=tuple((Path(file["path"]).name, file["sha256"]) for file in data["files"]),
        rows=data["split"],
        template=config.prompt.template,
        stop_ids=template.stop_ids,
        system=config.prompt.system,
        conversational=data["shape"] != "text",
        labels=tuple(data.get("labels", {})),
        base_metrics=scores.get("base", {}),
        tuned_metrics=scores.get("tuned", {}),
        test_rows=scores.get("rows", 0),
        license=_license(kind, config.model.path, manifest["model"]["revision"]),
        training_seconds=training["seconds"],
        version=manifest["versions"]["tunesmith"],
    )


def _method_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that shaped the adapter, those that the method reads."""
    method = METHODS[config.method.name]
    if not method.is_adapter:
        return {}
    settings = {
        **config.method.model_dump(include=set(method.reads)),
        "quantize": quantize_of("auto", config.model.quantize),
    }
    return {name: value for name, value in settings.items() if value not in (None, "none")}


def _license(kind: str, path: str, revision: str) -> License | None:
    """The base model's licence, from its own README: beside a local model, in the cache for one from the hub."""
    if kind != "hub":
        folder = find_source(path).folder
        return read_license(folder) if folder is not None else None
    readme = try_to_load_from_cache(path, "README.md", revision=revision)
    return read_license(Path(readme).parent, hub_id=path) if isinstance(readme, str) else None
