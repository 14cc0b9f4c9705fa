"""The sample, tuned as by `make quickstart`, exported and asked through llama.cpp as anybody would ask it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from tunesmith.api import Exported, evaluate, export, train
from tunesmith.config import load_config
from tunesmith.evaluate import EVALUATORS
from tunesmith.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")]
SAMPLE = Path(__file__).parents[2] / "examples" / "presscrafters_faq.xlsx"
STEPS = 150  # a third of the quickstart's, after which the answers no longer babble


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = str(tmp_path_factory.mktemp("quickstart") / "faq")
    settings = {"data.path": str(SAMPLE), "output_dir": place, "train.max_steps": STEPS, "model.device": "cpu"}
    run = train(load_config(recipe="quickstart", overrides={**settings, "model.dtype": "float32"})).run
    evaluate(str(run.path))
    return run


def ask(one: Exported, questions: list[str]) -> list[str]:
    """Answers by llama-cpp-python's own chat: its template, its sampling, its stops."""
    import llama_cpp

    model = llama_cpp.Llama(str(one.path), n_ctx=1024, verbose=False, type_k=0, type_v=0)  # the cache in float32
    found = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        answer = model.create_chat_completion(turns, temperature=0, repeat_penalty=1.0, max_tokens=128)
        found.append(answer["choices"][0]["message"]["content"].strip())
    model.close()
    return found


def test_the_sample_is_answered_in_llama_cpp_as_in_python(quickstart: Run, tmp_path: Path) -> None:
    """Float32: every answer the same. 8 bits: token F1 within 0.03. 4 bits: verified."""
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    result = export(str(quickstart.path), out=tmp_path, to=["gguf"], quantize=["f32", "q8_0", "q4_k_m"], prompts=20)
    assert [one.verdict.status for one in result.products] == ["verified"] * 3
    assert [path.name for path in result.reports] == ["quantisation.md", "quantisation.png"]
    lines = (quickstart.eval_dir / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    questions, expected = [row["question"] for row in rows], [row["reference"] for row in rows]
    in_python = [row["tuned"]["prediction"] for row in rows]
    exact, eight, _ = result.products
    assert ask(exact, questions) == in_python

    def token_f1(answers: list[str]) -> float:
        return mean(EVALUATORS["token_f1"]([a], [b]) for a, b in zip(answers, expected, strict=True))

    assert token_f1(ask(eight, questions)) == pytest.approx(token_f1(in_python), abs=0.03)
