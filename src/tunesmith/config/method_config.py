"""The section `method` of the schema, and what of it does not go together with other sections."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from tunesmith.config.methods import METHODS, is_pattern, parse_layers
from tunesmith.config.section import Section as _Section
from tunesmith.config.section import setting as _setting

_SOFT_PROMPT_SETTINGS = {
    "num_virtual_tokens": ("prompt", "prefix", "ptuning"),
    "init_text": ("prompt", "prefix"),
    "encoder_hidden_size": ("ptuning",),
}


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
            try:
                re.compile(name if is_pattern(name) else "")
            except re.error as error:
                raise ValueError(f"{name!r} is no regular expression: {error}") from error
        return wanted

    @model_validator(mode="after")
    def _settings_are_of_the_method(self) -> MethodConfig:
        problems = []
        is_soft = self.name in METHODS and METHODS[self.name].is_soft_prompt
        if self.name == "full" and self.places:
            problems.append(
                f"full trains every weight, and {' and '.join(self.places)} choose where an adapter goes; "
                "leave them out or take an adapter method such as lora"
            )
        if is_soft and self.places:
            problems.append(
                f"{self.name} puts virtual tokens before the text and nothing into the layers; leave out "
                f"{' and '.join(self.places)}, or take an adapter method such as lora"
            )
        for setting, methods in _SOFT_PROMPT_SETTINGS.items():
            if getattr(self, setting) != type(self).model_fields[setting].default and self.name not in methods:
                problems.append(
                    f"{self.name} has no {setting}: leave it out, or set method.name to {' or '.join(methods)}"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def places(self) -> list[str]:
        """The settings given that choose where an adapter goes."""
        given = {
            "target_modules": self.target_modules not in ("auto", "all"),
            "layers": self.layers is not None,
            "modules_to_save": self.modules_to_save != "none",
        }
        return [f"method.{name}" for name, is_given in given.items() if is_given]


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
