"""A run to other formats, each tried against the trained model. Where export, generation and data meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tunesmith.api.facts import card_facts
from tunesmith.api.verifiers import verify_all
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export import MARK, Product, Trained, Verdict, check_wishes, make, open_workshop, plan
from tunesmith.model import count_parameters, load_skeleton
from tunesmith.prompts import check_template
from tunesmith.runs import Run, atomic_write

Progress = Callable[[str, int, int], None]
PROMPTS = 200


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
    """What `export` made. `failed`: products that are not the trained model."""

    run: Run
    out: Path
    products: tuple[Exported, ...]

    @property
    def failed(self) -> tuple[Exported, ...]:
        return tuple(one for one in self.products if one.verdict.status == "failed")

    def to_json(self) -> dict[str, object]:
        """What `tunesmith export --json` prints."""
        return {
            "schema_version": 1,
            "run": str(self.run.path),
            "out": str(self.out),
            "products": [{**one.to_json(), "path": str(one.path)} for one in self.products],
        }


def export(
    reference: str,
    *,
    to: Sequence[str],
    quantize: Sequence[str] = ("q8_0",),
    out: str | Path | None = None,
    prompts: int = PROMPTS,
    on_progress: Progress = lambda what, done, total: None,
) -> Export:
    """Write a run in other formats and try each against the trained model.

    Args:
        reference: a run's name or folder.
        to: names of TARGETS. quantize: names of FILE_TYPES, for gguf and ollama.
        out: folder of the exports; without it, exports/ of the run. Each product has a folder there.
        prompts: of the run's own data, to try each product with; 0 tries nothing and leaves them unverified.

    Returns:
        Every product with its verdict; one that failed stays where it is, marked in its verification.json.

    Raises:
        SettingsError: an unknown wish, or one that this run cannot fulfil; all problems together.
        ResourceError: a package, a model or room on the disk is missing.
    """
    products = check_wishes(to, quantize)
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
    return Export(run, folder, tuple(found))


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


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != MARK)
