"""What a run can be exported to, as one literal table, and how each export is made whole or not at all.

Everything that can be refused is refused by `plan`, all problems together, before weights are read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import METHODS
from tunesmith.errors import SettingsError
from tunesmith.export.architectures import context_length, find_architecture
from tunesmith.export.card import write_card
from tunesmith.export.gguf import FILE_TYPES, write_adapter
from tunesmith.export.merged import write_merged
from tunesmith.export.modelfile import Modelfile, licence_text, make_parameters, require_writable
from tunesmith.export.quantise import check_quantiser, quantise
from tunesmith.export.vocabulary import read_vocabulary
from tunesmith.export.workshop import Product, Trained, Workshop, trained_frame
from tunesmith.model import format_count
from tunesmith.optional import need
from tunesmith.runs import atomic_folder, require_free

MARK = "verification.json"
MODELFILE = "Modelfile"
MATRIX = "importance.gguf"
_UNTRIED = {"status": "unverified", "reason": "not tried yet", "checks": [], "numbers": {}}


@dataclass(frozen=True, slots=True)
class Target:
    """A row of TARGETS.

    refuse: problems that a run has with it, none for no problem. write: fills an empty folder and returns its main
    file, or the folder itself.
    """

    sentence: str
    refuse: Callable[[Trained], list[str]]
    write: Callable[[Workshop, Product, Path], Path]
    has_file_type: bool = False


def _refuse_merged(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    if method.mergeable:
        return []
    return [f"merged: {method.title} cannot be put into the base's weights; export it with --to adapter"]


def _refuse_gguf(trained: Trained) -> list[str]:
    problems = [problem.replace("merged: ", "gguf: ", 1) for problem in _refuse_merged(trained)]
    return problems + [f"gguf: {problem}" for problem in _gguf_problems(trained, vocabulary=True)]


def _refuse_ollama(trained: Trained) -> list[str]:
    problems = [problem.replace("gguf: ", "ollama: ", 1) for problem in _refuse_gguf(trained)]
    if problems:  # the vocabulary, which says whether BOS is added, cannot be read
        return problems
    try:
        trained_frame(trained)
        make_modelfile(trained)
    except SettingsError as error:
        problems.append("ollama: " + "; ".join(part for part in (error.message, error.cause, error.fix) if part))
    return problems


def make_modelfile(trained: Trained, examples: Sequence[tuple[str, str]] = ()) -> Modelfile:
    """What Ollama is told of a run.

    Args:
        examples: questions and answers to put before every conversation.

    Raises:
        SettingsError: its template, system prompt or an example cannot be written for Ollama.
    """
    parameters = make_parameters(
        trained.generate,
        trained.tokenizer,
        trained.template.stop_ids,
        context=context_length(trained.config),
        max_length=trained.max_length,
    )
    for what, text in (
        ("prompt.system", trained.facts.system or ""),
        ("generate.stop", " ".join(trained.generate.stop)),
    ):
        require_writable(text, what=what)
    return Modelfile(
        template=trained_frame(trained).source(),
        parameters=parameters,
        system=trained.facts.system,
        licence=licence_text(trained.facts.license),
        messages=tuple(turn for asked, answered in examples for turn in (("user", asked), ("assistant", answered))),
    )


def _refuse_gguf_lora(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    problems = [f"gguf-lora: {problem}" for problem in _gguf_problems(trained, vocabulary=False)]
    if method.gguf != "adapter" or trained.modules_to_save:
        extra = " with method.modules_to_save" if method.gguf == "adapter" else ""
        wanted = f"{method.title}{extra} has no GGUF adapter; export the whole model with --to gguf"
        problems.append(f"gguf-lora: {wanted}")
    return problems


def _refuse_adapter(trained: Trained) -> list[str]:
    method = METHODS[trained.facts.method]
    return [] if method.is_adapter else [f"adapter: {method.title} has none; export the whole model with --to merged"]


def _gguf_problems(trained: Trained, *, vocabulary: bool) -> list[str]:
    found: list[str] = []
    try:
        find_architecture(trained.config)
    except SettingsError as error:
        found += error.problems or [error.message]
    if vocabulary:
        try:
            read_vocabulary(trained.tokenizer, trained.template, size=trained.config.vocab_size)
        except SettingsError as error:
            found += error.problems
    return found


def _write_merged(shop: Workshop, product: Product, folder: Path) -> Path:
    trained = shop.trained
    write_merged(
        folder,
        shop.tensors,
        trained.folder,
        dtype=trained.dtype,
        stop_ids=trained.template.stop_ids,
        on_progress=lambda done, total: shop.on_progress("writing merged weights", done, total),
    )
    write_card(folder, trained.facts.as_merged())
    return folder


def _write_gguf(shop: Workshop, product: Product, folder: Path) -> Path:
    file_type = str(product.file_type)
    path = folder / _file_name(product, shop)
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
    origin = f"{facts.name}, tuned with Tunesmith from {facts.base}"
    return make_modelfile(shop.trained, shop.examples).text(file_name, origin=origin)


def _write_gguf_lora(shop: Workshop, product: Product, folder: Path) -> Path:
    path = folder / f"{shop.trained.facts.name}-lora.gguf"
    write_adapter(path, shop.tensors, shop.trained.facts)
    shop.on_progress(f"writing {path.name}", 1, 1)
    return path


def _write_adapter(shop: Workshop, product: Product, folder: Path) -> Path:
    for file in shop.trained.folder.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    shop.on_progress("copying the adapter", 1, 1)
    return folder


# MLX is planned: a row here, and a verification in api/exporter.py.
TARGETS: Mapping[str, Target] = {
    "merged": Target("whole weights as safetensors, for transformers and vLLM", _refuse_merged, _write_merged),
    "gguf": Target("one file for llama.cpp and what is built on it", _refuse_gguf, _write_gguf, has_file_type=True),
    "ollama": Target("a GGUF file and its Modelfile, for Ollama", _refuse_ollama, _write_ollama, has_file_type=True),
    "gguf-lora": Target(
        "the adapter as a small file for llama.cpp, beside a GGUF file of the base", _refuse_gguf_lora, _write_gguf_lora
    ),
    "adapter": Target("the adapter in PEFT's format, as the run has it", _refuse_adapter, _write_adapter),
}


def check_wishes(targets: Sequence[str], file_types: Sequence[str], *, imatrix: bool = False) -> list[Product]:
    """Products from what was asked for, known by name alone; float32 first, since others are made from it.

    Args:
        imatrix: weigh the types below 8 bits by the importance of columns.

    Raises:
        SettingsError: unknown targets and types, all together, or none; nothing to weigh.
    """
    problems = [f"unknown target {name!r}; known: {', '.join(TARGETS)}" for name in targets if name not in TARGETS]
    problems += [
        f"unknown type {name!r}; known: {', '.join(FILE_TYPES)}" for name in file_types if name not in FILE_TYPES
    ]
    if not targets:
        problems.append(f"no target; known: {', '.join(TARGETS)}")
    typed = [name for name in targets if name in TARGETS and TARGETS[name].has_file_type]
    if typed and not file_types:
        problems.append(f"no type for {', '.join(typed)}; known: {', '.join(FILE_TYPES)}")
    if problems:
        raise SettingsError("this cannot be exported", problems=tuple(problems), fix="tunesmith export --help")
    products: list[Product] = []
    for target in dict.fromkeys(targets):
        types = sorted(dict.fromkeys(file_types), key=lambda name: name != "f32") if target in typed else []
        products += [Product(target, name, imatrix and FILE_TYPES[name].bits < 8) for name in types]
        products += [] if types else [Product(target)]
    if imatrix and not any(product.weighed for product in products):
        small = ", ".join(name for name, kind in FILE_TYPES.items() if kind.bits < 8)
        raise SettingsError("an importance matrix has nothing to weigh here", fix=f"add a type below 8 bits: {small}")
    return products


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
    # float32 files that go again: what K-quants are made from, and the base that an adapter is tried beside
    passing = 4.0 * (bool(from_float) + any(product.target == "gguf-lora" for product in products))
    needed = sum(_bytes_for_each(product, trained) for product in products) + passing
    require_free(out, int(needed * parameters), purpose=f"exporting {format_count(parameters)} parameters")


def _bytes_for_each(product: Product, trained: Trained) -> float:
    if product.file_type is not None:
        return FILE_TYPES[product.file_type].bits / 8
    return float(trained.dtype.itemsize) if product.target == "merged" else 0.0


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
    if product.file_type is None:
        return folder
    path = folder / _file_name(product, shop)
    is_same = product.target != "ollama" or _modelfile_text(shop, path.name) == (folder / MODELFILE).read_text("utf-8")
    return path if path.exists() and is_same else None


def _file_name(product: Product, shop: Workshop) -> str:
    return f"{shop.trained.facts.name}-{product.type_name}.gguf"
