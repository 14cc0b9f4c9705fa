"""A run to other formats, each tried against the trained model. Where export, generation and data meet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypedDict, Unpack

import torch
from transformers import AutoTokenizer

from tunesmith.api.facts import card_facts
from tunesmith.api.look import check_finished, is_pretrained
from tunesmith.api.sizes import RULE, Measured, recommend, write_report
from tunesmith.api.training_rows import TrainingRows
from tunesmith.api.verifiers import verify_all
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import SettingsError
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
    read_verdict,
)
from tunesmith.model import count_parameters, load_skeleton
from tunesmith.prompts import check_template
from tunesmith.runs import Run, atomic_write, recover
from tunesmith.types import Finding, Progress

OnStage = Callable[[str, Product, bool], None]


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
            "weighed": self.product.weighed,
            "path": self.path.name,
            "bytes": self.size_bytes,
            **self.verdict.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Export:
    """What `export` made.

    failed: products that are not the trained model. created: models that Ollama made. reports: table and picture of
    size against quality, where there are several sizes. findings: what there was not to try them with.
    """

    RULE: ClassVar[str] = RULE
    run: Run
    out: Path
    products: tuple[Exported, ...]
    created: tuple[str, ...] = ()
    reports: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> tuple[Exported, ...]:
        return tuple(one for one in self.products if one.verdict.status == "failed")

    @property
    def sizes(self) -> tuple[Measured, ...]:
        """GGUF models that were tried, or without any models for mlx-lm, whatever was found: size against quality."""
        tried = [one for one in self.products if one.product.file_type is not None and one.verdict.numbers]
        tried = [one for one in tried if one.product.is_gguf] or tried
        return tuple(
            Measured(one.product.name, one.size_bytes, one.verdict.status, one.verdict.numbers) for one in tried
        )

    @property
    def recommended(self) -> str | None:
        """Name of the smallest product that keeps its quality (`recommend`)."""
        return recommend(self.sizes)

    def to_json(self) -> dict[str, object]:
        """What `tunesmith export --json` prints."""
        return {
            "schema_version": 1,
            "run": str(self.run.path),
            "out": str(self.out),
            "created": list(self.created),
            "recommended": self.recommended,
            "reports": [str(path) for path in self.reports],
            "products": [{**one.to_json(), "path": str(one.path)} for one in self.products],
        }


class Wishes(TypedDict, total=False):
    """Settings of the section export (docs/settings.md), in place of the run's own."""

    quantize: Sequence[str]
    imatrix: bool
    prompts: int
    messages: int
    server: str | None
    create: str | None
    host: str | None


def export(
    reference: str,
    *,
    to: Sequence[str],
    out: str | Path | None = None,
    on_progress: Progress = lambda what, done, total: None,
    **wishes: Unpack[Wishes],
) -> Export:
    """Write a run in other formats and try each against the trained model.

    Args:
        reference: a run's name or folder.
        to: names of TARGETS.
        out: folder of the exports; without it, exports/ of the run. Each product has a folder there.
        wishes: types, what to try with, what to tell Ollama; those that are not given are the run's. A model of the
            name `create` is made of the ollama export, NAME:TYPE where there are several; one that is not the trained
            model is not sent. With `server`, files that are there are tried and not made again.

    Returns:
        Every product with its verdict; one that failed stays where it is, marked in its verification.json.

    Raises:
        SettingsError: an unknown wish, or one that this run cannot fulfil; all problems together.
        DataError: rows are needed and the file has changed since training.
        ResourceError: a package, a model or room on the disk is missing.
    """
    run = Run.open(reference)
    changes = {f"export.{name}": value for name, value in wishes.items()}
    config = load_config(stored=run.config_path, overrides=changes)
    products = check_wishes(
        to, config.export.quantize, imatrix=config.export.imatrix, are_asked_for="quantize" in wishes
    )
    return export_products(
        run, config, products, out=out, on_progress=on_progress, keep=config.export.server is not None
    )


