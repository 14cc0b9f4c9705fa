"""Small runs of every mode of training that can be stopped anywhere and compared to the bit. MODES is the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import RunConfig, load_config, quantize_of
from tunesmith.data import ReplayPlan, RowPlan
from tunesmith.kernels.native import why_not_native
from tunesmith.model import Lanes, accelerated, apply_method, autocast, load_base
from tunesmith.runs import MetricsLog, Run
from tunesmith.train import fit, health, loop, resolve
from tunesmith.train.budget import MicroBatches
from tunesmith.train.checkpoint import Checkpoints, TrainingState, trainable_weights
from tunesmith.train.device import ALONE
from tunesmith.train.difficulty import curriculum_of, row_losses, stored_losses
from tunesmith.train.ewc import Ewc, diagonal_fisher
from tunesmith.train.observe import Event, Observer, log_metrics
from tunesmith.train.signals import PutOff, StopRequest
from tunesmith.types import Batch, Encoded

STEPS = 30
COMMON = {
    "method.name": "lora",
    "method.dropout": 0.0,
    "train.epochs": 1,
    "train.weight_decay": 0.01,
    "train.max_steps": STEPS,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 1,
    "train.tokens_per_batch": 20,
    "train.learning_rate": 1e-2,
    "train.eval_steps": 4,
    "train.save_steps": 7,
    "train.early_stopping_patience": None,
}
# name -> settings that differ from COMMON. A new mode of training is one more row.
MODES: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"method.name": "full", "train.learning_rate": 1e-3},
    "rslora": {"method.name": "rslora", "method.layers": "1"},
    "dora": {"method.name": "dora", "method.dropout": 0.3},
    "pissa": {"method.name": "pissa"},
    "ia3": {"method.name": "ia3"},
    "prompt": {"method.name": "prompt", "method.num_virtual_tokens": 3, "train.learning_rate": 3e-2},
    "prefix": {"method.name": "prefix", "method.num_virtual_tokens": 3, "train.learning_rate": 1e-3},
    "ptuning": {"method.name": "ptuning", "method.num_virtual_tokens": 3},
    "qlora": {"method.name": "qlora", "method.dropout": 0.3},
    "int8": {"model.quantize": "int8"},
    "rates of groups": {
        **{"method.modules_to_save": "both", "train.learning_rate": 1e-3},
        "train.learning_rates": {"lora_B": "16x", "embeddings": 1e-4, ".*lm_head.*": 2e-4},
    },
    "whole modules": {"method.modules_to_save": "both", "train.learning_rate": 1e-3},
    "dropout": {"method.dropout": 0.3},
    "accumulation": {"train.batch_size": 2, "train.gradient_accumulation_steps": 3},
    "cosine": {"train.schedule": "cosine", "train.min_lr_ratio": 0.1, "train.warmup_steps": 5},
    "linear": {"train.schedule": "linear", "train.min_lr_ratio": 0.2, "train.warmup_steps": 3},
    "constant": {"train.schedule": "constant", "train.warmup_steps": 0},
    "warmup_stable_decay": {"train.schedule": "warmup_stable_decay", "train.decay_ratio": 0.5},
    "polynomial": {"train.schedule": "polynomial", "train.power": 3, "train.warmup_steps": 2},
    "inverse_sqrt": {"train.schedule": "inverse_sqrt", "train.warmup_steps": 4},
    "phases": {
        "train.schedule": "phases",
        "train.learning_rate": None,
        "train.phases": [
            {"name": "exploration", "until": 0.3, "from": 2e-2, "to": 1e-2, "warmup": 0.4},
            {"name": "exploitation", "until": 0.8, "shape": "cosine", "from": 1e-2, "to": 1e-3},
            {"name": "refinement", "until": 1.0, "shape": "exponential", "from": 1e-3, "to": 1e-4},
        ],
    },
    "plateau": {"train.plateau_patience": 2, "train.plateau_factor": 0.7, "train.eval_steps": 2},
    "plateau on phases": {
        **{"train.plateau_patience": 1, "train.plateau_floor": 0.3, "train.eval_steps": 3},
        **{"train.schedule": "phases", "train.learning_rate": None},
        "train.phases": [
            {"name": "rise", "until": 0.5, "from": 1e-3, "to": 2e-2},
            {"name": "fall", "until": 1.0, "shape": "cosine", "from": 2e-2, "to": 1e-3},
        ],
    },
    "muon": {"method.name": "full", "train.optimizer": "muon", "train.learning_rate": 1e-3},
    "8 bit": {"method.name": "full", "train.optimizer": "adamw_8bit", "train.learning_rate": 1e-3},
    "bucketed": {"train.order": "bucketed"},
    "mixture": {"data.sets": [{"path": "a", "weight": 3}, "b", "c"], "data.temperature": 3},
    "bucketed mixture": {"train.order": "bucketed", "data.sets": ["a", {"path": "b", "weight": 5}]},
    "curriculum by length": {"train.order": "curriculum"},
    "curriculum by loss": {"train.order": "curriculum", "train.curriculum_by": "loss", "train.curriculum_start": 0.2},
    "curriculum by column": {
        **{"train.order": "curriculum", "train.curriculum_by": "column", "train.curriculum_column": "level"},
        **{"train.curriculum_pacing": "steps", "train.curriculum_until": 0.9},
    },
    "curriculum of a mixture": {
        **{"train.order": "curriculum", "train.curriculum_by": "loss", "train.curriculum_pacing": "linear"},
        **{"data.sets": ["a", "b"], "data.temperature": 2},
    },
    "one pass a step": {"train.tokens_per_batch": 1000, "method.dropout": 0.3},
    "replay": {"replay": 0.3},
    "EWC": {"ewc": 30.0, "method.dropout": 0.3},
    "EWC on all weights": {"ewc": 30.0, "method.name": "full", "train.learning_rate": 1e-3},
    "replay and EWC": {"replay": 0.5, "ewc": 30.0, "train.batch_size": 3},
    "side by side": {"train.tokens_per_batch": 40, "method.dropout": 0.3, "lanes": 2},
    "GPT-2 side by side": {
        **{"arch": "gpt2", "method.name": "full", "train.learning_rate": 1e-3},  # it drops in layers and in attention
        **{"train.tokens_per_batch": 40, "lanes": 2},
    },
    "recomputed": {"train.gradient_checkpointing": True, "method.dropout": 0.3},
    "early stopping": {"train.early_stopping_patience": 3, "train.eval_steps": 2},
    "all validations": {"train.eval_steps": 1, "train.save_steps": 1, "train.save_total_limit": 1},
    # the first bad step is skipped, the second sends the run back
    "back after NaN": {
        **{"bad_steps": (9, 19), "method.dropout": 0.3},
        **{"train.schedule": "constant", "train.warmup_steps": 0, "train.save_steps": 8},
    },
    # too much for any number: the scale has to come down first, and each time that it was raised again
    "scaled": {"loss_scale": 2.0**130},
    # rows are padded: all of them, and only those longer than the window
    "no packing": {"arch": "gpt_neo", "method.dropout": 0.3},
    "a sliding window": {"arch": "mistral, window 8", "method.dropout": 0.3},
    "native": {"native": True, "method.dropout": 0.3},
    "native, all weights": {"native": True, "method.name": "full", "train.learning_rate": 1e-3},
    "native side by side": {"native": True, "train.tokens_per_batch": 40, "method.dropout": 0.3, "lanes": 2},
}
# These take too long to be stopped at every step.
COMPILED_MODES: dict[str, dict[str, Any]] = {
    "compiled": {"compiled": True, "method.dropout": 0.3},
    "compiled GPT-2 side by side": {**MODES["GPT-2 side by side"], "compiled": True},
    "compiled, a sliding window": {**MODES["a sliding window"], "compiled": True},
    "compiled native": {**MODES["native"], "compiled": True},
}
# what the harness itself understands, besides settings
OWN = ("arch", "lanes", "replay", "ewc", "bad_steps", "compiled", "native", "loss_scale")
TIMING = ("seconds", "tokens_per_second")


def make_rows(seed: int, count: int = 21) -> list[Encoded]:
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(draw.integers(4, 14))
        rows.append(Encoded(draw.integers(4, 300, length), np.arange(length) >= length // 2, row=index + 2))
    return rows


class Harness:
    """Runs of one mode: the model is loaded once and set back to its first weights for every start."""

    def __init__(self, mode: str, model_dir: Callable[[str], Path]) -> None:
        overrides = {**COMMON, **(MODES | COMPILED_MODES)[mode]}
        folder = model_dir(overrides.pop("arch", "llama"))
        self.lanes = Lanes(overrides.pop("lanes", 1))
        share, self.strength = overrides.pop("replay", 0.0), overrides.pop("ewc", 0.0)
        self.bad_steps: tuple[int, ...] = overrides.pop("bad_steps", ())
        self.compiled: bool = overrides.pop("compiled", False)
        self.native: bool = overrides.pop("native", False)
        if self.native and (reason := why_not_native()):
            pytest.skip(f"no kernels in C++: {reason}")
        self.loss_scale: float = overrides.pop("loss_scale", 1.0)
        self.config: RunConfig = load_config(overrides=overrides)
        quantize = quantize_of(self.config.method.name, self.config.model.quantize)
        if quantize != "none" or self.config.train.optimizer == "adamw_8bit":
            pytest.importorskip("bitsandbytes")
        dtype = "bfloat16" if self.native else "float32"
        base = load_base(str(folder), dtype=dtype, device="cpu", quantize=quantize)
        self.autocast = partial(autocast, base.device, base.dtype)
        torch.manual_seed(0)
        recomputed = self.config.train.gradient_checkpointing
        self.model = apply_method(base.model, self.config.method, dtype=base.dtype, gradient_checkpointing=recomputed)
        self.first = {name: weight.clone() for name, weight in trainable_weights(self.model).items()}
        self.config = resolve.with_curriculum_settings(self.config)
        self.rows, self.held_out = make_rows(3), make_rows(4, 5)
        tasks = list(self.config.data.weights)
        if tasks:  # the first has most of the rows
            self.rows = [
                replace(row, task=tasks[max(0, index - len(self.rows) + len(tasks))])
                for index, row in enumerate(self.rows)
            ]
        self.rows = [replace(row, difficulty=row.row * 7 % 5) for row in self.rows]
        self.scored = 0
        self.old = make_rows(5, 8) if share or self.strength else []
        self.share = share
        self.fisher = diagonal_fisher(self.model, self.old, seed=0) if self.strength else {}

    def plan(self, folder: Path) -> RowPlan:
        """Made anew at every start, as a process does that knows nothing of the one before."""
        plan = resolve.plan_steps(self.config, self.rows)
        if self.share:
            return ReplayPlan(plan, len(self.old), self.share)
        if self.config.train.order != "curriculum":
            return plan

        def measure() -> list[float]:
            self.scored += 1
            sizes = MicroBatches(40, longest=20)
            return row_losses(self.model, self.rows, sizes=sizes, autocast=self.autocast, processes=ALONE)

        def losses() -> list[float]:
            return stored_losses(Run(folder), self.rows, measure, base="b", processes=ALONE)

        return plan.paced(curriculum_of(self.config.train, self.rows, losses))

    def start(
        self,
        folder: Path,
        *,
        stop_after: int | None = None,
        stop_in_validation: int | None = None,
        put_off: bool = False,
        stop_as: str | None = None,
    ) -> TrainingState:
        """From the checkpoints in `folder`, or from the beginning.

        stop_after, stop_in_validation: the step after which a signal arrives, at once or while it validates; put_off:
        the validation is left then. stop_as: the kind of event with which a signal arrives.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(self.first[name])
                parameter.grad = None
        # as a resumed run does: around the weights it began with, from the Fisher information in its folder
        self.penalty = Ewc(self.model, self.fisher, strength=self.strength) if self.strength else None
        folder.mkdir(exist_ok=True)
        stop, seen = StopRequest(), TrainingState()

        def observe(event: Event) -> None:
            seen.step = event.step
            if event.kind == stop_as or (event.kind == "train" and event.step == stop_after):
                stop.signal_number = 15

        def validate() -> float:
            if seen.step == stop_in_validation:
                stop.signal_number = 15
                if put_off:
                    raise PutOff
            return self.validation_loss()

        if self.compiled:
            torch._dynamo.reset()  # a process begins without compiled code
        with (
            accelerated(self.model, compiled=self.compiled, native=self.native, lanes=self.lanes),
            bad_at_the_full_rate(self.bad_steps, seen),
            scale_raised_often(self.loss_scale),
        ):
            return self.fit(folder, stop, validate, observe)

    def fit(self, folder: Path, stop: StopRequest, validate: Callable[[], float], observe: Observer) -> TrainingState:
        plan = self.plan(folder)
        settings = resolve.loop_settings(
            self.config, plan, self.model, autocast=self.autocast, loss_scale=self.loss_scale, penalty=self.penalty
        )
        return fit(
            self.model,
            [*self.rows, *self.old] if self.share else self.rows,
            plan=plan,
            settings=replace(settings, lanes=self.lanes),
            checkpoints=Checkpoints(
                folder / "checkpoints", identity={"data": "x"}, keep=self.config.train.save_total_limit
            ),
            validate=validate,
            observers=[log_metrics(MetricsLog(folder / "metrics.jsonl")), observe],
            stop=stop,
        )

    def validation_loss(self) -> float:
        """Depends on the weights, and falls and rises so that there is a best step in the middle."""
        size = sum(float(weight.double().abs().mean()) for weight in trainable_weights(self.model).values())
        start = sum(float(weight.double().abs().mean()) for weight in self.first.values())
        return abs((size - start) * 40 - 1)


