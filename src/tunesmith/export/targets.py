"""What a run can be exported to, as one literal table, and how each export is made whole or not at all.

Everything that can be refused is refused by `plan`, all problems together, before weights are read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import METHODS
from tunesmith.errors import SettingsError, did_you_mean
from tunesmith.export.architectures import find_architecture
from tunesmith.export.card import write_card
from tunesmith.export.card_facts import public_base
from tunesmith.export.card_usage import TEMPLATE
from tunesmith.export.gguf import FILE_TYPES, write_adapter
from tunesmith.export.merged import copy_speech, write_merged
from tunesmith.export.mlx import speaks_alike, write_mlx_adapter
from tunesmith.export.mlx_layouts import Layout, find_layout
from tunesmith.export.mlx_runner import BITS, bits_per_weight, import_mlx_lm, quantise_mlx
from tunesmith.export.names import MARK, MATRIX, MODELFILE
from tunesmith.export.quantise import check_quantiser, quantise
from tunesmith.export.refusals import (
    make_modelfile,
    refuse_adapter,
    refuse_gguf,
    refuse_gguf_lora,
    refuse_merged,
    refuse_mlx,
    refuse_mlx_lora,
    refuse_ollama,
)
from tunesmith.export.workshop import Product, Trained, Workshop
from tunesmith.model import base_folder, format_count
from tunesmith.optional import need
from tunesmith.runs import atomic_folder, require_free

_UNTRIED = {"status": "unverified", "reason": "not tried yet", "checks": [], "numbers": {}}


@dataclass(frozen=True, slots=True)
class Target:
    """A row of TARGETS.

    refuse: problems that a run has with it, none for no problem. write: fills an empty folder and returns its main
    file, or the folder itself.
    file_types: how numbers can be stored, where that can be chosen. needs_type: they are never those of the run.
    """

    sentence: str
    refuse: Callable[[Trained], list[str]]
    write: Callable[[Workshop, Product, Path], Path]
    file_types: tuple[str, ...] = ()
    needs_type: bool = False


def _write_merged(shop: Workshop, product: Product, folder: Path) -> Path:
    _write_weights(shop, folder, "writing merged weights")
    return _with_card(shop, product, folder, folder)


def _write_weights(shop: Workshop, folder: Path, stage: str, *, layout: Layout | None = None) -> None:
    trained = shop.trained
    write_merged(
        folder,
        shop.tensors,
        trained.folder,
        dtype=trained.dtype,
        stop_ids=trained.template.stop_ids,
        on_progress=lambda done, total: shop.on_progress(stage, done, total),
        layout=layout,
    )


def _with_card(shop: Workshop, product: Product, folder: Path, path: Path, *, own_tokenizer: bool = False) -> Path:
    """Put the model card beside what was written; returns `path`, the main file."""
    named = None if path == folder else path.name
    form = {"form": product.target, "file": named, "file_type": product.file_type, "own_tokenizer": own_tokenizer}
    write_card(folder, replace(shop.trained.facts, **form))  # type: ignore[arg-type]
    return path


def _write_gguf(shop: Workshop, product: Product, folder: Path) -> Path:
    file_type = str(product.file_type)
    path = _with_card(shop, product, folder, folder / _file_name(product, shop))
    if not product.needs_llama_cpp:
        shop.write_gguf(path, file_type, shop.tensors)
        return path
    if shop.float_model is None:
        shop.float_model = shop.scratch / "f32.gguf"
        shop.write_gguf(shop.float_model, "f32", shop.tensors)
    matrix = folder / MATRIX if product.weighed else None
    if matrix is not None:
        shop.write_importance(matrix)
    shop.on_progress(f"writing {path.name}", 0, 1)
    quantise(shop.float_model, path, file_type=file_type, matrix=matrix)
    shop.on_progress(f"writing {path.name}", 1, 1)
    return path


def _write_ollama(shop: Workshop, product: Product, folder: Path) -> Path:
    path = _write_gguf(shop, product, folder)
    (folder / MODELFILE).write_text(_modelfile_text(shop, path.name), encoding="utf-8")
    return path


def _modelfile_text(shop: Workshop, file_name: str) -> str:
    facts = shop.trained.facts
    origin = f"{facts.name}, tuned with Tunesmith from {public_base(facts)}"
    return make_modelfile(shop.trained, shop.examples).text(file_name, origin=origin)


def _write_gguf_lora(shop: Workshop, product: Product, folder: Path) -> Path:
    trained = shop.trained
    path = folder / _file_name(product, shop)
    write_adapter(path, shop.tensors, trained.facts)
    alike = speaks_alike(base_folder(trained.folder), trained.template, trained.tokenizer)
    if not alike:  # for `llama-server --chat-template-file`
        (folder / TEMPLATE).write_text(trained.template.source, encoding="utf-8")
    shop.on_progress(f"writing {path.name}", 1, 1)
    return _with_card(shop, product, folder, path, own_tokenizer=not alike)


def _write_mlx(shop: Workshop, product: Product, folder: Path) -> Path:
    if product.file_type is None:
        _write_mlx_model(shop, folder)
        return _with_card(shop, product, folder, folder)
    if shop.mlx_model is None:
        shop.mlx_model = shop.scratch / "mlx"
        shop.mlx_model.mkdir()
        _write_mlx_model(shop, shop.mlx_model)
    shop.on_progress(f"writing {product.name}", 0, 1)
    quantise_mlx(shop.mlx_model, folder, file_type=product.file_type)
    shop.on_progress(f"writing {product.name}", 1, 1)
    return _with_card(shop, product, folder, folder)


def _write_mlx_model(shop: Workshop, folder: Path) -> None:
    _write_weights(shop, folder, "writing weights for mlx-lm", layout=find_layout(shop.trained.config))


def _write_mlx_lora(shop: Workshop, product: Product, folder: Path) -> Path:
    trained = shop.trained
    write_mlx_adapter(folder, shop.tensors)
    alike = speaks_alike(base_folder(trained.folder), trained.template, trained.tokenizer)
    if not alike:
        stop_ids, pad_id = trained.template.stop_ids, trained.config.pad_token_id
        copy_speech(trained.folder, folder, stop_ids=stop_ids, pad_id=pad_id)
    shop.on_progress("writing the adapter for mlx-lm", 1, 1)
    return _with_card(shop, product, folder, folder, own_tokenizer=not alike)


def _write_adapter(shop: Workshop, product: Product, folder: Path) -> Path:
    for file in shop.trained.folder.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    shop.on_progress("copying the adapter", 1, 1)
    return folder


_GGUF = tuple(FILE_TYPES)
TARGETS: Mapping[str, Target] = {
    "merged": Target("whole weights as safetensors, for transformers and vLLM", refuse_merged, _write_merged),
    "gguf": Target("one file for llama.cpp and what is built on it", refuse_gguf, _write_gguf, _GGUF, needs_type=True),
    "ollama": Target("a GGUF file and its Modelfile, for Ollama", refuse_ollama, _write_ollama, _GGUF, needs_type=True),
    "gguf-lora": Target(
        "the adapter as a small file for llama.cpp, beside a GGUF file of the base", refuse_gguf_lora, _write_gguf_lora
    ),
    "mlx": Target("whole weights in mlx-lm's layout, for Macs", refuse_mlx, _write_mlx, tuple(BITS)),
    "mlx-lora": Target("the adapter in mlx-lm's layout, beside the base", refuse_mlx_lora, _write_mlx_lora),
    "adapter": Target("the adapter in PEFT's format, as the run has it", refuse_adapter, _write_adapter),
}


def check_wishes(
    targets: Sequence[str], file_types: Sequence[str], *, imatrix: bool = False, are_asked_for: bool = False
) -> list[Product]:
    """Products from what was asked for, known by name alone; float32 first, since others are made from it.

    Args:
        targets, file_types: in capitals too, as llama.cpp writes its types. Each target takes the types that it has.
        imatrix: weigh those below 8 bits by the importance of columns.
        are_asked_for: the types are no setting of a run, which may be meant for other targets; each has to be taken.

    Raises:
        SettingsError: unknown targets and types, all together, or none; a type that no target takes; nothing to weigh.
    """
    targets, file_types = [name.lower() for name in targets], [name.lower() for name in file_types]
    problems = [
        f"unknown target {name!r}{did_you_mean(name, TARGETS).rstrip('?')}; known: {', '.join(TARGETS)}"
        for name in targets
        if name not in TARGETS
    ]
    known = dict.fromkeys(kind for row in TARGETS.values() for kind in row.file_types)
    problems += [f"unknown type {name!r}; known: {', '.join(known)}" for name in file_types if name not in known]
    if not targets:
        problems.append(f"no target; known: {', '.join(TARGETS)}")
    rows = {name: TARGETS[name] for name in targets if name in TARGETS}
    takes = {name: [kind for kind in dict.fromkeys(file_types) if kind in row.file_types] for name, row in rows.items()}
    problems += [
        f"no type for {name}; known: {', '.join(row.file_types)}"
        for name, row in rows.items()
        if row.needs_type and not takes[name]
    ]
    taken_by = {kind: [name for name, row in TARGETS.items() if kind in row.file_types] for kind in known}
    problems += [
        f"{kind} is no type of {', '.join(rows)}: it is one of {', '.join(taken_by[kind])}"
        for kind in dict.fromkeys(file_types)
        if are_asked_for and rows and kind in known and not any(kind in taken for taken in takes.values())
    ]
    if problems:
        raise SettingsError("this cannot be exported", problems=tuple(problems), fix="tunesmith export --help")
    products: list[Product] = []
    for name, taken in takes.items():
        kinds = sorted(taken, key=lambda kind: kind != "f32")
        products += [Product(name, kind, _can_be_weighed(kind) and imatrix) for kind in kinds] or [Product(name)]
    if imatrix and not any(product.weighed for product in products):
        small = ", ".join(name for name, kind in FILE_TYPES.items() if kind.bits < 8)
        raise SettingsError("an importance matrix has nothing to weigh here", fix=f"add a type below 8 bits: {small}")
    return products


def _can_be_weighed(kind: str) -> bool:
    return kind in FILE_TYPES and FILE_TYPES[kind].bits < 8


def refuse_early(products: Sequence[Product], *, method: str, config: Any) -> None:
    """Refuse what no run of this method and base can be made, before hours of training.

    Args:
        method: a name of METHODS, or auto. config: transformers' own of the base.

    Raises:
        SettingsError: the method cannot be merged, or llama.cpp does not have the architecture.
        ResourceError: a package is missing.
    """
    kind = METHODS.get(method)
    if kind is not None and not kind.mergeable:
        able = ", ".join(name for name, one in METHODS.items() if one.mergeable)
        raise SettingsError(f"{kind.title} cannot be put into the base's weights", fix=f"method.name: one of {able}")
    find_architecture(config)
    need("gguf", extra="gguf")
    if any(product.needs_llama_cpp for product in products):
        check_quantiser()


def plan(products: Sequence[Product], trained: Trained, out: Path, *, parameters: int) -> None:
    """Refuse what cannot be made of this run, before weights are read.

    Args:
        parameters: of the model, for the room that is needed.

    Raises:
        SettingsError: every problem of every target, with what to export instead.
        ResourceError: a package or room on the disk is missing.
    """
    problems = [p for target in dict.fromkeys(p.target for p in products) for p in TARGETS[target].refuse(trained)]
    occupied = [out / p.name for p in products if (out / p.name).exists() and not (out / p.name / MARK).exists()]
    problems += [f"{folder} is there and is no export: it would be replaced" for folder in occupied]
    if problems:
        fix = "leave these targets out, or choose another folder with --out" if occupied else "choose other targets"
        raise SettingsError(f"{trained.facts.name} cannot be exported to this", problems=tuple(problems), fix=fix)
    if any(product.is_gguf for product in products):
        need("gguf", extra="gguf")
    from_float = [product for product in products if product.needs_llama_cpp]
    if from_float:
        check_quantiser()
    from_mlx = any(product.file_type in BITS for product in products)
    if from_mlx:
        import_mlx_lm()
    # files that go again: what K-quants and mlx-lm's are made from, and the base that an adapter is tried beside
    passing = 4.0 * (bool(from_float) + any(product.target == "gguf-lora" for product in products))
    passing += from_mlx * trained.dtype.itemsize
    needed = sum(_bytes_for_each(product, trained) for product in products) + passing
    require_free(out, int(needed * parameters), purpose=f"exporting {format_count(parameters)} parameters")


def _bytes_for_each(product: Product, trained: Trained) -> float:
    kind = product.file_type
    if kind is not None:
        return (bits_per_weight(kind) if kind in BITS else FILE_TYPES[kind].bits) / 8
    return float(trained.dtype.itemsize) if product.target in ("merged", "mlx") else 0.0


def make(
    product: Product,
    shop: Workshop,
    out: Path,
    *,
    keep: bool = False,
    on_stage: Callable[[str, Product, bool], None] = lambda stage, product, is_done: None,
) -> tuple[Path, bool]:
    """Write one product into its folder under `out`, whole or not at all, marked as not tried yet.

    Args:
        keep: leave one that is there as it is; with another Modelfile than would be written now it is made anew.
        on_stage: called before with ("made", product, whether it is there).

    Returns:
        Its main file, or its folder; and whether it was there.

    Raises:
        ResourceError: the disk refuses. TrainingError: a weight that is not finite.
    """
    found = _find_made(product, shop, out) if keep else None
    on_stage("made", product, found is not None)
    path = found or _make(product, shop, out)
    if product.file_type == "f32":
        shop.float_model = path
    return path, found is not None


def _make(product: Product, shop: Workshop, out: Path) -> Path:
    with atomic_folder(out / product.name) as folder:
        path = TARGETS[product.target].write(shop, product, folder)
        record = {"schema_version": 1, "target": product.target, "file_type": product.file_type, **_UNTRIED}
        (folder / MARK).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return out / product.name / path.relative_to(folder)


def _find_made(product: Product, shop: Workshop, out: Path) -> Path | None:
    folder = out / product.name
    if not (folder / MARK).exists():
        return None
    if not product.is_gguf:
        return folder
    path = folder / _file_name(product, shop)
    if product.target == "ollama":
        told = folder / MODELFILE
        if not told.is_file() or told.read_text(encoding="utf-8") != _modelfile_text(shop, path.name):
            return None
    return path if path.exists() else None


def _file_name(product: Product, shop: Workshop) -> str:
    kind = "lora" if product.target == "gguf-lora" else product.type_name
    return f"{shop.trained.facts.name}-{kind}.gguf"
