"""Scores of labels against teacher forcing of the whole text, row by row, on tiny random models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from tunesmith.errors import DataError, SettingsError, TrainingError
from tunesmith.generate import Choice, Engine, choose, label_ids
from tunesmith.prompts import check_template, render, render_prompt
from tunesmith.types import Example, Message

ARCHITECTURES = ["gpt2", "llama", "qwen2", "qwen3", "mistral", "phi3", "gemma"]
# One is the beginning of another, some begin alike, one is a single token, one is long, one is not ASCII.
LABELS = ["card", "card_arrival", "card_linking", "a", "model", "très bon", "The quick brown fox jumps", "12345 67890"]
TEXTS = ["Where is it?", "My card has not come yet, what now?", "x", "Hello world! " * 8, "it's we'll", "The café"]


def conversations(texts: Sequence[str] = TEXTS) -> list[list[Message]]:
    return [[Message("user", text)] for text in texts]


@pytest.fixture
def engine_of(tiny_model_dir: Callable[[str], Path], tiny_tokenizer: Any) -> Callable[..., Engine]:
    def make(arch: str, template: str = "chat", **changes: Any) -> Engine:
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir(arch), dtype=torch.float32, **changes)
        return Engine(model.eval(), tiny_tokenizer, check_template(template, tiny_tokenizer))

    return make


def teacher_forced(engine: Engine, messages: Sequence[Message], label: str) -> float:
    """Log-likelihood of the supervised tokens of the whole conversation, in one pass, without cache or padding."""
    whole = render(Example((*messages, Message("assistant", label))), engine.template, engine.tokenizer)
    ids = torch.tensor(whole.input_ids)[None]
    with torch.no_grad():
        logits = engine.model(input_ids=ids).logits[0]
    logs = logits.double().log_softmax(dim=-1)
    places = [place for place, is_target in enumerate(whole.supervised.tolist()) if is_target]
    return sum(float(logs[place - 1, ids[0, place]]) for place in places)


def reference(engine: Engine, texts: Sequence[str] = TEXTS) -> list[list[float]]:
    return [[teacher_forced(engine, messages, label) for label in LABELS] for messages in conversations(texts)]


def scores(engine: Engine, batch_size: int, texts: Sequence[str] = TEXTS) -> list[tuple[float, ...]]:
    found = choose(engine, conversations(texts), LABELS, batch_size=batch_size)
    assert [choice.labels for choice in found] == [tuple(LABELS)] * len(texts)
    return [choice.log_likelihoods for choice in found]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_scores_are_teacher_forced_whatever_the_batch(arch: str, engine_of: Callable[..., Engine]) -> None:
    engine = engine_of(arch)
    expected = torch.tensor(reference(engine))
    assert (expected.amax(dim=0) - expected.amin(dim=0)).min() > 0.3  # the texts do matter
    for batch_size in (1, 3, 4, 32):
        found = torch.tensor(scores(engine, batch_size))
        torch.testing.assert_close(found, expected.to(found.dtype), atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("template", ["qa", "alpaca", "plain", "{question} ->"])
def test_every_template_gives_the_ids_that_training_supervises(template: str, engine_of: Callable[..., Engine]) -> None:
    # "plain" ends a prompt with the text itself, so the token before a label differs from row to row
    engine = engine_of("llama", template)
    expected = torch.tensor(reference(engine))
    torch.testing.assert_close(
        torch.tensor(scores(engine, 5)), expected.to(torch.float32), atol=2e-4, rtol=1e-5, check_dtype=False
    )


def test_an_adapter_is_in_the_scores_and_can_be_left_out(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("llama")
    plain = scores(engine, 32)
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = Engine(get_peft_model(engine.model, config).eval(), engine.tokenizer, engine.template)
    expected = torch.tensor(reference(adapted))
    torch.testing.assert_close(torch.tensor(scores(adapted, 32)).double(), expected.double(), atol=2e-4, rtol=1e-5)
    assert (torch.tensor(plain) - expected).abs().max() > 0.1
    with adapted.model.disable_adapter():
        torch.testing.assert_close(torch.tensor(scores(adapted, 32)), torch.tensor(plain), atol=1e-5, rtol=1e-5)


def test_sliding_attention(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("mistral", sliding_window=8)
    expected = torch.tensor(reference(engine))
    assert (expected - torch.tensor(reference(engine_of("mistral")))).abs().max() > 0.1
    torch.testing.assert_close(torch.tensor(scores(engine, 4)).double(), expected.double(), atol=2e-4, rtol=1e-5)


def test_shared_beginnings_are_read_once(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("llama")
    read: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    (messages,) = conversations(TEXTS[:1])
    tails = label_ids(messages, LABELS, engine.template, engine.tokenizer)
    beginnings = {tail[:end] for tail in tails for end in range(1, len(tail))}
    assert len(beginnings) < sum(len(tail) - 1 for tail in tails)
    choose(engine, [messages], LABELS)
    assert sum(read) == len(render_prompt(messages, engine.template, engine.tokenizer)) + len(beginnings)
    sizes: list[int] = []
    engine.model.register_forward_pre_hook(lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True)
    choose(engine, conversations(), LABELS, batch_size=3)
    assert max(sizes) == 3


def test_probabilities_are_the_softmax_and_the_first_of_equals_wins() -> None:
    choice = Choice(("a", "b", "c"), (math.log(0.02), math.log(0.06), math.log(0.02)))
    assert choice.probabilities == pytest.approx((0.2, 0.6, 0.2))
    assert (choice.label, choice.probability) == ("b", pytest.approx(0.6))
    assert [label for label, _ in choice.ranked] == ["b", "a", "c"]
    assert choice.log_probabilities == pytest.approx([math.log(value) for value in choice.probabilities])
    far = Choice(("a", "b"), (-5000.0, -4000.0))
    assert far.probabilities == (0.0, 1.0)
    assert far.log_probabilities == (-1000.0, 0.0)


def test_progress_order_and_modes(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("llama")
    engine.model.train()
    seen: list[tuple[int, int]] = []
    found = choose(engine, conversations(), LABELS, batch_size=4, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(4, 6), (6, 6)]
    assert engine.model.training
    engine.model.eval()
    alone = [choose(engine, [messages], LABELS)[0] for messages in conversations()]
    assert [choice.label for choice in found] == [choice.label for choice in alone]


def test_bad_input_is_refused(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("llama")
    one = conversations(TEXTS[:1])
    with pytest.raises(SettingsError, match="nothing to choose from: 1 labels"):
        choose(engine, one, ["only"])
    with pytest.raises(SettingsError, match="'twice' and 'twice' are the same to the model"):
        choose(engine, one, ["twice", "twice"])
    with pytest.raises(SettingsError, match="batch_size is 0"):
        choose(engine, one, LABELS, batch_size=0)
    long = conversations(["x", "Hello " * 300])
    with pytest.raises(DataError, match=r"prompt 2 of 2 has \d+ tokens and the longest label \d+; .* at most 256"):
        choose(engine, long, LABELS)


def test_the_context_can_be_filled_to_its_last_token(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("gpt2")  # its positions are a table of 256 rows
    (messages,) = conversations(["?"])
    room = 256 - len(render_prompt(messages, engine.template, engine.tokenizer))
    longest = max(len(tail) for tail in label_ids(messages, LABELS, engine.template, engine.tokenizer)) - 1
    pieces = " a" * (room - longest)
    for text, fits in ((pieces + "?", True), (pieces + " a?", False)):
        if fits:
            assert len(scores(engine, 4, [text])) == 1
        else:
            with pytest.raises(DataError):
                choose(engine, conversations([text]), LABELS)


def test_nan_is_told(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("llama")
    with torch.no_grad():
        engine.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="NaN"):
        choose(engine, conversations(), LABELS)
