"""What docs/evaluation.md says in numbers: the speed of writing answers, and how many rows show a given difference.

Usage: python -m bench.evaluate [--threads N] [--rows N] [--rounds N]

Speed: the questions of the sample workbook, asked of builtin:nano, greedy, by three ways to write the same answers. A
round goes around all three, starting with another one each time; the table has medians. Power: comparisons of simulated
models by `evaluate.paired.difference`, exactly as `tunesmith eval` and `compare` make them. Results go to
bench/evaluate.json, and from there between the markers of docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from tunesmith.api import open_session
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.evaluate.paired import difference, mean_of
from tunesmith.generate import Engine
from tunesmith.prompts import render_prompt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "evaluate.json"
PAGE = ROOT / "docs" / "evaluation.md"
BATCH, LONGEST = 32, 64
ROW_COUNTS = (25, 50, 100, 200, 400, 1000)
GAINS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
_FOUND = 0.8
_TRIALS = 200

Writer = Callable[[Engine, Sequence[Sequence[int]]], list[str]]


def ours(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[str]:
    """`Engine.generate_ids`, as eval calls it."""
    settings = load_config(overrides={"max_new_tokens": LONGEST}).generate
    return [answer.text for answer in engine.generate_ids(prompts, settings, batch_size=BATCH)]


def one_by_one(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[str]:
    """The loop of most scripts: transformers' generate for each row."""
    return [_written(engine, [prompt])[0] for prompt in prompts]


def in_file_order(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[str]:
    """transformers' generate for batches of rows in the order of the file, padded on the left."""
    parts = (prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH))
    return [text for part in parts for text in _written(engine, part)]


WRITERS: dict[str, Writer] = {"ours": ours, "one by one": one_by_one, "batches in file order": in_file_order}


def _written(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[str]:
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
            max_new_tokens=LONGEST,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
    answers = []
    for row in found[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in stop), len(row))
        answers.append(str(engine.tokenizer.decode(row[:end], skip_special_tokens=True)).strip())
    return answers


def measure_speed(rows: int, rounds: int) -> dict[str, Any]:
    """Rows a second of each writer, and how many of its answers are ours to the letter."""
    sample = ROOT / "examples" / "presscrafters_faq.xlsx"
    prepared = prepare(load_config(overrides={"data.path": str(sample)}))
    asked = [*prepared.train, *prepared.validation, *prepared.test][:rows]
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    texts: dict[str, list[str]] = {}
    with open_session("builtin:nano").engine() as engine:
        prompts = [render_prompt(example.prompt, engine.template, engine.tokenizer) for example in asked]
        for turn in range(rounds):
            names = list(WRITERS)
            for name in names[turn % 3 :] + names[: turn % 3]:
                started = time.perf_counter()
                texts[name] = WRITERS[name](engine, prompts)
                seconds[name].append(time.perf_counter() - started)
                print(f"round {turn + 1}, {name}: {len(prompts) / seconds[name][-1]:.1f} rows/s", flush=True)
    return {
        "rows": len(prompts),
        "rounds": rounds,
        "writers": {
            name: {
                "rows_per_second": len(prompts) / median(seconds[name]),
                "ours_is_faster": median(
                    other / own for other, own in zip(seconds[name], seconds["ours"], strict=True)
                ),
                "same_text": sum(a == b for a, b in zip(texts[name], texts["ours"], strict=True)) / len(prompts),
            }
            for name in WRITERS
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
    lines = [
        f"| {found['rows']} questions, builtin:nano, at most {LONGEST} tokens | rows/s | ours is faster | same text |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, writer in found["writers"].items():
        ratio = "" if name == "ours" else f"{writer['ours_is_faster']:.1f} x"
        lines.append(f"| {name} | {writer['rows_per_second']:.1f} | {ratio} | {writer['same_text']:.0%} |")
    return "\n".join(lines)


def power_table(found: dict[str, float | None]) -> str:
    lines = ["| test rows | smallest gain that is usually found |", "| ---: | ---: |"]
    for rows, gain in found.items():
        lines.append(
            f"| {rows} | {'more than ' + str(round(GAINS[-1] * 100)) if gain is None else round(gain * 100)} points |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: all cores")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    found = {
        "speed": {**measure_speed(chosen.rows, chosen.rounds), "threads": torch.get_num_threads()},
        "power": {str(rows): smallest_found(rows) for rows in ROW_COUNTS},
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("speed", speed_table(found["speed"])), ("power", power_table(found["power"]))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
