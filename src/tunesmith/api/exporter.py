"""A run to other formats, each tried against the trained model. Where export, generation and data meet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tunesmith.api.facts import card_facts
from tunesmith.api.verifiers import verify_all
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export import (
    MARK,
    Ollama,
    Product,
    Trained,
    Verdict,
    check_wishes,
    make,
    make_modelfile,
    open_workshop,
    plan,
)
from tunesmith.model import count_parameters, load_skeleton
from tunesmith.prompts import check_template
from tunesmith.runs import Run, atomic_write

Progress = Callable[[str, int, int], None]
PROMPTS = 200
# What a smaller file may lose and still be recommended: token F1, and the factor of perplexity on held-out rows.
LOST_F1, GROWN_PERPLEXITY = 0.03, 1.05


@dataclass(frozen=True, slots=True)
class Exported:
    """One product: where it is, how large, and what was found out about it."""

    product: Product
    path: Path
    size_bytes: int
    verdict: Verdict

    def to_json(self) -> dict[str, object]:
        return {
            "schema_version": 1,
            "target": self.product.target,
            "file_type": self.product.file_type,
            "path": self.path.name,
            "bytes": self.size_bytes,
            **self.verdict.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Export:
    """What `export` made. `failed`: products that are not the trained model. `created`: models that Ollama made."""

    run: Run
    out: Path
    products: tuple[Exported, ...]
    created: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Exported, ...]:
        return tuple(one for one in self.products if one.verdict.status == "failed")

    @property
    def recommended(self) -> tuple[Exported, ...]:
        """Of each target the smallest verified type that loses at most 0.03 of token F1 and 5 % of perplexity.

        None of a target of which fewer than two types were verified. A number that was not measured, for want of
        held-out rows, does not count as lost.
        """
        sizes = [one for one in self.products if one.product.file_type is not None and one.verdict.status == "verified"]
        best = []
        for target in dict.fromkeys(one.product.target for one in sizes):
            mine = [one for one in sizes if one.product.target == target]
            kept = [one for one in mine if _keeps_quality(one.verdict.numbers)]
            if len(mine) > 1 and kept:
                best.append(min(kept, key=lambda one: one.size_bytes))
        return tuple(best)

    def to_json(self) -> dict[str, object]:
        """What `tunesmith export --json` prints."""
        return {
            "schema_version": 1,
            "run": str(self.run.path),
            "out": str(self.out),
            "created": list(self.created),
            "products": [{**one.to_json(), "path": str(one.path)} for one in self.products],
        }


def export(
    reference: str,
    *,
    to: Sequence[str],
    quantize: Sequence[str] = (),
    out: str | Path | None = None,
    prompts: int = PROMPTS,
    create: str | None = None,
    host: str | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Export:
    """Write a run in other formats and try each against the trained model.

    Args:
        reference: a run's name or folder.
        to: names of TARGETS. quantize: how their numbers are stored, where that can be chosen; each target takes the
            types that it has. Without any: q8_0 of GGUF files, those of the run for mlx.
        out: folder of the exports; without it, exports/ of the run. Each product has a folder there.
        prompts: of the run's own data, to try each product with; 0 tries nothing and leaves them unverified.
        create: name of the model that Ollama makes of the ollama export, NAME:TYPE where there are several; one that
            is not the trained model is not sent. host: URL of that Ollama; without it OLLAMA_HOST, else this machine.

    Returns:
        Every product with its verdict; one that failed stays where it is, marked in its verification.json.

    Raises:
        SettingsError: an unknown wish, or one that this run cannot fulfil; all problems together.
        ResourceError: a package, a model or room on the disk is missing.
    """
    products = check_wishes(to, quantize)
    names = _model_names(create, products)
    server = Ollama(host) if names else None
    if server is not None:
        server.version()  # before hours of work, whether there is one
    run = Run.open(reference)
    if run.manifest.get("kind") == "pretrain":
        raise SettingsError(f"{run.name} was pre-trained", fix="fine-tune it first, and export that run")
    if not run.model_dir.is_dir():
        raise ResourceError(
            f"{run.name} has no finished model", fix=f"finish it with: tunesmith train --resume {run.path}"
        )
    config = load_config(stored=run.config_path)
    trained, parameters = _trained(run, config)
    folder = Path(out) if out is not None else run.exports_dir
    plan(products, trained, folder, parameters=parameters)
    with open_workshop(trained, folder, on_progress) as shop:
        made = [(product, make(product, shop, folder)) for product in products]
        verdicts = verify_all(made, shop, run, prompts=prompts, on_progress=on_progress)
    found = []
    for (product, path), verdict in zip(made, verdicts, strict=True):
        one = Exported(product, path, _size(path), verdict)
        atomic_write(folder / product.name / MARK, json.dumps(one.to_json(), indent=2, ensure_ascii=False) + "\n")
        found.append(one)
    made_of = [(name, one) for one in found if (name := names.get(one.product)) and one.verdict.status != "failed"]
    if server is not None:
        modelfile = make_modelfile(trained)
        for name, one in made_of:
            server.create(name, one.path, modelfile, on_progress=on_progress)
    return Export(run, folder, tuple(found), tuple(name for name, _ in made_of))


def _model_names(create: str | None, products: Sequence[Product]) -> dict[Product, str]:
    """What Ollama calls each product, none for no wish.

    Raises:
        SettingsError: nothing to make it of, or one tag for several types.
    """
    mine = [product for product in products if product.target == "ollama"]
    if create is None:
        return {}
    if not mine:
        raise SettingsError("--create needs an export for Ollama", fix=f"--to ollama --create {create}")
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*(:[\w.-]+)?", create):
        raise SettingsError(f"{create!r} is no name of a model in Ollama", fix="letters, digits, . _ - / and one :tag")
    if len(mine) == 1:
        return {mine[0]: create}
    if ":" in create:
        name = create.partition(":")[0]
        raise SettingsError(
            f"--create {create} names one model, and there are {len(mine)} types",
            fix=f"--create {name}, which makes {', '.join(f'{name}:{product.file_type}' for product in mine)}",
        )
    return {product: f"{create}:{product.file_type}" for product in mine}


def _trained(run: Run, config: RunConfig) -> tuple[Trained, int]:
    """What the exports need of a run, and its number of parameters; no weights are read."""
    skeleton = load_skeleton(
        config.model.path if (run.model_dir / "adapter_config.json").exists() else str(run.model_dir),
        config.model.revision,
    )
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    trained = Trained(
        folder=run.model_dir,
        facts=card_facts(run, config),
        config=skeleton.config,
        dtype=torch.float32 if config.model.dtype == "auto" else getattr(torch, config.model.dtype),
        tokenizer=tokenizer,
        template=check_template("chat", tokenizer),
        modules_to_save=config.method.modules_to_save != "none",
        generate=config.generate,
        max_length=config.data.max_length,
    )
    return trained, count_parameters(skeleton)[1]


def _keeps_quality(numbers: Mapping[str, float]) -> bool:
    lost = numbers.get("reference_token_f1", 0.0) - numbers.get("token_f1", 0.0)
    grown = numbers.get("perplexity", 1.0) / numbers.get("reference_perplexity", 1.0)
    return lost <= LOST_F1 and grown <= GROWN_PERPLEXITY


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != MARK)
