"""The methods of training, as data: what each is, what can be done with its result, and its default rates.

Nothing here is taken on trust: tests/model/test_method_table.py probes every capability on tiny models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Rates = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What a method is and what its result is good for.

    rates: peak learning rate as (parameters of the whole model, rate), straight lines between the points on logarithmic
        axes, flat outside.
    weight_decay: AdamW's decay of matrices.
    is_adapter: trains parameters beside the base, which stays as it is.
    reads: the settings of the section `method` that mean something to it, besides its name.
    mergeable: what was trained can be put into the base's own weights; a whole model is there already.
    quantisable: can be trained on a base in 4 bits.
    gradient_checkpointing: activations can be recomputed; the gradient stays the same.
    packable: rows can be computed end to end.
    gguf: "whole", a model file of its own (an adapter is merged first); "adapter", also as a file beside the base's;
        "none", what was trained exists in PEFT alone.
    is_quantized: the base is, unasked.
    """

    title: str
    sentence: str
    source: str
    rates: Rates
    weight_decay: float
    is_adapter: bool
    reads: tuple[str, ...]
    mergeable: bool
    quantisable: bool
    gradient_checkpointing: bool
    packable: bool
    gguf: Literal["whole", "adapter", "none"]
    is_quantized: bool = False

    @property
    def has_rank(self) -> bool:
        """What trains is two matrices of method.r columns and rows."""
        return "r" in self.reads

    @property
    def is_soft_prompt(self) -> bool:
        """What trains stands before the text as virtual tokens."""
        return "num_virtual_tokens" in self.reads


_PLACES = ("target_modules", "layers", "modules_to_save")
_LORA = ("r", "alpha", "dropout", *_PLACES)
_TOKENS = ("num_virtual_tokens", "init_text")


# The large end is what the guides say: 2e-4 for LoRA, and 5e-5 falling to 1e-5 for full fine-tuning from GPT-2 (124 M)
# upwards. The small end of full is measured on builtin:nano and the sample workbook (docs/defaults.md: three seeds, 49
# test rows each, 18 passes): token F1 66 at 5e-4, 69 at 1e-3, 72 at 2e-3. The small end of LoRA is extrapolated.
_FULL_RATES: Rates = ((30e6, 2e-3), (100e6, 5e-5), (1e9, 1e-5))
_LORA_RATES: Rates = ((30e6, 2e-3), (1e9, 2e-4))

# The large end is PEFT's comparison's (method_comparison/MetaMathQA, a 3 B model). Prompt and prefix have no decay: it
# would pull what began as real tokens to 0. The small end is measured on builtin:nano and the sample workbook (a seed,
# 96 rows, 100 steps of 4, 20 virtual tokens; validation loss): prompt 5.38 at 1e-3, 5.29 at 3e-2, 5.31 at 1e-1; prefix
# 5.40 at 5e-3, 5.17 at 5e-2; P-tuning 5.35 at 1e-3, 5.33 at 1e-2.
_PROMPT_RATES: Rates = ((30e6, 3e-2), (1e9, 1e-3))
_PREFIX_RATES: Rates = ((30e6, 5e-2), (1e9, 5e-3))
_PTUNING_RATES: Rates = ((30e6, 1e-2), (1e9, 1e-3))

