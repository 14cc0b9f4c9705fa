"""What a run can be exported to, as one literal table, and how each export is made whole or not at all.

Everything that can be refused is refused by `plan`, all problems together, before weights are read.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tunesmith.errors import SettingsError
from tunesmith.export.card import write_card
from tunesmith.export.gguf import FILE_TYPES, write_adapter, write_model
from tunesmith.export.go_template import Frame
from tunesmith.export.merged import copy_speech, write_merged
from tunesmith.export.mlx import speaks_alike, write_mlx_adapter
from tunesmith.export.mlx_layouts import find_layout
from tunesmith.export.mlx_runner import BITS, bits_per_weight, import_mlx_lm, quantise_mlx
from tunesmith.export.quantise import check_quantiser, quantise
from tunesmith.export.refusals import (
    Trained,
    frame_of,
    make_modelfile,
    refuse_adapter,
    refuse_gguf,
    refuse_gguf_lora,
    refuse_merged,
    refuse_mlx,
    refuse_mlx_lora,
    refuse_ollama,
)
from tunesmith.export.vocabulary import Vocabulary, read_vocabulary
from tunesmith.model import TrainedTensors, base_folder, format_count, open_trained
from tunesmith.optional import need
from tunesmith.runs import atomic_folder, disk_errors, require_free

MARK = "verification.json"
MODELFILE = "Modelfile"
Progress = Callable[[str, int, int], None]
Engine = Literal["llama.cpp", "mlx-lm"]
_USUAL_TYPE = "q8_0"
_OF_AN_ADAPTER = ("adapters.safetensors", "adapter_config.json", "README.md", MARK)
_UNTRIED = {"status": "unverified", "reason": "not tried yet", "checks": [], "numbers": {}}


@dataclass(frozen=True, slots=True)
class Product:
    """One export: a target, and how numbers are stored where that can be chosen. `name` is its folder."""

    target: str
    file_type: str | None = None

    @property
    def name(self) -> str:
        return self.target if self.file_type is None else f"{self.target}-{self.file_type}"

    @property
    def engine(self) -> Engine | None:
        """What it is tried with besides transformers."""
        return TARGETS[self.target].engine


@dataclass(slots=True)
class Workshop:
    """What products of one call share: the tensors, the vocabulary, and what others are made from, at most once each.

    float_model: a GGUF file in float32. mlx_model: a folder for mlx-lm in the numbers of the run.
    """

    trained: Trained
    scratch: Path
    on_progress: Progress
    float_model: Path | None = None
    mlx_model: Path | None = None
    _tensors: TrainedTensors | None = field(default=None, init=False)

    @property
    def tensors(self) -> TrainedTensors:
        if self._tensors is None:
            self._tensors = open_trained(self.trained.folder)
        return self._tensors

    @property
    def vocabulary(self) -> Vocabulary:
        size = self.trained.config.vocab_size
        return read_vocabulary(self.trained.tokenizer, self.trained.template, size=size)

    @property
    def frame(self) -> Frame:
        return frame_of(self.trained)

    def write_gguf(self, path: Path, file_type: str, tensors: TrainedTensors) -> None:
        write_model(
            path,
            tensors,
            self.vocabulary,
            self.trained.facts,
            file_type=file_type,
            on_progress=lambda done, total: self.on_progress(f"writing {path.name}", done, total),
        )

    def float_base(self) -> Path:
        """The untuned base as a float32 GGUF file: what an adapter is tried beside."""
        path = self.scratch / "base-f32.gguf"
        self.write_gguf(path, "f32", open_trained(self.trained.folder, adapter=False))
        return path

    def mlx_base(self, product: Path) -> Path:
        """The base as mlx-lm finds it beside an exported adapter, whose tokenizer files, if any, lie over its own."""
        base = base_folder(self.trained.folder)
        if not (product / "tokenizer_config.json").exists():
            return base
        folder = self.scratch / "mlx-base"
        folder.mkdir(exist_ok=True)
        files = {file.name: file for file in base.iterdir() if file.is_file()}
        files |= {file.name: file for file in product.iterdir() if file.name not in _OF_AN_ADAPTER}
        for name, file in files.items():
            (folder / name).symlink_to(file.absolute())
        return folder


@dataclass(frozen=True, slots=True)
class Target:
    """A row of TARGETS.

    refuse: problems that a run has with it, none for no problem. write: fills an empty folder and returns its main
    file, or the folder itself. engine: what it is tried with besides transformers.
    file_types: how numbers can be stored, where that can be chosen. needs_type: they are never those of the run.
    """

    sentence: str
    refuse: Callable[[Trained], list[str]]
    write: Callable[[Workshop, Product, Path], Path]
    engine: Engine | None = None
    file_types: tuple[str, ...] = ()
    needs_type: bool = False


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
    return _with_card(shop, product, folder, folder)


def _with_card(shop: Workshop, product: Product, folder: Path, path: Path, *, own_tokenizer: bool = False) -> Path:
    """Put the model card beside what was written; returns `path`, the main file."""
    named = None if path == folder else path.name
    form = {"form": product.target, "file": named, "file_type": product.file_type, "own_tokenizer": own_tokenizer}
    write_card(folder, replace(shop.trained.facts, **form))  # type: ignore[arg-type]
    return path


def _write_gguf(shop: Workshop, product: Product, folder: Path) -> Path:
    file_type = str(product.file_type)
    path = _with_card(shop, product, folder, folder / f"{shop.trained.facts.name}-{file_type}.gguf")
    if FILE_TYPES[file_type].tensor_type is not None:
        shop.write_gguf(path, file_type, shop.tensors)
        return path
    if shop.float_model is None:
        shop.float_model = shop.scratch / "f32.gguf"
        shop.write_gguf(shop.float_model, "f32", shop.tensors)
    shop.on_progress(f"writing {path.name}", 0, 1)
    quantise(shop.float_model, path, file_type=file_type)
    shop.on_progress(f"writing {path.name}", 1, 1)
    return path


def _write_ollama(shop: Workshop, product: Product, folder: Path) -> Path:
    path = _write_gguf(shop, product, folder)
    facts = shop.trained.facts
    text = make_modelfile(shop.trained).text(path.name, origin=f"{facts.name}, tuned with Tunesmith from {facts.base}")
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return path


def _write_gguf_lora(shop: Workshop, product: Product, folder: Path) -> Path:
    path = folder / f"{shop.trained.facts.name}-lora.gguf"
    write_adapter(path, shop.tensors, shop.trained.facts)
    shop.on_progress(f"writing {path.name}", 1, 1)
    return _with_card(shop, product, folder, path)


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
    trained = shop.trained
    write_merged(
        folder,
        shop.tensors,
        trained.folder,
        dtype=trained.dtype,
        stop_ids=trained.template.stop_ids,
        on_progress=lambda done, total: shop.on_progress("writing weights for mlx-lm", done, total),
        layout=find_layout(trained.config),
    )


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
    "gguf": Target(
        "one file for llama.cpp and what is built on it", refuse_gguf, _write_gguf, "llama.cpp", _GGUF, needs_type=True
    ),
    "ollama": Target(
        "a GGUF file and its Modelfile, for Ollama", refuse_ollama, _write_ollama, "llama.cpp", _GGUF, needs_type=True
    ),
    "gguf-lora": Target(
        "the adapter as a small file for llama.cpp, beside a GGUF file of the base",
        refuse_gguf_lora,
        _write_gguf_lora,
        "llama.cpp",
    ),
    "mlx": Target("whole weights in mlx-lm's layout, for Macs", refuse_mlx, _write_mlx, "mlx-lm", tuple(BITS)),
    "mlx-lora": Target("the adapter in mlx-lm's layout, beside the base", refuse_mlx_lora, _write_mlx_lora, "mlx-lm"),
    "adapter": Target("the adapter in PEFT's format, as the run has it", refuse_adapter, _write_adapter),
}


def check_wishes(targets: Sequence[str], file_types: Sequence[str]) -> list[Product]:
    """Products from what was asked for, known by name alone; float32 first, since others are made from it.

    Each target takes those of the types that it has. Without any, those that need one take q8_0.

    Raises:
        SettingsError: unknown targets and types, and types for which there is no target, all together, or none.
    """
    problems = [f"unknown target {name!r}; known: {', '.join(TARGETS)}" for name in targets if name not in TARGETS]
    if not targets:
        problems.append(f"no target; known: {', '.join(TARGETS)}")
    rows = {name: TARGETS[name] for name in targets if name in TARGETS}
    if not file_types and any(row.needs_type for row in rows.values()):
        file_types = [_USUAL_TYPE]
    takes = {name: [kind for kind in dict.fromkeys(file_types) if kind in row.file_types] for name, row in rows.items()}
    for kind in dict.fromkeys(file_types):
        homes = [name for name, row in TARGETS.items() if kind in row.file_types]
        if not homes:
            known = dict.fromkeys(kind for row in TARGETS.values() for kind in row.file_types)
            problems.append(f"unknown type {kind!r}; known: {', '.join(known)}")
        elif not set(homes) & set(rows):
            problems.append(f"the type {kind} is for {', '.join(homes)}, and none of them is asked for")
    problems += [
        f"no type for {name}; known: {', '.join(row.file_types)}"
        for name, row in rows.items()
        if row.needs_type and not takes[name]
    ]
    if problems:
        raise SettingsError("this cannot be exported", problems=tuple(problems), fix="tunesmith export --help")
    products: list[Product] = []
    for name, kinds in takes.items():
        products += [Product(name, kind) for kind in sorted(kinds, key=lambda kind: kind != "f32")] or [Product(name)]
    return products


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
    if any(product.engine == "llama.cpp" for product in products):
        need("gguf", extra="gguf")
    kinds = [product.file_type for product in products if product.file_type is not None]
    from_float = any(kind in FILE_TYPES and FILE_TYPES[kind].tensor_type is None for kind in kinds)
    if from_float:
        check_quantiser()
    from_mlx = any(kind in BITS for kind in kinds)
    if from_mlx:
        import_mlx_lm()
    # files that go again: what K-quants and mlx-lm's are made from, and the base that an adapter is tried beside
    passing = 4.0 * (from_float + any(product.target == "gguf-lora" for product in products))
    passing += from_mlx * trained.dtype.itemsize
    needed = sum(_bytes_for_each(product, trained) for product in products) + passing
    require_free(out, int(needed * parameters), purpose=f"exporting {format_count(parameters)} parameters")


def _bytes_for_each(product: Product, trained: Trained) -> float:
    kind = product.file_type
    if kind is not None:
        return (bits_per_weight(kind) if kind in BITS else FILE_TYPES[kind].bits) / 8
    return float(trained.dtype.itemsize) if product.target in ("merged", "mlx") else 0.0


def make(product: Product, shop: Workshop, out: Path) -> Path:
    """Write one product into its folder under `out`, whole or not at all, marked as not tried yet.

    Returns:
        Its main file, or its folder.

    Raises:
        ResourceError: the disk refuses. TrainingError: a weight that is not finite.
    """
    with atomic_folder(out / product.name) as folder:
        path = TARGETS[product.target].write(shop, product, folder)
        record = {"schema_version": 1, "target": product.target, "file_type": product.file_type, **_UNTRIED}
        (folder / MARK).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    made = out / product.name / path.relative_to(folder)
    if product.file_type == "f32":
        shop.float_model = made
    return made


@contextlib.contextmanager
def open_workshop(trained: Trained, out: Path, on_progress: Progress) -> Iterator[Workshop]:
    """A workshop with a scratch folder in `out`, which goes when the block ends."""
    scratch = out / f".tmp-export.{secrets.token_hex(4)}"
    with disk_errors(out):
        scratch.mkdir(parents=True)
    try:
        yield Workshop(trained, scratch, on_progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
