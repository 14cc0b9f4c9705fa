"""The section `method` of the schema, and what of it does not go together with other sections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator

from tunesmith.config.methods import METHODS, is_pattern, parse_layers, settings_of
from tunesmith.config.section import Section as _Section
from tunesmith.config.section import setting as _setting

# Said of a method without the setting, this is what it does anyway: full trains all layers, and none drops anything.
_TRUE_ANYWAY: Mapping[str, Mapping[str, object]] = {
    **{name: {"dropout": 0} for name in METHODS},
    "full": {"dropout": 0, "target_modules": "all"},
}
_ALL_OF_PEFT = "all-linear"


class MethodConfig(_Section):
    """What is trained."""

    name: Literal["auto", "full", "lora", "qlora", "rslora", "dora", "pissa", "ia3", "prompt", "prefix", "ptuning"] = (
        _setting(
            "auto",
            "full trains every weight, the others small adapters (tunesmith methods); auto takes full where the model "
            "is small enough, else lora.",
        )
    )
    r: int = _setting(16, "LoRA rank; 8 to 64 covers most tasks.", ge=1)
    alpha: float = _setting(32, "LoRA scale; the update is multiplied by alpha / r.", gt=0)
    dropout: float = _setting(0.05, "Dropout on the adapter's input.", ge=0, lt=1)
    target_modules: str | list[str] = _setting(
        "auto",
        "Layers that get an adapter: all (every linear layer but the head), attention, mlp, roles (query, key, value, "
        "output, gate, up, down), names or regular expressions; auto is all, for ia3 key,value,down.",
    )
    layers: str | None = _setting(
        None, "Decoder layers that get an adapter, counted from 0, such as 0-7,24-31; unset, all of them."
    )
    modules_to_save: Literal["none", "embeddings", "head", "both"] = _setting(
        "none", "What is trained whole beside an adapter: the token embeddings, the head or both."
    )

    num_virtual_tokens: int = _setting(
        20, "Length of the soft prompt of prompt, prefix and ptuning; it takes this much of the context.", ge=1
    )
    init_text: str | None = _setting(
        None,
        "Text that the virtual tokens of prompt and prefix begin as, repeated or cut to fit; unset, tokens drawn from "
        "the vocabulary.",
        min_length=1,
    )
    encoder_hidden_size: int | None = _setting(
        None, "Width of the network that writes the prompt of ptuning; unset, that of the model.", ge=1
    )

    @field_validator("layers")
    @classmethod
    def _readable_layers(cls, layers: str | None) -> str | None:
        if layers is not None:
            parse_layers(layers)
        return layers

    @field_validator("target_modules")
    @classmethod
    def _readable_patterns(cls, wanted: str | list[str]) -> str | list[str]:
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name == _ALL_OF_PEFT:
                raise ValueError(f"{name!r} is what PEFT calls it, did you mean 'all'?")
            try:
                re.compile(name if is_pattern(name) else "")
            except re.error as error:
                raise ValueError(f"{name!r} is no regular expression: {error}") from error
        return wanted

    def check_together(self) -> None:
        problems = _unread_problems(self)
        if problems:
            raise ValueError("\n".join(problems))


def unread_settings(method: MethodConfig, name: str) -> list[str]:
    """Settings that ask for something which the method `name` does not have."""
    anyway = _TRUE_ANYWAY.get(name, {})
    return [
        f"method.{setting}"
        for setting, field in MethodConfig.model_fields.items()
        if setting not in ("name", *settings_of(name))
        and getattr(method, setting) not in (field.default, anyway.get(setting, field.default))
    ]


def _unread_problems(method: MethodConfig) -> list[str]:
    by_readers: dict[tuple[str, ...], list[str]] = {}
    for setting in unread_settings(method, method.name):
        readers = tuple(name for name, facts in METHODS.items() if setting.removeprefix("method.") in facts.reads)
        by_readers.setdefault(readers, []).append(setting)
    who = "auto takes full or lora, which have" if method.name == "auto" else f"{method.name} has"
    return [
        f"{who} no {' and no '.join(settings)}: leave {'it' if len(settings) == 1 else 'them'} out, or set method.name "
        f"to {', '.join(readers[:-1])}{' or ' if readers[1:] else ''}{readers[-1]}"
        for readers, settings in by_readers.items()
    ]


def base_problems(method: str, quantize: str, device: str) -> list[str]:
    """What is impossible of a method (or auto) on a base in model.quantize on model.device."""
    facts = METHODS.get(method)
    problems = []
    if facts is not None and facts.is_quantized and quantize == "none":
        problems.append(f"{method} trains beside a quantised base: leave out model.quantize, or take lora")
    if quantize not in ("auto", "none") and facts is not None and not facts.quantisable:
        able = ", ".join(name for name, other in METHODS.items() if other.quantisable)
        problems.append(
            f"{method} cannot train a base in {quantize}: set model.quantize to none, or take one of {able}"
        )
    if device == "mps" and quantize_of(method, quantize) != "none":
        problems.append("a quantised base computes on cpu or cuda, not on mps: set model.device to cpu")
    return problems


def loop_problems(method: str, quantize: str, *, gradient_checkpointing: bool, sharding: str) -> list[str]:
    """What is impossible of a method (or auto) and a base with train.gradient_checkpointing and train.sharding."""
    facts = METHODS.get(method)
    problems = []
    if gradient_checkpointing and facts is not None and not facts.gradient_checkpointing:
        problems.append(
            f"{method} cannot recompute activations, which would leave out its keys and values: set "
            "train.gradient_checkpointing to false and train.tokens_per_batch lower"
        )
    if sharding == "full" and facts is not None and facts.is_soft_prompt:
        problems.append(f"{method} does not work with divided weights: set train.sharding to none")
    if sharding == "full" and quantize_of(method, quantize) != "none":
        problems.append("a quantised base cannot be divided: set train.sharding to none")
    return problems


def quantize_of(method: str, quantize: str) -> str:
    """What model.quantize stands for with a method: auto is nf4 for qlora, else none."""
    if quantize != "auto":
        return quantize
    return "nf4" if method in METHODS and METHODS[method].is_quantized else "none"
