"""What docs/evaluation.md says in numbers: the speed of writing answers, and how many rows show a given difference.

Usage: python -m bench.evaluate [--run RUN] [--models NAMES] [--rounds N] [--check]

Speed: the same prompts, greedy, answered in three ways that write the same. `nano` is builtin:nano tuned on the sample
workbook (with --run a run that is there already, else 60 steps are trained first) and asked its questions; `llama-135m`
is the shape of SmolLM-135M with random weights and prompts of 20 to 60 tokens. Random weights repeat themselves for
ever, so repetition is penalised and a token in 25 ends the answer: lengths then vary as those of answers do. Both
compute in float32, where the three ways write the same text, in one thread; what counts is processor time, so that
other programs on the machine do not. A round goes around all three, starting with another one each time; the table has
medians over rounds of the ratios within a round.

Power: comparisons of simulated models by `evaluate.paired.difference`, exactly as `tunesmith eval` and `compare` make
them. Results go to bench/evaluate.json, and from there between the markers of docs/evaluation.md; --check only compares
the two.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.worker import cpu_name
from bench.workload import END_ID, save_model
from tunesmith import api
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.evaluate.paired import difference, mean_of
from tunesmith.generate import Engine
from tunesmith.prompts import Template, render_prompt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "evaluate.json"
PAGE = ROOT / "docs" / "evaluation.md"
SAMPLE = ROOT / "examples" / "presscrafters_faq.xlsx"
# name -> rows, rows at once (as many as eval takes), longest answer in tokens
MODELS = {"nano": (200, 32, 64), "llama-135m": (128, 32, 64)}
GOALS = {"one by one": 4.0, "batches in file order": 2.0}
ROW_COUNTS = (25, 50, 100, 200, 400, 1000)
GAINS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
_FOUND = 0.8
_TRIALS = 200
_SEED = 7
_STOP_SHARE = 0.04  # of the vocabulary of random weights
_PENALTY = {"nano": 1.0, "llama-135m": 1.5}

Ids = Sequence[int]
Texts = list[tuple[int, ...]]


@dataclass(frozen=True)
class Settings:
    """batch: rows at once. longest: tokens of an answer. penalty: of repetition, 1 for none."""

    batch: int
    longest: int
    penalty: float


Writer = Callable[[Engine, Sequence[Ids], Settings], Texts]


def ours(engine: Engine, prompts: Sequence[Ids], settings: Settings) -> Texts:
    """`Engine.generate_ids`, as eval calls it."""
    overrides = {"max_new_tokens": settings.longest, "repetition_penalty": settings.penalty}
    found = engine.generate_ids(prompts, load_config(overrides=overrides).generate, batch_size=settings.batch)
    return [answer.token_ids for answer in found]


def one_by_one(engine: Engine, prompts: Sequence[Ids], settings: Settings) -> Texts:
    """The loop of most scripts: transformers' generate for each row."""
    return [_written(engine, [prompt], settings)[0] for prompt in prompts]


def in_file_order(engine: Engine, prompts: Sequence[Ids], settings: Settings) -> Texts:
    """transformers' generate for batches of rows in the order of the file, padded on the left."""
    parts = (prompts[start : start + settings.batch] for start in range(0, len(prompts), settings.batch))
    return [answer for part in parts for answer in _written(engine, part, settings)]


WRITERS: dict[str, Writer] = {"ours": ours, "one by one": one_by_one, "batches in file order": in_file_order}


def _written(engine: Engine, prompts: Sequence[Ids], settings: Settings) -> Texts:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    stop = list(engine.template.stop_ids)
    model: Any = engine.model
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=settings.longest,
            repetition_penalty=settings.penalty,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
    answers = []
    for row in found[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in stop), len(row))
        answers.append(tuple(row[:end]))
    return answers