METHODS: Mapping[str, Method] = {
    "full": Method(
        title="full fine-tuning",
        sentence="Every weight trains: learns most from a file, needs most memory.",
        source="-",
        rates=_FULL_RATES,
        weight_decay=0.01,
        is_adapter=False,
        reads=(),
        mergeable=True,
        quantisable=False,
        gradient_checkpointing=True,
        packable=True,
        gguf="whole",
    ),
    "lora": Method(
        title="LoRA",
        sentence="Two thin matrices beside each linear layer; the update is multiplied by alpha / r.",
        source="arXiv:2106.09685",
        rates=_LORA_RATES,
        weight_decay=0.01,
        is_adapter=True,
        reads=_LORA,
        mergeable=True,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="adapter",
    ),
    "qlora": Method(
        title="QLoRA",
        sentence="LoRA beside a base held in 4 bits: a fraction of the memory, slower steps.",
        source="arXiv:2305.14314",
        rates=_LORA_RATES,
        weight_decay=0.01,
        is_adapter=True,
        reads=_LORA,
        mergeable=True,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="adapter",
        is_quantized=True,
    ),
    # PEFT's own comparison trains LoRA, rsLoRA and DoRA at one rate (method_comparison/MetaMathQA).
    "rslora": Method(
        title="rsLoRA",
        sentence="LoRA multiplied by alpha / sqrt(r), so that high ranks learn as fast as low ones.",
        source="arXiv:2312.03732",
        rates=_LORA_RATES,
        weight_decay=0.01,
        is_adapter=True,
        reads=_LORA,
        mergeable=True,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="adapter",
    ),
    "dora": Method(
        title="DoRA",
        sentence="LoRA for the direction of each weight and a vector for its length; slower.",
        source="arXiv:2402.09353",
        rates=_LORA_RATES,
        weight_decay=0.01,
        is_adapter=True,
        reads=_LORA,
        mergeable=True,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="whole",
    ),
    # Its authors train PiSSA and LoRA at one rate, and without decay: it would shrink the weights themselves.
    "pissa": Method(
        title="PiSSA",
        sentence="LoRA that starts from the strongest directions of the weights; saved as LoRA of twice the rank.",
        source="arXiv:2404.02948",
        rates=_LORA_RATES,
        weight_decay=0.0,
        is_adapter=True,
        reads=_LORA,
        mergeable=True,
        quantisable=False,
        gradient_checkpointing=True,
        packable=True,
        gguf="adapter",
    ),
    # PEFT's comparison takes 5e-3 without decay: it would pull the factors to 0, while 1 is what changes nothing.
    "ia3": Method(
        title="IA3",
        sentence="One factor per key, value and inner MLP channel: the fewest parameters.",
        source="arXiv:2205.05638",
        rates=((1e9, 5e-3),),
        weight_decay=0.0,
        is_adapter=True,
        reads=_PLACES,
        mergeable=True,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="whole",
    ),
    "prompt": Method(
        title="prompt tuning",
        sentence="Virtual tokens before the text, trained as embeddings: the smallest file.",
        source="arXiv:2104.08691",
        rates=_PROMPT_RATES,
        weight_decay=0.0,
        is_adapter=True,
        reads=_TOKENS,
        mergeable=False,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="none",
    ),
    "prefix": Method(
        title="prefix tuning",
        sentence="Virtual tokens before the text, trained as keys and values of every layer.",
        source="arXiv:2101.00190",
        rates=_PREFIX_RATES,
        weight_decay=0.0,
        is_adapter=True,
        reads=_TOKENS,
        mergeable=False,
        quantisable=True,
        gradient_checkpointing=False,
        packable=False,
        gguf="none",
    ),
    "ptuning": Method(
        title="P-tuning",
        sentence="Virtual tokens before the text, written by a small network that trains in their place.",
        source="arXiv:2103.10385",
        rates=_PTUNING_RATES,
        weight_decay=0.01,
        is_adapter=True,
        reads=("num_virtual_tokens", "encoder_hidden_size"),
        mergeable=False,
        quantisable=True,
        gradient_checkpointing=True,
        packable=True,
        gguf="none",
    ),
}


def settings_of(method: str) -> tuple[str, ...]:
    """The settings that a method reads; those of LoRA for auto, which becomes LoRA when one of them is given."""
    return METHODS["lora" if method == "auto" else method].reads


def parse_layers(text: str) -> tuple[int, ...]:
    """Numbers of decoder layers, counted from 0, ascending: "0-2,30" -> (0, 1, 2, 30).

    Raises:
        ValueError: something else is written, or a range goes backwards.
    """
    found: set[int] = set()
    for piece in text.split(","):
        numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if numbers is None:
            raise ValueError(f"{piece.strip()!r} is no layer and no range; write layers from 0 as in 0-7,24-31")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            raise ValueError(f"the range {first}-{last} goes backwards; write {last}-{first}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def is_pattern(name: str) -> bool:
    """Whether an entry of method.target_modules is a regular expression: no name of a layer has such characters."""
    return bool(set(name) & set("\\*+?[](){}|^$"))
