"""Every setting, written once: name, type, default, unit, one sentence, allowed range.

YAML keys, command-line flags, the settings page and validation are derived from these models. Defaults follow the
guides this project unites (LoRA r=16, alpha=32, 512 tokens); where the right value depends on the model or the data the
default is None or auto, and the run resolves it, says so and stores it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from tunesmith.config.continual import ContinualConfig
from tunesmith.config.data import DataConfig
from tunesmith.config.exporting import ExportConfig
from tunesmith.config.group_rates import rate_problems
from tunesmith.config.method_config import MethodConfig
from tunesmith.config.phases import Phase, highest_rate, phase_problems
from tunesmith.config.pretraining import PretrainConfig
from tunesmith.config.section import Section as _Section
from tunesmith.config.section import setting as _setting

CURRICULUM = ("curriculum_by", "curriculum_column", "curriculum_pacing", "curriculum_start", "curriculum_until")


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
    quantize: Literal["auto", "none", "nf4", "int8"] = _setting(
        "auto",
        "Format in which the frozen linear layers are held (extra qlora): nf4 is 4 bits with double quantisation, int8 "
        "is LLM.int8(); auto is nf4 for method qlora, else none.",
    )


class PromptConfig(_Section):
    """How messages become text."""

    template: str = _setting(
        "auto", "auto, chat (the tokenizer's own), qa, alpaca, plain, or text with {question} and {answer} in it."
    )
    system: str | None = _setting(
        None, "System prompt put before conversations that have none; unset, the one that every row of the data has."
    )
    train_on: Literal["answers", "all"] = _setting("answers", "Tokens that carry loss: the answers, or every token.")


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
    learning_rates: dict[str, float | str] = _setting(
        {},
        "Peak rates of groups of parameters, a number or times the learning rate: {lora_B: 16x, embeddings: 1e-5}; a "
        "group is embeddings, head, part of a parameter's path or a regular expression for all of it.",
    )
    order: Literal["random", "bucketed", "curriculum"] = _setting(
        "random",
        "Rows of a step: any; bucketed, of like length, which costs less where rows have to be padded; curriculum, the "
        "easy ones first.",
    )
    curriculum_by: Literal["length", "loss", "column"] | None = _setting(
        None, "What makes a row hard: its tokens, its loss before training, or a column; unset, length."
    )
    curriculum_column: str | None = _setting(
        None,
        "Column with the difficulty for curriculum_by column: numbers, or easy, medium, hard.",
        validate_default=True,
    )
    curriculum_pacing: Literal["linear", "root", "steps"] | None = _setting(
        None, "How harder rows come in: linear, root (more of them early) or steps (five at a time); unset, root."
    )
    curriculum_start: float | None = _setting(
        None, "Share of the rows, the easiest, that the run begins with; unset, 0.1.", gt=0, le=1
    )
    curriculum_until: float | None = _setting(
        None, "Share of the run after which all rows are drawn from; unset, 0.5.", gt=0, le=1
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
    native: Literal["auto", "on", "off"] = _setting(
        "auto",
        "Compute with kernels in C++, compiled on this machine at their first use; auto does in bfloat16 on a CPU with "
        "avx512_bf16.",
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
    save_total_limit: int = _setting(3, "Newest checkpoints kept; the best is kept besides.", ge=1)
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

    @field_validator(*CURRICULUM)
    @classmethod
    def _curriculum_fits(cls, value: Any, info: ValidationInfo) -> Any:
        order, by = info.data.get("order"), info.data.get("curriculum_by")
        if value is not None and order not in ("curriculum", None):
            raise ValueError(f"train.order is {order}: set it to curriculum, or leave this out")
        if info.field_name == "curriculum_column" and (by == "column") != (value is not None):
            raise ValueError(
                "train.curriculum_by is column: name the column here"
                if value is None
                else f"train.curriculum_by is {by or 'unset'}: set it to column, or leave this out"
            )
        return value

    @field_validator("learning_rates")
    @classmethod
    def _readable_rates(cls, rates: dict[str, float | str]) -> dict[str, float | str]:
        if problems := rate_problems(rates):
            raise ValueError("\n".join(problems))
        return rates

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

    def check_together(self) -> None:
        if self.sharding == "full" and self.optimizer != "adamw":
            raise ValueError(f"sharding full works with optimizer adamw, found {self.optimizer}")
        if self.sharding == "full" and self.curriculum_by == "loss":
            raise ValueError("sharding full and curriculum_by loss do not go together: the whole model scores the rows")


class EvalConfig(_Section):
    """The measurement after training."""

    batch_size: int = _setting(32, "Answers generated at once.", unit="rows", ge=1)
    max_rows: int | None = _setting(None, "Measure at most this many test rows.", unit="rows", ge=1)
    exclude_leaked: bool = _setting(
        False, "Score without the test rows that are also in the training data, the same or nearly."
    )
    suites: list[str] = _setting(
        [], "What else base and tuned are asked: general (a suite that ships), or task files of yours (yaml, jsonl)."
    )
    metrics: list[str] = _setting(
        ["auto"],
        "Scores, the first of which decides (docs/evaluation.md has them all); auto takes those that suit the "
        "data, and what checks and judge ask for.",
        min_length=1,
    )
    encoder: str = _setting(
        "auto",
        "Model of semantic_similarity: a local sentence-transformers folder; auto is that of the extra semantic.",
    )
    checks: dict[str, float | str | list[float | str]] = _setting(
        {},
        "What every answer has to pass, the share of which is a score: {regex: PATTERN}, contains, equals, number, "
        "json_schema (a file).",
    )
    judge: str | None = _setting(
        None, "Model that judges answers: ollama:NAME or http://HOST/v1#NAME; a key is taken from TUNESMITH_API_KEY."
    )
    judge_criteria: str | None = _setting(None, "What the judge is told to look at; unset, a text that ships.")
    judge_timeout: float = _setting(
        60.0, "Longest wait for one reply of the judge, times the requests at once.", unit="seconds", gt=0
    )
    requests: int = _setting(
        4, "Questions that a server is asked at once: the judge, or a model that is compared.", ge=1, le=256
    )


class GenerateConfig(_Section):
    """How answers are written by eval, chat and ask."""

    max_new_tokens: int = _setting(128, "Longest answer.", unit="tokens", ge=1)
    temperature: float = _setting(0.0, "0 always takes the likeliest token; higher is more varied.", ge=0, le=10)
    top_p: float = _setting(1.0, "Sample from the smallest set of tokens with this much probability.", gt=0, le=1)
    top_k: int = _setting(0, "Sample from this many likeliest tokens; 0 turns it off.", ge=0)
    repetition_penalty: float = _setting(1.0, "Divides the score of tokens already seen; 1 turns it off.", gt=0, le=10)
    stop: list[str] = _setting([], "Texts that end an answer, besides the model's own stop token.")


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
    export: ExportConfig = Field(default_factory=ExportConfig)
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

    def was_detected(self, name: str) -> bool:
        """Whether the program filled a dotted setting in, on the machine where the run was trained."""
        return self.origin(name).startswith("detected: ")

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
