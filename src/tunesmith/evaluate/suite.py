"""What a model can do besides its own task: one suite of questions, before and after tuning.

choices        share of items whose right answer is likelier than each wrong one, by nats per byte of the answer, so
               that its length does not decide (as acc_norm of the Language Model Evaluation Harness, Gao et al. 2021,
               doi:10.5281/zenodo.5371628). Has a signal long before a model answers in words; chance is 1 in 4 with
               three wrong answers
written        share of items whose written answer passes the item's check
bits_per_byte  of the right answers; moves even where no answer changes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data import encode
from tunesmith.errors import DataError
from tunesmith.evaluate.evaluators import bits_per_byte_of
from tunesmith.evaluate.likelihood import row_nll
from tunesmith.evaluate.paired import Difference, Sums, difference, mean_of
from tunesmith.evaluate.suite_file import Item
from tunesmith.types import Example, Message

if TYPE_CHECKING:
    from tunesmith.config import GenerateConfig
    from tunesmith.generate import Engine


@dataclass(frozen=True, slots=True)
class SuiteScores:
    """One model on one suite.

    scores: choices (of the items that have wrong answers), written, bits_per_byte.
    rows: a dict for each item: kind, question, answer, chosen (None without wrong answers), prediction, is_right.
    """

    scores: dict[str, Sums]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SuiteComparison:
    """Base and tuned on one suite."""

    name: str
    base: SuiteScores
    tuned: SuiteScores
    seed: int = 0

    @property
    def changes(self) -> dict[str, Difference]:
        """What tuning changed, by score."""
        return {
            name: difference(before, self.tuned.scores[name], seed=self.seed)
            for name, before in self.base.scores.items()
        }

    @property
    def kinds(self) -> dict[str, dict[str, tuple[float, float]]]:
        """(base, tuned) of choices and written for each kind of item, in the order of the suite."""
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for kind in dict.fromkeys(row["kind"] for row in self.base.rows if row["kind"]):
            pairs = [pair for pair in zip(self.base.rows, self.tuned.rows, strict=True) if pair[0]["kind"] == kind]
            shares = {"written": [(row["is_right"], other["is_right"]) for row, other in pairs]}
            chosen = [
                (row["chosen"] == row["answer"], other["chosen"] == other["answer"])
                for row, other in pairs
                if row["chosen"] is not None
            ]
            shares = {"choices": chosen, **shares} if chosen else shares
            found[kind] = {
                name: (math.fsum(a for a, _ in both) / len(both), math.fsum(b for _, b in both) / len(both))
                for name, both in shares.items()
            }
        return found

    def to_json(self) -> dict[str, Any]:
        """Under `suites` in eval/summary.json."""
        changes = self.changes
        return {
            "items": len(self.base.rows),
            "base": {name: change.before for name, change in changes.items()},
            "tuned": {name: change.after for name, change in changes.items()},
            "change": {
                name: {"low": change.low, "high": change.high, "verdict": change.verdict}
                for name, change in changes.items()
            },
            "kinds": {
                kind: {name: {"base": before, "tuned": after} for name, (before, after) in shares.items()}
                for kind, shares in self.kinds.items()
            },
        }


def measure_suite(
    engine: Engine,
    items: Sequence[Item],
    *,
    settings: GenerateConfig,
    batch_size: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> SuiteScores:
    """Ask every item on its own, without a system prompt and without examples before it.

    Raises:
        DataError: an item does not fit the model's context.
    """
    choices = [(number, text) for number, item in enumerate(items) for text in (item.answer, *item.wrong)]
    nll = _nll_per_choice(engine, [(items[number].question, text) for number, text in choices])
    sizes = np.array([len(text.encode()) for _, text in choices], dtype=np.float64)
    chosen: list[str | None] = []
    right: list[tuple[float, float]] = []
    first = 0
    for item in items:
        last = first + 1 + len(item.wrong)
        best = int(np.argmin(nll[first:last] / sizes[first:last]))
        chosen.append((item.answer, *item.wrong)[best] if item.wrong else None)
        right.append((nll[first], sizes[first]))
        first = last
    prompts = [(Message("user", item.question),) for item in items]
    answers = engine.generate(prompts, settings, seed=seed, batch_size=batch_size, on_progress=on_progress)
    rows = [
        {
            "kind": item.kind,
            "question": item.question,
            "answer": item.answer,
            "chosen": choice,
            "prediction": answer.text,
            "is_right": item.is_right(answer.text),
        }
        for item, choice, answer in zip(items, chosen, answers, strict=True)
    ]
    scores = {
        "written": mean_of(np.array([row["is_right"] for row in rows], dtype=np.float64)),
        "bits_per_byte": replace(bits_per_byte_of(*np.array(right).T), higher_is_better=False),
    }
    if picked := [row["chosen"] == row["answer"] for row in rows if row["chosen"] is not None]:
        scores = {"choices": mean_of(np.array(picked, dtype=np.float64)), **scores}
    return SuiteScores(scores, rows)


def _nll_per_choice(engine: Engine, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Nats of each answer to its question, the stop token included."""
    examples = [
        Example((Message("user", question), Message("assistant", answer)), row=number)
        for number, (question, answer) in enumerate(pairs)
    ]
    limit = engine.context_tokens or 2**20
    encoded, _ = encode(examples, engine.template, engine.tokenizer, max_length=limit, truncation="drop")
    if len(encoded) < len(examples):
        missing = sorted(set(range(len(examples))) - {row.row for row in encoded})
        raise DataError(
            f"{len(missing)} answers of the file of questions do not fit the model's context of {limit} tokens",
            cause=f"first: {pairs[missing[0]][0][:60]!r}",
            fix="shorten them or leave them out",
        )
    return row_nll(engine.model, encoded)[:, 0]