def export_products(
    run: Run,
    config: RunConfig,
    products: Sequence[Product],
    *,
    out: str | Path | None = None,
    on_progress: Progress = lambda what, done, total: None,
    keep: bool = False,
    on_stage: OnStage = lambda stage, product, is_done: None,
) -> Export:
    """Make, try and hand over products; `export` has the rest of the contract.

    Args:
        config: the run's, with what is wished for in `export`.
        keep: products that are there stay, and those that were tried before are not tried again.
        on_stage: called before a product is "made", "tried" and "created"; is_done: it was so in an earlier call.
    """
    settings = config.export
    names = model_names(settings.create, products)
    server = _reach(settings.host) if names else None
    _refuse_unfinished(run)
    trained, parameters = _trained(run, config)
    with _claimed_folder(run, out) as folder:
        missing = [one for one in products if not (keep and (folder / one.name / MARK).exists())]
        plan(missing, trained, folder, parameters=parameters)
        rows = TrainingRows(run, config, trained)
        examples = rows.pairs(settings.messages) if any(one.target == "ollama" for one in products) else ()
        with open_workshop(
            trained,
            folder,
            on_progress,
            measure=lambda: rows.importance(on_progress),
            examples=examples,
            server=settings.server,
        ) as shop:
            found = []
            for product in products:
                path, is_there = make(product, shop, folder, keep=keep, on_stage=on_stage)
                is_known = is_there and settings.server is None  # with a server it is that one's answers that count
                found.append((product, path, read_verdict(folder / product.name / MARK) if is_known else None))
            verdicts, findings = verify_all(found, shop, run, config, on_progress=on_progress, on_stage=on_stage)
        exported = tuple(
            Exported(product, path, _size(path), verdict)
            for (product, path, _), verdict in zip(found, verdicts, strict=True)
        )
        for one in exported:
            text = json.dumps(one.to_json(), indent=2, ensure_ascii=False)
            atomic_write(folder / one.product.name / MARK, text + "\n")
        result = Export(run, folder, exported, findings=tuple(findings))
        reports = write_report(result.sizes, result.recommended, folder, title=run.name)
    made_of = [(name, one) for one in exported if (name := names.get(one.product)) and one.verdict.status != "failed"]
    if server is not None:
        modelfile = make_modelfile(trained, examples)
        for name, one in made_of:
            on_stage("created", one.product, False)
            server.create(name, one.path, modelfile, on_progress=on_progress)
    return replace(result, created=tuple(name for name, _ in made_of), reports=reports)


@contextmanager
def _claimed_folder(run: Run, out: str | Path | None) -> Iterator[Path]:
    """The folder of the exports. Nobody else writes into a run's own meanwhile, and what a killed export left is gone.

    Raises:
        SettingsError: `out` is empty, or is or lies below a file; another process exports the run, whose unfinished
            files are none of a killed one.
    """
    if out is not None:
        if not str(out).strip():  # of a variable that is not set; as a path it is the working folder
            raise SettingsError("the folder of the exports (--out) has no name", fix="name one, or leave --out out")
        folder = Path(out)
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise SettingsError(f"{there} is a file, not a folder", fix="choose another folder with --out")
        yield folder
        return
    with run.claimed(doing="exported", instead="write these elsewhere with --out"):
        recover(run.exports_dir)
        yield run.exports_dir


def _reach(host: str | None) -> Ollama:
    server = Ollama(host)
    server.version()  # before hours of work, whether there is one
    return server


def _refuse_unfinished(run: Run) -> None:
    if is_pretrained(run):
        raise SettingsError(f"{run.name} was pre-trained", fix="fine-tune it first, and export that run")
    check_finished(run)


def model_names(create: str | None, products: Sequence[Product]) -> dict[Product, str]:
    """What Ollama calls each product, none for no wish.

    Raises:
        SettingsError: nothing to make it of, or one tag for several types.
    """
    mine = [product for product in products if product.target == "ollama"]
    if create is None:
        return {}
    if not mine:
        raise SettingsError("--create needs an export for Ollama", fix=f"--to ollama --create {create}")
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*(:[\w.-]+)?", create, re.ASCII):
        raise SettingsError(f"{create!r} is no name of a model in Ollama", fix="letters, digits, . _ - / and one :tag")
    if len(mine) == 1:
        return {mine[0]: create}
    if ":" in create:
        name = create.partition(":")[0]
        raise SettingsError(
            f"--create {create} names one model, and there are {len(mine)} types",
            fix=f"--create {name}, which makes {', '.join(f'{name}:{product.type_name}' for product in mine)}",
        )
    return {product: f"{create}:{product.type_name}" for product in mine}


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
