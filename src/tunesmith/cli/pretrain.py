"""`tunesmith pretrain`: a tokenizer and a model from scratch, or a base trained further on texts."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import NO_PLACE, NO_SOURCES, Json, Overrides, Place, Sources, given
from tunesmith.errors import SettingsError

if TYPE_CHECKING:
    from tunesmith.runs import Run

_SETTINGS_FILES = (".yaml", ".yml", ".json")


def pretrain(
    *files: Annotated[str, Parameter(help="Texts (txt, or jsonl with a text field), or one YAML file of settings.")],
    sources: Sources = NO_SOURCES,
    place: Place = NO_PLACE,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Train a small model from scratch on texts of your own, or a base further.

    Makes a vocabulary and a model, or takes those of --pretrain.base, trains
    every weight and measures in bits per byte on texts that it has never seen.
    The result is a base model for tunesmith train. Any setting is a flag.

        tunesmith pretrain books/*.txt --pretrain.layers 4 --epochs 2
        tunesmith pretrain books/*.txt --pretrain.base org/name
        tunesmith pretrain my-settings.yaml
        tunesmith pretrain --resume books
    """
    from tunesmith.cli.report import announce_texts, is_complete, run_to_resume
    from tunesmith.cli.terminal import tell
    from tunesmith.config import load_config

    settings_files = [file for file in files if Path(file).suffix.lower() in _SETTINGS_FILES]
    texts = [file for file in files if file not in settings_files]
    given_files = [*settings_files, *([sources.config] if sources.config else [])]
    if len(given_files) > 1:
        raise SettingsError(f"several files of settings are given: {', '.join(given_files)}", fix="give one of them")
    documents = jsonlib.dumps(texts) if texts else None
    own = given(
        overrides, pretrain__documents=documents, seed=sources.seed, name=place.name, output_dir=place.output_dir
    )
    from tunesmith import api
    from tunesmith.cli.progress import watch_training

    if place.resume is not None:
        run = run_to_resume(place, Sources(sources.recipe, *given_files), kind="pretrain")
        if is_complete(run):
            _report(run, as_json=json)
            return
        config = load_config(stored=run.config_path, overrides=own)
    else:
        config = load_config(recipe=sources.recipe, file=next(iter(given_files), None), overrides=own)
        api.check_texts(config)  # before torch is imported, which takes seconds
    tell("reading the texts ..." if config.pretrain.base else "reading the texts and making the vocabulary ...")
    with watch_training() as watch:
        result = api.pretrain(
            config, resume=place.resume, announce=announce_texts, observers=[watch], allow_drift=place.allow_drift
        )
    _report(result.run, as_json=json)


def _report(run: Run, *, as_json: bool) -> None:
    from tunesmith.cli.report import files
    from tunesmith.cli.terminal import commands, seconds_text, shell, show, show_json

    training = run.manifest["training"]
    bits, held_out = run.manifest["bits_per_byte"], run.manifest["held_out_bytes"]
    before = run.manifest.get("base_bits_per_byte")
    if as_json:
        show_json(
            {
                "schema_version": 1,
                "run": str(run.path),
                "steps": training["step"],
                "tokens": training["tokens"],
                "bits_per_byte": bits,
                "base_bits_per_byte": before,
                "held_out_bytes": held_out,
                "seconds": round(training["seconds"], 3),
            }
        )
        return
    show(f"{run.name}: {training['step']} steps in {seconds_text(training['seconds'])}")
    was = f", {before:.4f} before" if before is not None else ""
    show(f"{bits:.4f} bits per byte on {held_out} bytes of text that it has never seen{was}")
    if before is not None and bits >= before:
        show("it has not become better: more text, more passes (--epochs) or a lower --train.learning_rate may help")
    show("", files(run), "")
    model = run.model_dir
    show(commands([(shell("tunesmith", "train", "data.xlsx", "--model", model), "tune it on examples")]))
