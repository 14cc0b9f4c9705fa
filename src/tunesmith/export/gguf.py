"""Writes GGUF files, tensor by tensor: a whole model, or a LoRA adapter for one. Knows no run directory.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the package gguf lays out the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import SettingsError, TrainingError
from tunesmith.export.architectures import Architecture, change, change_of, find_architecture, rope_scaling
from tunesmith.export.card_facts import CardFacts, public_base
from tunesmith.export.vocabulary import Vocabulary
from tunesmith.model import TrainedTensors
from tunesmith.optional import need
from tunesmith.types import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class FileType:
    """How the numbers of a GGUF file are stored.

    file_type: llama.cpp's name of the mixture (gguf.LlamaFileType). tensor_type: what matrices are written as here;
    None where only llama.cpp can make it. output_type: of the matrix that gives the logits.
    bits: stored for each weight, scales included.
    """

    file_type: str
    tensor_type: str | None
    output_type: str | None = None
    bits: float


# Below 8 bits the output matrix is kept at 8, as llama.cpp keeps it at 6: it moves every logit.
FILE_TYPES: Mapping[str, FileType] = {
    "f32": FileType(file_type="ALL_F32", tensor_type="F32", bits=32),
    "f16": FileType(file_type="MOSTLY_F16", tensor_type="F16", bits=16),
    "bf16": FileType(file_type="MOSTLY_BF16", tensor_type="BF16", bits=16),
    "q8_0": FileType(file_type="MOSTLY_Q8_0", tensor_type="Q8_0", bits=8.5),
    "q5_1": FileType(file_type="MOSTLY_Q5_1", tensor_type="Q5_1", output_type="Q8_0", bits=6),
    "q5_0": FileType(file_type="MOSTLY_Q5_0", tensor_type="Q5_0", output_type="Q8_0", bits=5.5),
    "q4_1": FileType(file_type="MOSTLY_Q4_1", tensor_type="Q4_1", output_type="Q8_0", bits=5),
    "q4_0": FileType(file_type="MOSTLY_Q4_0", tensor_type="Q4_0", output_type="Q8_0", bits=4.5),
    "q6_k": FileType(file_type="MOSTLY_Q6_K", tensor_type=None, bits=6.56),
    "q5_k_m": FileType(file_type="MOSTLY_Q5_K_M", tensor_type=None, bits=5.7),
    "q5_k_s": FileType(file_type="MOSTLY_Q5_K_S", tensor_type=None, bits=5.5),
    "q4_k_m": FileType(file_type="MOSTLY_Q4_K_M", tensor_type=None, bits=4.85),
    "q4_k_s": FileType(file_type="MOSTLY_Q4_K_S", tensor_type=None, bits=4.6),
    "q3_k_l": FileType(file_type="MOSTLY_Q3_K_L", tensor_type=None, bits=4.3),
    "q3_k_m": FileType(file_type="MOSTLY_Q3_K_M", tensor_type=None, bits=3.9),
    "q3_k_s": FileType(file_type="MOSTLY_Q3_K_S", tensor_type=None, bits=3.5),
    "q2_k": FileType(file_type="MOSTLY_Q2_K", tensor_type=None, bits=3.2),
}


def write_model(
    path: Path,
    tensors: TrainedTensors,
    vocabulary: Vocabulary,
    facts: CardFacts,
    *,
    file_type: str,
    on_progress: Advance = lambda done, total: None,
) -> None:
    """Write a whole model; memory for one tensor.

    Args:
        file_type: a name of FILE_TYPES that has a tensor_type.
        on_progress: called with (tensors written, tensors in all).

    Raises:
        SettingsError: an architecture that cannot be written. ResourceError: the package gguf is missing.
        TrainingError: a number that the type cannot hold.
    """
    gguf = need("gguf", extra="gguf")
    kind = FILE_TYPES[file_type]
    architecture = find_architecture(tensors.config)
    plan = _plan(gguf, tensors, architecture, kind)
    writer = gguf.GGUFWriter(str(path), architecture.name)
    try:
        writer.add_type("model")
        writer.add_file_type(gguf.LlamaFileType[kind.file_type])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _write_facts(writer, facts, swallows=vocabulary.swallows)
        keys, extra = rope_scaling(tensors.config)
        numbers = {key: value(tensors.config) for key, value in architecture.numbers.items()}
        for key, value in {**numbers, **keys}.items():
            _add(writer, f"{architecture.name}.{key}", value)
        _write_vocabulary(writer, vocabulary)
        for target, tensor in extra.items():
            writer.add_tensor_info(target, tuple(tensor.shape), np.dtype(np.float32), tensor.numel() * 4)
        for step in plan:
            writer.add_tensor_info(step.target, *step.stored(gguf))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in extra.values():
            writer.write_tensor_data(tensor.numpy())
        for done, step in enumerate(plan):
            on_progress(done, len(plan))
            tensor = change(tensors[step.name], step.name, architecture, tensors.config)
            writer.write_tensor_data(_encoded(gguf, step, tensor))
        on_progress(len(plan), len(plan))
    finally:
        writer.close()


def write_adapter(path: Path, tensors: TrainedTensors, facts: CardFacts) -> None:
    """Write a LoRA adapter as llama.cpp loads it beside a GGUF file of the base, in float32.

    Raises:
        SettingsError: an architecture or an adapter that cannot be written. ResourceError: gguf is missing.
    """
    gguf = need("gguf", extra="gguf")
    config = tensors.config
    architecture = find_architecture(config)
    names = tensor_names(config)
    writer = gguf.GGUFWriter(str(path), architecture.name)
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        _write_facts(writer, facts, swallows=False)
        layers = dict.fromkeys(name.rpartition(".")[0] for name in tensors.shapes)
        found = {layer: parts for layer in layers if (parts := tensors.low_rank(layer)) is not None}
        # llama.cpp multiplies B @ A by alpha / r, with one alpha for all layers: what differs goes into B.
        alpha = next(scale * a.shape[0] for a, _, scale in found.values())
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (a, b, scale) in found.items():
            name = f"{layer}.weight"
            # the rows of B @ A are those of B; a transposed weight is (B @ A).T before it is transposed back
            rows = change(b, name, architecture, config) if change_of(name, architecture) == "permute" else b
            writer.add_tensor(f"{names(name)}.lora_a", _floats(a))
            writer.add_tensor(f"{names(name)}.lora_b", _floats(rows * (scale * a.shape[0] / alpha)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class _Step:
    """One tensor: transformers' name, GGUF's, shape with rows first, and type."""

    name: str
    target: str
    shape: tuple[int, ...]
    type: str

    def stored(self, gguf: Any) -> tuple[tuple[int, ...], Any, int, Any]:
        """Shape, dtype, bytes and type as `GGUFWriter.add_tensor_info` wants them."""
        kind = gguf.GGMLQuantizationType[self.type]
        if self.type in ("F32", "F16"):
            dtype = np.dtype(np.float32 if self.type == "F32" else np.float16)
            return self.shape, dtype, int(np.prod(self.shape)) * dtype.itemsize, kind
        shape = gguf.quants.quant_shape_to_byte_shape(self.shape, kind)
        return shape, np.dtype(np.uint8), int(np.prod(shape)), kind


def _plan(gguf: Any, tensors: TrainedTensors, architecture: Architecture, kind: FileType) -> list[_Step]:
    names = tensor_names(tensors.config)
    targets = {name: names(name) for name in tensors.shapes}
    output = "output.weight" if "output.weight" in targets.values() else "token_embd.weight"
    steps = []
    for name, shape in tensors.shapes.items():
        target = targets[name]
        rows_first = shape[::-1] if change_of(name, architecture) == "transpose" else shape
        wanted = kind.output_type if target == output and kind.output_type else kind.tensor_type
        assert wanted is not None
        # Vectors and learned positions are few and enter every sum; llama.cpp wants them in full.
        if len(shape) < 2 or target == "position_embd.weight":
            wanted = "F32"
        elif rows_first[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[wanted]][0]:
            wanted = "F16"
        steps.append(_Step(name, target, rows_first, wanted))
    return steps


def tensor_names(config: Any) -> Callable[[str], str]:
    """From transformers' name of a tensor to GGUF's, for models of this configuration.

    Raises:
        SettingsError: an architecture that cannot be written; from the returned function, a tensor without a place.
        ResourceError: the package gguf is missing.
    """
    gguf = need("gguf", extra="gguf")
    architecture = find_architecture(config)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.enum], config.num_hidden_layers)

    def name_of(name: str) -> str:
        found = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise SettingsError(
                f"the tensor {name} of this {config.model_type} model has no place in a GGUF file",
                fix="export to merged, and use a server that reads safetensors (vLLM, transformers)",
            )
        return str(found)

    return name_of


def _encoded(gguf: Any, step: _Step, tensor: Tensor) -> NDArray[Any]:
    numbers = _floats(tensor)
    if step.type == "F16" and not bool((np.abs(numbers) <= np.finfo(np.float16).max).all()):
        raise TrainingError(
            f"{step.name} holds numbers that float16 cannot: up to {np.abs(numbers).max():.3g}",
            fix="take --quantize bf16 or q8_0 instead of f16",
        )
    encoded: NDArray[Any] = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[step.type])
    return np.ascontiguousarray(encoded)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.float().numpy())


def _add(writer: Any, key: str, value: float | str) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, int(value))


def _write_facts(writer: Any, facts: CardFacts, *, swallows: bool) -> None:
    """Where the model comes from; nothing that is not known."""
    # llama.cpp looks for phi-3 in the name to decide whether special tokens swallow white space.
    name = facts.name.replace("phi-3", "phi3").replace("Phi-3", "Phi3")
    if swallows and "phi3" not in name.lower():
        name = f"{name} (phi3)"
    elif not swallows:
        name = name.replace("phi3", "phi_3").replace("Phi3", "Phi_3").replace("PHI3", "PHI_3")
    writer.add_name(name)
    writer.add_tags(["tunesmith", facts.method])
    if facts.license is not None:
        writer.add_license(", ".join(facts.license.identifiers))
        if facts.license.name:
            writer.add_license_name(facts.license.name)
        if facts.license.link:
            writer.add_license_link(facts.license.link)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, public_base(facts))
    if facts.base_revision:
        writer.add_base_model_version(0, facts.base_revision)
    if facts.base_kind == "hub":
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{facts.base}")
    writer.add_string("tunesmith.version", facts.version)
    writer.add_string("tunesmith.run", facts.name)
    writer.add_array("tunesmith.data.files", [name for name, _ in facts.data_files])
    writer.add_array("tunesmith.data.sha256", [digest for _, digest in facts.data_files])


def _write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.space_prefix)
    for role, token_id in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(vocabulary.chat_template)
