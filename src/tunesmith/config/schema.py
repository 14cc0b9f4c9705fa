"""Every setting, written once: name, type, default, unit, one sentence, allowed range.

YAML keys, command-line flags, the settings page and validation are derived from these models. Defaults follow the
guides this project unites (LoRA r=16, alpha=32, 512 tokens); where the right value depends on the model or the data the
default is None or auto, and the run resolves it, says so and stores it.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from tunesmith.config.continual import ContinualConfig
from tunesmith.config.methods import is_pattern, parse_layers
from tunesmith.config.phases import Phase, highest_rate, phase_problems
from tunesmith.config.section import Section as _Section
from tunesmith.config.section import setting as _setting


class ModelConfig(_Section):
    """Which model, in which number format, on which device."""

    path: str = _setting("builtin:nano", "Base model: a local folder, a hub id such as org/name, or builtin:nano.")
    revision: str | None = _setting(None, "Branch, tag or commit of a hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "Number format of the computation; auto takes bfloat16 where the machine is fast at it."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _setting(
        "auto", "Where to compute; auto takes CUDA, MPS, then CPU."
    )


class SplitConfig(_Section):
    """Shares of the rows that go to training, validation and test."""

    train: float = _setting(0.8, "Share of rows to train on.", gt=0, le=1)
    validation: float = _setting(0.1, "Share of rows that choose the best checkpoint.", ge=0, lt=1)
    test: float = _setting(0.1, "Share of rows kept for the final measurement.", ge=0, lt=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self


class DataConfig(_Section):
    """Which rows, how they are read and divided."""

    path: str | None = _setting(None, "Training file: xlsx, csv, tsv, json, jsonl, parquet or txt.")
    validation_path: str | None = _setting(None, "Separate validation file; without it rows are split off.")
    test_path: str | None = _setting(None, "Separate test file; without it rows are split off.")
    format: Literal["auto", "xlsx", "csv", "tsv", "json", "jsonl", "parquet", "txt"] = _setting(
        "auto", "File format; auto goes by name and content."
    )
    sheet: str | None = _setting(None, "Worksheet of a workbook; without it every visible sheet with rows is read.")
    delimiter: str | None = _setting(
        None, "Column delimiter of csv and tsv; detected when unset.", min_length=1, max_length=1
    )
    encoding: str | None = _setting(None, "Text encoding such as utf-8 or cp1252; detected when unset.")
    shape: Literal["auto", "qa", "instruction", "prompt", "messages", "sharegpt", "text", "label"] = _setting(
        "auto", "What a row is; auto scores every shape and says why it chose one."
    )
    columns: dict[str, str] = _setting(
        {}, "Column for each part when detection is wrong, such as {question: Frage, answer: Antwort}."
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="Shares of the split.")
    drop_duplicates: bool = _setting(True, "Drop rows that repeat an earlier row exactly, after whitespace is tidied.")
    max_rows: int | None = _setting(None, "Use at most this many rows, drawn with the seed.", unit="rows", ge=1)
    max_length: int = _setting(512, "Longest example; longer ones follow data.truncation.", unit="tokens", ge=8)
    truncation: Literal["prompt", "drop", "answer", "error"] = _setting(
        "prompt",
        "Over-long example: prompt shortens the question and keeps the answer whole, drop leaves the row out, "
        "answer cuts its end (the stop token stays), error refuses.",
    )


class PromptConfig(_Section):
    """How messages become text."""

    template: str = _setting(
        "auto", "auto, chat (the tokenizer's own), qa, alpaca, plain, or text with {question} and {answer} in it."
    )
    system: str | None = _setting(None, "System prompt put before conversations that have none.")
    train_on: Literal["answers", "all"] = _setting("answers", "Tokens that carry loss: the answers, or every token.")


class MethodConfig(_Section):
    """What is trained."""

    name: Literal["auto", "full", "lora", "rslora", "dora", "pissa", "ia3"] = _setting(
        "auto",
        "full trains every weight, the others small adapters (tunesmith methods); auto takes full where the model is "
        "small enough, else lora.",
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
    def _places_are_for_adapters(self) -> MethodConfig:
        if self.name == "full" and self.places:
            raise ValueError(
                f"full trains every weight, and {' and '.join(self.places)} choose where an adapter goes; "
                "leave them out or take an adapter method such as lora"
            )
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


class TrainConfig(_Section):
    """The loop."""

    epochs: float | None = _setting(
        None,
        "Passes over the training rows; unset, by the size of the model and of the data.",
        unit="epochs",
        gt=0,
    )
    max_steps: int | None = _setting(
        None, "Stop after this many optimizer steps whatever the epochs.", unit="steps", ge=1
    )
    batch_size: int = _setting(
        4, "An optimizer step takes batch_size x gradient_accumulation_steps rows.", unit="rows", ge=1
    )
    gradient_accumulation_steps: int = _setting(4, "See batch_size; tokens_per_batch decides the memory.", ge=1)
    tokens_per_batch: int | None = _setting(
        None,
        "Most tokens of one forward pass, found for the machine when unset. The rows of a step, and so the result, "
        "do not depend on it.",
        unit="tokens",
        ge=1,
    )
    learning_rate: float | None = _setting(
        None, "Peak learning rate; unset, it is chosen from the method and the size of the model.", gt=0, le=1
    )
    order: Literal["random", "bucketed"] = _setting(
        "random", "Rows of a step: any, or of like length, which costs less where rows have to be padded."
    )
    schedule: Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "warmup_stable_decay", "phases"] = (
        _setting("cosine", "Shape of the rate after warm-up; phases is the list in train.phases.")
    )
    power: float = _setting(2.0, "Exponent of schedule polynomial; 1 is linear.", gt=0)
    min_lr_ratio: float = _setting(0.0, "Where a falling rate ends, as a share of the peak.", ge=0, le=1)
    decay_ratio: float = _setting(
        0.2, "Share of the steps after warm-up in which warmup_stable_decay falls.", gt=0, le=1
    )
    warmup_steps: int | None = _setting(None, "Steps of linear warm-up; overrides warmup_ratio.", unit="steps", ge=0)
    warmup_ratio: float = _setting(
        0.05, "Share of all steps spent warming up; phases have a warmup of their own.", ge=0, lt=1
    )
    phases: list[Phase] = _setting(
        [],
        "Parts of the run for schedule phases, in order: until (share of the run), shape (linear, cosine, exponential, "
        "constant), from and to (rates), warmup (share of the phase).",
        validate_default=True,
    )
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = _setting(
        "adamw",
        "adamw_8bit keeps its moments in 8 bits (extra qlora); muon orthogonalises the updates of matrices, which pays "
        "in pre-training.",
    )
    weight_decay: float | None = _setting(
        None, "Decay of matrices (norms and biases have none); unset, by what is trained.", ge=0
    )
    beta1: float = _setting(0.9, "AdamW first-moment decay.", ge=0, lt=1)
    beta2: float = _setting(0.999, "AdamW second-moment decay.", ge=0, lt=1)
    max_grad_norm: float = _setting(1.0, "Gradient norm above which gradients are scaled down; 0 turns it off.", ge=0)
    compile: Literal["auto", "on", "off"] = _setting(
        "auto", "Compile the decoder layers; auto does when the run is long enough to repay it."
    )
    gradient_checkpointing: bool = _setting(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    sharding: Literal["none", "full"] = _setting(
        "none",
        "How several processes (torchrun) hold the model: none, each has all of it; full, each a part of every weight "
        "(FSDP2), for models that do not fit.",
    )
    eval_steps: int | None = _setting(None, "Steps between validations; unset, about ten in a run.", unit="steps", ge=1)
    save_steps: int | None = _setting(
        None, "Steps between checkpoints; unset, the same as eval_steps.", unit="steps", ge=1
    )
    save_total_limit: int = _setting(3, "Checkpoints kept; the newest and the best are always among them.", ge=1)
    early_stopping_patience: int | None = _setting(
        5, "Validations without improvement before stopping; null never stops early.", ge=1
    )
    early_stopping_threshold: float = _setting(
        0.0, "Smallest fall of the validation loss that counts.", unit="nats", ge=0
    )
    plateau_patience: int | None = _setting(
        None,
        "Validations in a row without a gain over early_stopping_threshold before the rate is lowered, and lowered "
        "again; null never lowers it.",
        ge=1,
    )
    plateau_factor: float = _setting(0.5, "What a plateau multiplies the rate of the schedule by.", gt=0, lt=1)
    plateau_floor: float = _setting(0.0, "Share of the schedule's rate that plateaus go no lower than.", ge=0, lt=1)
    keep_best: bool = _setting(True, "Save the weights of the best validation instead of the last step.")

    @field_validator("phases")
    @classmethod
    def _phases_fit(cls, phases: list[Phase], info: ValidationInfo) -> list[Phase]:
        # a validator of the field and not of the section, so that its problems are told with those of other settings
        problems = phase_problems(phases)
        schedule, rate, warmup = (info.data.get(name) for name in ("schedule", "learning_rate", "warmup_steps"))
        if schedule == "phases" and not phases:
            problems.append("schedule is phases and there are none: list them, or take the recipe three-phases")
        if phases and schedule not in ("phases", None):
            problems.append(f"schedule is {schedule}: set train.schedule to phases, or train.phases to []")
        if schedule == "phases" and phases and rate not in (None, highest_rate(phases)):
            problems.append(f"phases bring their own rates: leave out train.learning_rate, found {rate:g}")
        if schedule == "phases" and warmup is not None:
            problems.append(f"phases bring their own warmup: leave out train.warmup_steps, found {warmup}")
        if problems:
            raise ValueError("\n".join(problems))
        return phases

    @field_validator("plateau_patience")
    @classmethod
    def _plateau_comes_before_the_stop(cls, patience: int | None, info: ValidationInfo) -> int | None:
        stop = info.data.get("early_stopping_patience")
        if patience is not None and stop is not None and patience >= stop:
            raise ValueError(
                f"the run would stop before: train.early_stopping_patience is {stop}, raise it above {patience} or set "
                "it to null"
            )
        return patience

    @model_validator(mode="after")
    def _optimizer_can_be_divided(self) -> TrainConfig:
        if self.sharding == "full" and self.optimizer != "adamw":
            raise ValueError(f"sharding full works with optimizer adamw, found {self.optimizer}")
        return self


class EvalConfig(_Section):
    """The measurement after training."""

    batch_size: int = _setting(32, "Answers generated at once.", unit="rows", ge=1)
    max_rows: int | None = _setting(None, "Measure at most this many test rows.", unit="rows", ge=1)


class GenerateConfig(_Section):
    """How answers are written by eval, chat and ask."""

    max_new_tokens: int = _setting(128, "Longest answer.", unit="tokens", ge=1)
    temperature: float = _setting(0.0, "0 always takes the likeliest token; higher is more varied.", ge=0, le=10)
    top_p: float = _setting(1.0, "Sample from the smallest set of tokens with this much probability.", gt=0, le=1)
    top_k: int = _setting(0, "Sample from this many likeliest tokens; 0 turns it off.", ge=0)
    repetition_penalty: float = _setting(1.0, "Divides the score of tokens already seen; 1 turns it off.", gt=0, le=10)
    stop: list[str] = _setting([], "Texts that end an answer, besides the model's own stop token.")


class PretrainConfig(_Section):
    """A model from scratch (`tunesmith pretrain`): its texts, its vocabulary and its shape."""

    documents: list[str] = _setting([], "Text files or patterns: txt, or jsonl(.gz) with a text field.")
    qa: list[str] = _setting([], "Question/answer files or patterns: jsonl(.gz), rendered as chat.")
    qa_repeats: int = _setting(1, "Times each question/answer pair is seen in an epoch.", ge=1)
    holdout: float = _setting(0.01, "Share of documents never trained on, to measure bits per byte.", gt=0, lt=0.5)
    vocab_size: int = _setting(8192, "Size of the byte-level BPE vocabulary.", unit="tokens", ge=300)
    context: int = _setting(1024, "Longest sequence the model is trained on.", unit="tokens", ge=16)
    hidden_size: int = _setting(512, "Width of the model.", ge=16)
    intermediate_size: int = _setting(1024, "Width of the MLP.", ge=16)
    layers: int = _setting(5, "Transformer layers.", ge=1)
    heads: int = _setting(8, "Attention heads; hidden_size must be a multiple.", ge=1)
    kv_heads: int = _setting(2, "Key/value heads (grouped-query attention); heads must be a multiple.", ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> PretrainConfig:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}, "
                f"and heads of kv_heads {self.kv_heads}"
            )
        return self


class RunConfig(_Section):
    """All settings of a run. `origin(name)` tells where each value came from."""

    name: str | None = _setting(
        None, "Name of the run; unset, it is the file's name with a number.", pattern=r"^[\w][\w.-]*$"
    )
    output_dir: str | None = _setting(None, "Folder of this run; unset, runs/<name>.")
    seed: int = _setting(42, "Seed of the split, the order, dropout and sampling.", ge=0, lt=2**32)
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    continual: ContinualConfig = Field(default_factory=ContinualConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    generate: GenerateConfig = Field(default_factory=GenerateConfig)
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and ".." in name:
            raise ValueError("a run's name cannot contain '..'")
        return name

    def origin(self, name: str) -> str:
        """Where the value of a dotted setting came from: default, recipe, a file, a flag, or why it was detected."""
        return self._origins.get(name, "default")

    @property
    def origins(self) -> dict[str, str]:
        """Origins of every value that is not a default."""
        return dict(self._origins)

    def set_origins(self, origins: dict[str, str]) -> None:
        """Replace the record of origins, as when a stored run is read back."""
        self._origins = dict(origins)

    def resolved(self, name: str, value: object, reason: str) -> RunConfig:
        """A copy with one dotted setting filled in by the program; `reason` becomes its origin."""
        return self.replaced(name, value, f"detected: {reason}")

    def replaced(self, name: str, value: object, origin: str) -> RunConfig:
        """A copy with another value of one dotted setting, and where that came from."""
        copy = self.model_copy(deep=True)
        section: Any = copy
        *path, leaf = name.split(".")
        for part in path:
            section = getattr(section, part)
        setattr(section, leaf, value)
        copy._origins[name] = origin
        return copy
