"""Whether an export is the trained model: its tokens, its prompts, its stops, its logits, its answers.

Compares two runners on the same evidence; knows neither how files are written nor how models are loaded. Sums of
logits are done in float64. T positions, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np
from numpy.typing import NDArray

from tunesmith.export.evidence import Case, Evidence
from tunesmith.export.go_template import Frame
from tunesmith.export.modelfile import parameter_line
from tunesmith.export.runner import Answer, Runner
from tunesmith.runs import kept_result, without_nonfinite
from tunesmith.types import Encoded, Progress

# Logits of the trained model are kept for all files: this many bytes of them, and as many rows as that allows.
_KEPT_BYTES = 2**30
_SHOWN = 3
# Log-probabilities below this are not compared one by one: e^-30 is lost in float32's sums.
_RAREST = -30.0


@dataclass(frozen=True, slots=True)
class Limit:
    """What a type may differ by before the file counts as broken.

    logits: largest difference over the largest logit (1 at least); None where only the distribution counts.
    divergence: mean Kullback-Leibler divergence of the next token from the trained model, in nats.
    same_text: greedy answers are equal, or part where the two best tokens are nearer than `logits`.
    f1: change of the mean token F1.
    """

    divergence: float
    logits: float | None = None
    same_text: bool = False
    f1: float | None = None


# float32 differs by the order of sums, and by 2e-3 where llama.cpp takes GELU from a table of float16 (gpt2, phi,
# gemma). The divergences are what a sound file stays far below and one with a wrong weight does not: docs/export.md.
LIMITS: Mapping[str, Limit] = {
    "f32": Limit(1e-4, logits=2e-3, same_text=True, f1=0.03),
    "f16": Limit(5e-3, logits=2e-2, f1=0.03),
    "bf16": Limit(2e-2, logits=1e-1, f1=0.03),
    "q8_0": Limit(5e-2, f1=0.03),
    "q6_k": Limit(1e-1),
    "q5_1": Limit(3e-1),
    "q5_0": Limit(3e-1),
    "q5_k_m": Limit(3e-1),
    "q5_k_s": Limit(3e-1),
    "q4_1": Limit(8e-1),
    "q4_0": Limit(8e-1),
    "q4_k_m": Limit(8e-1),
    "q4_k_s": Limit(8e-1),
    "q3_k_l": Limit(2.0),
    "q3_k_m": Limit(2.0),
    "q3_k_s": Limit(2.0),
    "q2_k": Limit(4.0),
    "8bit": Limit(5e-2, f1=0.03),
    "6bit": Limit(1e-1),
    "4bit": Limit(8e-1),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer in words."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one export. `reason`: why nothing could be found out; then there are no checks.

    numbers: divergence (nats), perplexity, reference_perplexity, argmax_agreement, token_f1, reference_token_f1,
    ended, reference_ended (shares of the answers), tokens_per_second, prompts, rows, positions.
    """

    checks: tuple[Check, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def status(self) -> str:
        """verified, failed or unverified."""
        if self.reason is not None:
            return "unverified"
        return "failed" if self.faults else "verified"

    def to_json(self) -> dict[str, object]:
        """What verification.json holds of it. Numbers that JSON does not have are None."""
        return {
            "status": self.status,
            **({"reason": self.reason} if self.reason is not None else {}),
            "checks": [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in self.checks],
            "numbers": without_nonfinite(self.numbers),
        }


def read_verdict(path: Path) -> Verdict | None:
    """The verdict that a verification.json holds; None where nothing was found out yet, or it cannot be read."""

    def build(content: dict[str, Any]) -> Verdict | None:
        if content["status"] == "unverified":
            return None
        numbers = {name: math.inf if value is None else float(value) for name, value in content["numbers"].items()}
        return Verdict(tuple(Check(**one) for one in content["checks"]), numbers)

    return kept_result(path, build, version=1)


class File(Protocol):
    """What an export says of itself besides computing: see llamacpp.LlamaCpp and mlx_runner.MlxModel."""

    @property
    def tokens(self) -> list[str]: ...
    def ends(self, token_id: int) -> bool: ...
    def render(self, turns: Sequence[Mapping[str, str]]) -> str: ...
    def tokenize(self, text: str) -> list[int]: ...


class Original:
    """The trained model's side, computed once for all exports."""

    def __init__(self, runner: Runner, evidence: Evidence, on_progress: Progress) -> None:
        self.runner = runner
        self.evidence = evidence
        self.answers = runner.answers(
            [case.ids for case in evidence.cases],
            limit=evidence.limit,
            on_progress=lambda done, total: on_progress("the trained model answers", done, total),
        )
        self.logits: list[NDArray[np.float32]] = []
        kept = 0
        for done, row in enumerate(evidence.rows, start=1):
            logits = runner.logits(row.input_ids.tolist())
            kept += logits.nbytes
            if self.logits and kept > _KEPT_BYTES:
                break
            self.logits.append(logits)
            on_progress("the trained model reads", done, len(evidence.rows))


def verify_file(file: File, evidence: Evidence) -> tuple[Check, ...]:
    """Vocabulary, prompts and stops: what has nothing to do with numbers, and is exact."""
    return (_check_vocabulary(file, evidence), _check_prompts(file, evidence), _check_stops(file, evidence))


def verify_modelfile(file: File, evidence: Evidence, frame: Frame, modelfile: str) -> tuple[Check, ...]:
    """As verify_file, with the prompts that Ollama writes; and whether the Modelfile says so, stop by stop."""
    cases = tuple(case for case in evidence.cases if frame.takes(case.turns))
    prompts = _check_prompts(_Framed(file, frame), replace(evidence, cases=cases))
    left_out = len(evidence.cases) - len(cases)
    if left_out:
        prompts = replace(prompts, detail=f"{prompts.detail}; {left_out} that Ollama has no words for were left out")
    stops = [evidence.tokens[token_id] for token_id in evidence.stop_ids]
    missing = [stop for stop in stops if f"{parameter_line('stop', str(stop))}\n" not in modelfile]
    told = frame.source() in modelfile and not missing
    detail = f"stops that are not in it: {missing}" if missing else "its template is another than the one proven"
    return (
        _check_vocabulary(file, evidence),
        prompts,
        _check_stops(file, evidence),
        Check("Modelfile", told, f"it has the template and {len(stops)} stop tokens" if told else detail),
    )


class _Framed:
    """A file whose prompts are written by Ollama's template instead of its own."""

    def __init__(self, file: File, frame: Frame) -> None:
        self.tokens, self.ends, self.tokenize, self.render = file.tokens, file.ends, file.tokenize, frame.render


def verify_numbers(
    runner: Runner, original: Original, *, file_type: str, on_progress: Progress
) -> tuple[tuple[Check, ...], dict[str, float]]:
    """Logits and answers against the trained model's, within the limits of the type."""
    limit = LIMITS[file_type]
    evidence = original.evidence
    distance = _Distance()
    compared = list(zip(evidence.rows, original.logits, strict=False))
    asked = _asked_positions([row for row, _ in compared], runner.positions)
    for done, ((row, expected), at) in enumerate(zip(compared, asked, strict=True), start=1):
        if len(at):
            distance.add(expected[at], runner.logits(row.input_ids.tolist(), at.tolist()), row, at)
        on_progress(f"{file_type} reads", done, len(compared))
    answers = runner.answers(
        [case.ids for case in evidence.cases],
        limit=evidence.limit,
        on_progress=lambda done, total: on_progress(f"{file_type} answers", done, total),
    )
    numbers = {**distance.numbers(), **_answer_numbers(answers, original), "prompts": float(len(answers))}
    checks = [
        Check(
            "distribution",
            numbers["divergence"] <= limit.divergence,
            f"{numbers['divergence']:.2e} nats a token from the trained model; limit {limit.divergence:g}",
        )
    ]
    if limit.logits is not None:
        passed = numbers["logits"] <= limit.logits
        checks.insert(0, Check("logits", passed, f"differ by {numbers['logits']:.1e} at most; limit {limit.logits:g}"))
    if limit.same_text:
        checks.append(_check_same_text(answers, original, limit))
    if limit.f1 is not None and "token_f1" in numbers:
        checks.append(_check_f1(numbers, evidence, limit.f1))
    checks.append(_check_ends(answers, original))
    return tuple(checks), numbers


def _asked_positions(rows: Sequence[Encoded], most: int | None) -> list[NDArray[np.int64]]:
    """Positions of each row to compare: all, or `most` in all, those before a target first, spread over the rows."""
    every = [(number, place) for number, row in enumerate(rows) for place in range(len(row))]
    if most is not None and most < len(every):
        targets = [(number, place) for number, place in every if rows[number].supervised[place + 1 : place + 2].any()]
        pool = targets if len(targets) >= most else every
        every = [pool[index * len(pool) // most] for index in range(most)]
    found: list[list[int]] = [[] for _ in rows]
    for number, place in every:
        found[number].append(place)
    return [np.array(places, dtype=np.int64) for places in found]


def _check_vocabulary(file: File, evidence: Evidence) -> Check:
    found, expected = file.tokens, evidence.tokens
    if len(found) != len(expected):
        return Check("vocabulary", False, f"{len(found)} tokens, the model has {len(expected)}")
    wrong = [i for i, text in enumerate(expected) if text is not None and found[i] != text]
    if wrong:
        shown = ", ".join(f"{i} is {found[i]!r}, was {expected[i]!r}" for i in wrong[:_SHOWN])
        return Check("vocabulary", False, f"{len(wrong)} of {len(found)} tokens are others: {shown}")
    return Check("vocabulary", True, f"all {len(found)} tokens are the tokenizer's")


def _check_prompts(file: File, evidence: Evidence) -> Check:
    wrong = [found for case in evidence.cases if (found := _prompt_fault(file, case)) is not None]
    total = len(evidence.cases)
    if wrong:
        shown = "; ".join(wrong[:_SHOWN])
        return Check("prompts", False, f"{len(wrong)} of {total} prompts have other tokens: {shown}")
    return Check("prompts", True, f"{total} prompts have the tokens they were trained with")


def _prompt_fault(file: File, case: Case) -> str | None:
    try:
        ids = tuple(file.tokenize(file.render(case.turns)))
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        return f"{case.label}: its template fails: {error}"
    if ids == case.ids:
        return None
    pairs = enumerate(zip(ids, case.ids, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(case.ids)))
    found, expected = list(ids[place : place + 1]), list(case.ids[place : place + 1])
    return f"{case.label}: token {place} is {found}, was {expected}"


def _check_stops(file: File, evidence: Evidence) -> Check:
    missing = [token_id for token_id in evidence.stop_ids if not file.ends(token_id)]
    names = ", ".join(repr(evidence.tokens[token_id]) for token_id in missing or evidence.stop_ids)
    return Check("stop tokens", not missing, f"an answer {'would not end' if missing else 'ends'} at {names}")


class _Distance:
    """Sums over positions of how far two models' logits are apart."""

    def __init__(self) -> None:
        self._positions = self._agreed = self._targets = self._rows = 0
        self._divergence = self._nll = self._reference_nll = self._largest = 0.0

    def add(
        self, expected: NDArray[np.float32], found: NDArray[np.float32], row: Encoded, at: NDArray[np.int64]
    ) -> None:
        """expected, found: (P, V), what follows the positions `at` (P,) of a row."""
        log_p, log_q = _log_softmax(expected), _log_softmax(found)
        # logits mean something up to a constant; of a pair as rare as float32 ends, nothing
        apart = np.where(log_p > _RAREST, np.abs(log_p - np.maximum(log_q, 2 * _RAREST)), 0.0)
        scale, difference = max(1.0, float(np.abs(expected).max())), float(apart.max())
        # a NaN would compare as no difference
        self._largest = max(self._largest, difference / scale if math.isfinite(difference) else math.inf)
        self._divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
        self._agreed += int((expected.argmax(-1) == found.argmax(-1)).sum())
        self._positions += len(at)
        following = np.minimum(at + 1, len(row) - 1)
        which = np.flatnonzero(row.supervised[following] & (at + 1 < len(row)))  # those before a target
        targets = row.input_ids[following[which]]
        self._nll -= float(log_q[which, targets].sum())
        self._reference_nll -= float(log_p[which, targets].sum())
        self._targets += len(which)
        self._rows += 1

    def numbers(self) -> dict[str, float]:
        positions, targets = max(1, self._positions), self._targets
        found = {
            "rows": float(self._rows),
            "positions": float(self._positions),
            "logits": self._largest,
            "divergence": self._divergence / positions if math.isfinite(self._divergence) else math.inf,
            "argmax_agreement": self._agreed / positions,
        }
        if targets:
            with np.errstate(over="ignore"):  # of a broken file, infinity
                found["perplexity"] = float(np.exp(self._nll / targets))
                found["reference_perplexity"] = float(np.exp(self._reference_nll / targets))
        return found


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def _answer_numbers(answers: Sequence[Answer], original: Original) -> dict[str, float]:
    evidence = original.evidence
    numbers = {
        "ended": sum(answer.ended for answer in answers) / len(answers),
        "reference_ended": sum(answer.ended for answer in original.answers) / len(answers),
    }
    scored = [index for index, case in enumerate(evidence.cases) if case.expected]
    for name, side in (("token_f1", answers), ("reference_token_f1", original.answers)):
        scores = [evidence.score(side[index].text, evidence.cases[index].expected or "") for index in scored]
        if scores:
            numbers[name] = math.fsum(scores) / len(scores)
    return numbers


def _check_same_text(answers: Sequence[Answer], original: Original, limit: Limit) -> Check:
    wrong: list[str] = []
    ties = 0
    for case, answer, expected in zip(original.evidence.cases, answers, original.answers, strict=True):
        if answer.token_ids == expected.token_ids and answer.ended == expected.ended:
            # decoders write runs of bytes that are no characters differently
            if "\ufffd" not in answer.text + expected.text and answer.text != expected.text:
                wrong.append(f"{case.label}: the same tokens read {answer.text[:40]!r}, were {expected.text[:40]!r}")
        elif _parts_at_a_tie(case, answer, expected, original, limit):
            ties += 1
        else:
            wrong.append(f"{case.label}: {answer.text[:40]!r}, was {expected.text[:40]!r}")
    total = len(answers)
    if wrong:
        return Check("greedy text", False, f"{len(wrong)} of {total} answers are others; {'; '.join(wrong[:_SHOWN])}")
    apart = f", {ties} part where two tokens are equally likely" if ties else ""
    return Check("greedy text", True, f"{total} answers are the trained model's{apart}")


def _parts_at_a_tie(case: Case, answer: Answer, expected: Answer, original: Original, limit: Limit) -> bool:
    """Whether the two answers go on with tokens whose logits differ by less than the two models may."""
    end = -1  # stands for any of the stop tokens
    ours, theirs = ([*side.token_ids, *([end] if side.ended else [])] for side in (expected, answer))
    shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if shared is None:
        return False  # one goes on where the other was cut: not the same limit
    logits = original.runner.logits([*case.ids, *expected.token_ids[:shared]])[-1]
    stop_logit = max(float(logits[token_id]) for token_id in original.evidence.stop_ids)
    chosen = [stop_logit if token == end else float(logits[token]) for token in (ours[shared], theirs[shared])]
    assert limit.logits is not None
    return abs(chosen[0] - chosen[1]) <= 2 * limit.logits * max(1.0, float(np.abs(logits).max()))


def _check_f1(numbers: Mapping[str, float], evidence: Evidence, limit: float) -> Check:
    count = sum(bool(case.expected) for case in evidence.cases)
    allowed = max(limit, 1 / count)  # one answer may turn out otherwise
    found, expected = numbers["token_f1"], numbers["reference_token_f1"]
    detail = f"token F1 {found:.3f} on {count} answers, was {expected:.3f}; limit {allowed:.3f} less"
    return Check("answers", expected - found <= allowed, detail)


def _check_ends(answers: Sequence[Answer], original: Original) -> Check:
    ended, expected = (sum(one.ended for one in side) for side in (answers, original.answers))
    # Two, or a tenth and one, may fall to chance; an export that never ends an answer has lost its stop token.
    least = expected if expected < 2 else max(1, min(expected - 2, 0.9 * expected - 1))
    passed = ended >= least
    return Check("end of text", passed, f"{ended} of {len(answers)} answers end by themselves, {expected} did")
