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
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data import encode
from tunesmith.errors import DataError
from tunesmith.evaluate.evaluators import bits_per_byte_of
from tunesmith.evaluate.paired import Difference, Sums, difference, finite, mean_of
from tunesmith.evaluate.suite_file import Item
from tunesmith.runs import keep_result, kept_result
from tunesmith.types import Example, Message

if TYPE_CHECKING:
    from tunesmith.config import GenerateConfig
    from tunesmith.generate import Engine

_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class SuiteAnswers:
    """What one model makes of the items: nats of each answer to choose from, the right one first, and what it wrote."""

    nll: list[list[float]]
    written: list[str]

    def keep(self, path: Path) -> None:
        """Write it.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        keep_result(path, asdict(self), version=_SCHEMA_VERSION)

    @staticmethod
    def kept(path: Path) -> SuiteAnswers | None:
        """What was written; None where nothing was, or nothing that this version reads."""
        return kept_result(path, lambda content: SuiteAnswers(**content), version=_SCHEMA_VERSION)


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
        """Under `suites` in eval/summary.json. Numbers that JSON does not have are None."""
        changes = self.changes
        return {
            "items": len(self.base.rows),
            "base": {name: finite(change.before) for name, change in changes.items()},
            "tuned": {name: finite(change.after) for name, change in changes.items()},
            "change": {
                name: {"low": finite(change.low), "high": finite(change.high), "verdict": change.verdict}
                for name, change in changes.items()
            },
            "kinds": {
                kind: {name: {"base": before, "tuned": after} for name, (before, after) in shares.items()}
                for kind, shares in self.kinds.items()
            },
        }


def ask_suite(
    engine: Engine,
    items: Sequence[Item],
    *,
    settings: GenerateConfig,
    batch_size: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> SuiteAnswers:
    """Ask every item on its own, without a system prompt and without examples before it.

    Raises:
        DataError: an item does not fit the model's context.
    """
    pairs = [(item.question, text) for item in items for text in (item.answer, *item.wrong)]
    nll = iter(_nll_per_choice(engine, pairs).tolist())
    prompts = [(Message("user", item.question),) for item in items]
    written = engine.generate(prompts, settings, seed=seed, batch_size=batch_size, on_progress=on_progress)
    return SuiteAnswers([list(islice(nll, 1 + len(item.wrong))) for item in items], [one.text for one in written])


def score_suite(items: Sequence[Item], found: SuiteAnswers) -> SuiteScores:
    """The part that needs no model. found: of the same items."""
    rows: list[dict[str, Any]] = []
    right: list[tuple[float, float]] = []
    for item, nll, written in zip(items, found.nll, found.written, strict=True):
        texts = (item.answer, *item.wrong)
        # a file in JSON can hold halves of surrogate pairs, which no model reads either
        sizes = np.array([len(text.encode(errors="replace")) for text in texts], dtype=np.float64)
        likeliest = int(np.argmin(np.array(nll) / sizes))
        right.append((nll[0], sizes[0]))
        rows.append(
            {
                "kind": item.kind,
                "question": item.question,
                "answer": item.answer,
                "chosen": texts[likeliest] if item.wrong else None,
                "prediction": written,
                "is_right": item.is_right(written),
            }
        )
    scores = {
        "written": mean_of(np.array([row["is_right"] for row in rows], dtype=np.float64)),
        "bits_per_byte": replace(bits_per_byte_of(*np.array(right).T), higher_is_better=False),
    }
    if picked := [row["chosen"] == row["answer"] for row in rows if row["chosen"] is not None]:
        scores = {"choices": mean_of(np.array(picked, dtype=np.float64)), **scores}
    return SuiteScores(scores, rows)


def _nll_per_choice(engine: Engine, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Nats of each answer to its question, the stop token included."""
    from tunesmith.evaluate.likelihood import row_nll

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