@contextmanager
def opened(name: str, run: str | None, rows: int) -> Iterator[tuple[Engine, list[list[int]]]]:
    """The model of a name, ready to answer, and its prompts."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "nano":
            asked = prepare(load_config(overrides={"data.path": str(SAMPLE)}))
            examples = [*asked.train, *asked.validation, *asked.test][:rows]
            # In bfloat16 nearly equal tokens change places with the size of the batch, in every one of the three ways.
            session = api.open_session(run or _tuned(Path(folder)), {"model.dtype": "float32"})
            with session.engine() as engine:
                prompts = [render_prompt(example.prompt, engine.template, engine.tokenizer) for example in examples]
                yield engine, [list(prompt) for prompt in prompts]
            return
        from transformers import AutoModelForCausalLM, AutoTokenizer

        save_model(name, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder)
        random = np.random.default_rng(_SEED)
        vocabulary = model.config.vocab_size
        stops = random.choice(vocabulary, size=round(_STOP_SHARE * vocabulary), replace=False).tolist()
        template = Template("none", "", stop_ids=(END_ID, *stops), stop_id=END_ID)
        lengths = random.integers(20, 61, size=rows)
        prompts = [random.integers(3, vocabulary, size=length).tolist() for length in lengths]
        yield Engine(model, AutoTokenizer.from_pretrained(folder), template), prompts


def _tuned(folder: Path) -> str:
    settings = {"data.path": str(SAMPLE), "method.name": "lora", "train.max_steps": 60, "train.batch_size": 8}
    api.train(load_config(overrides={**settings, "output_dir": str(folder / "run")}))
    return str(folder / "run")


def measure_speed(name: str, run: str | None, rounds: int) -> dict[str, Any]:
    """Rows a second of each writer, and how many of its answers are ours to the last token."""
    rows, batch, longest = MODELS[name]
    settings = Settings(batch, longest, _PENALTY[name])
    seconds: dict[str, list[float]] = {writer: [] for writer in WRITERS}
    answers: dict[str, Texts] = {}
    with opened(name, run, rows) as (engine, prompts):
        for write in WRITERS.values():
            write(engine, prompts[:2], settings)  # what is made once is not measured
        for turn in range(rounds):
            names = list(WRITERS)
            for writer in names[turn % 3 :] + names[: turn % 3]:
                started = time.process_time()
                answers[writer] = WRITERS[writer](engine, prompts, settings)
                seconds[writer].append(time.process_time() - started)
                print(f"{name}, round {turn + 1}, {writer}: {rows / seconds[writer][-1]:.2f} rows/s", flush=True)
    return {
        "rows": rows,
        "batch": batch,
        "longest_tokens": longest,
        "tokens": sum(map(len, answers["ours"])),
        "prompt_tokens": sum(map(len, prompts)),
        "rounds": rounds,
        "writers": {
            writer: {
                "rows_per_second": rows / median(seconds[writer]),
                "ours_is_faster": median(
                    other / own for other, own in zip(seconds[writer], seconds["ours"], strict=True)
                ),
                "rounds": [rows / one for one in seconds[writer]],
                "same_text": sum(a == b for a, b in zip(answers[writer], answers["ours"], strict=True)) / rows,
            }
            for writer in WRITERS
        },
    }


def smallest_found(rows: int) -> float | None:
    """The smallest of GAINS that at least 80 % of comparisons of so many rows call better; None when none is."""
    return next((gain for gain in GAINS if _share_found(rows, gain) >= _FOUND), None)


def _share_found(rows: int, gain: float) -> float:
    """Rows are right or wrong, some harder than others for both models; then `gain` of all rows turns right."""
    generator = np.random.default_rng([rows, round(gain * 1000)])
    found = 0
    for trial in range(_TRIALS):
        difficulty = generator.beta(0.8, 0.8, size=rows)
        before, after = ((generator.random(rows) < difficulty).astype(float) for _ in range(2))
        wrong = generator.permutation(np.flatnonzero(after == 0))
        after[wrong[: round(gain * rows)]] = 1.0
        found += difference(mean_of(before), mean_of(after), seed=trial, resamples=500).verdict == "better"
    return found / _TRIALS


def speed_table(found: dict[str, Any]) -> str:
    """Of each model a line for each way; the goals, and whether they were met."""
    lines = [
        "| model | written by | rows/s | ours is faster | same text | goal |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, one in found["models"].items():
        for writer, of in one["writers"].items():
            ratio, goal = "", ""
            if writer in GOALS:
                ratio = f"{of['ours_is_faster']:.1f} x"
                is_met = of["ours_is_faster"] >= GOALS[writer]
                goal = f"{GOALS[writer]:g} x: {'met' if is_met else 'missed'}"
            lines.append(
                f"| {name} | {writer} | {of['rows_per_second']:.2f} | {ratio} | {of['same_text']:.0%} | {goal} |"
            )
    about = [
        f"{name}: {one['rows']} rows, {one['batch']} at once, {one['tokens'] / one['rows']:.0f} tokens an answer and "
        f"at most {one['longest_tokens']}, prompts of {one['prompt_tokens'] / one['rows']:.0f} tokens, median of "
        f"{one['rounds']} round{'s' if one['rounds'] > 1 else ''}"
        for name, one in found["models"].items()
    ]
    machine = (
        f"Measured with `python -m bench.evaluate` on {found['machine']}: seconds are processor time of one thread."
    )
    return "\n".join([*lines, "", f"{machine} {'; '.join(about)}."])


def power_table(found: dict[str, float | None]) -> str:
    lines = ["| test rows | smallest gain that is usually found |", "| ---: | ---: |"]
    for rows, gain in found.items():
        lines.append(
            f"| {rows} | {'more than ' + str(round(GAINS[-1] * 100)) if gain is None else round(gain * 100)} points |"
        )
    return "\n".join(lines)


def page_of(found: dict[str, Any], text: str) -> str:
    """The page with the tables of `found` between its markers."""
    for name, table in (("speed", speed_table(found["speed"])), ("power", power_table(found["power"]))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run tuned on the sample workbook")
    parser.add_argument("--models", default=",".join(MODELS), help="which speeds to measure; others stay as they are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="only compare the page with bench/evaluate.json")
    chosen = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if chosen.check:
        is_same = page_of(found, PAGE.read_text("utf-8")) == PAGE.read_text("utf-8")
        print(
            "" if is_same else f"{PAGE} does not agree with {RESULTS}; run: python -m bench.evaluate", file=sys.stderr
        )
        return 0 if is_same else 1
    torch.set_num_threads(1)  # of several threads, those that wait for each other would count as working
    speed = found.setdefault("speed", {"models": {}})
    speed["machine"] = f"{platform.system()} {platform.machine()}, {cpu_name()}"
    for name in filter(None, chosen.models.split(",")):
        speed["models"][name] = measure_speed(name, chosen.run, chosen.rounds)
    if "power" not in found:
        found["power"] = {str(rows): smallest_found(rows) for rows in ROW_COUNTS}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page_of(found, PAGE.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