@contextmanager
def bad_at_the_full_rate(steps: Sequence[int], seen: TrainingState) -> Iterator[None]:
    """Inside, the loss of these steps is NaN, unless the rate was lowered: nothing but the run's own state decides.

    seen: the step that was the last one told of.
    """
    optimizers: list[torch.optim.Optimizer] = []

    def build_optimizer(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
        optimizers.append(real_optimizer(*arguments, **options))
        return optimizers[0]

    def token_nll(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        loss = real_nll(model, batch)
        is_full = optimizers[0].param_groups[0]["lr"] == COMMON["train.learning_rate"]
        return loss * torch.nan if is_full and seen.step + 1 in steps else loss

    real_optimizer, real_nll = loop.build_optimizer, loop.token_nll
    with pytest.MonkeyPatch.context() as patch:
        if steps:
            patch.setattr(loop, "build_optimizer", build_optimizer)
            patch.setattr(loop, "token_nll", token_nll)
        yield


@contextmanager
def scale_raised_often(highest: float) -> Iterator[None]:
    """Inside, the scale of the loss is doubled after 5 steps that it fits, up to `highest`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "_STEPS_TO_RAISE", 5)
        patch.setattr(health, "_HIGHEST_SCALE", highest)
        yield


def contents(folder: Path, state: TrainingState) -> dict[str, Any]:
    """All that has to be equal: weights, optimizer, counters, log, best step and the checkpoints kept."""
    latest = folder / "checkpoints" / f"step-{state.step:06d}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = folder / "checkpoints" / f"step-{state.best_step or 0:06d}" / "weights.safetensors"
    counters = asdict(state)
    counters.pop("seconds")
    return {
        "weights": (latest / "weights.safetensors").read_bytes(),
        "optimizer": (latest / "optimizer.safetensors").read_bytes(),
        "best weights": best.read_bytes() if best.exists() else None,
        "state": counters,
        "metrics": [{name: value for name, value in line.items() if name not in TIMING} for line in lines],
    }


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    for name, value in left.items():
        assert value == right[name], f"{name} differ"


def stop_at_every_step(mode: str, one: Harness, whole: dict[str, Any], folder: Path) -> None:
    """One run, stopped and resumed after each of its steps, is the `whole` one."""
    state = TrainingState()
    for step in range(1, STEPS + 1):
        state = one.start(folder, stop_after=step)
        if state.stopped_early:
            break
        assert state.step == step
    state = one.start(folder)  # a stop at the last step puts the last validation off
    assert_equal(contents(folder, state), whole)
    assert whole["state"]["stopped_early"] == (mode == "early stopping")
    assert (whole["state"]["rate_factor"] < 1) == (mode.startswith("plateau") or one.bad_steps != ())
    assert whole["state"]["rollbacks"] == (mode == "back after NaN")
    assert whole["state"]["best_step"] < whole["state"]["step"]  # there was a choice to be made
    assert (whole["state"]["loss_scale"] is not None) == (mode == "scaled")
    pulled = [line["penalty"] for line in whole["metrics"] if line.get("penalty")]
    assert len(pulled) == (STEPS - 1 if "EWC" in mode else 0)  # at the first step nothing has moved
