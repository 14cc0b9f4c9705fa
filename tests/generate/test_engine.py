"""The engine against transformers' generate() and against itself, row by row, on tiny random models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from tunesmith.config import GenerateConfig, MethodConfig
from tunesmith.errors import DataError, ResourceError, SettingsError, TrainingError
from tunesmith.generate import Completion, Engine
from tunesmith.generate.rows import Rows
from tunesmith.generate.text import tidy
from tunesmith.model import apply_method
from tunesmith.prompts import Template, render_prompt
from tunesmith.types import Message

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]
NEW_TOKENS = 16
CONTEXT = 256
LENGTHS = [3, 17, 1, 9, 9, 40, 12, 5]
SAMPLED = GenerateConfig(max_new_tokens=NEW_TOKENS, temperature=1.3, top_k=50, top_p=0.95)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(tiny_model_dir: Callable[[str], Path]) -> Callable[..., Any]:
    def load(arch: str, **changes: Any) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir(arch), dtype=torch.float32, **changes)
        return model.eval()

    return load


@pytest.fixture
def engine(load: Callable[..., Any], tiny_tokenizer: Any) -> Engine:
    return Engine(load("llama"), tiny_tokenizer, template())


def template(*stop_ids: int) -> Template:
    return Template(name="test", source="", stop_ids=stop_ids, stop_id=stop_ids[0] if stop_ids else 1)


def make_prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 390, (length,), generator=generator).tolist() for length in lengths]


def reference_ids(model: Any, prompt: list[int], new_tokens: int = NEW_TOKENS, **options: Any) -> list[int]:
    """transformers' own greedy generation of one row, without stop ids."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0, **options}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return list(out[0, len(prompt) :].tolist())


def cut(ids: list[int], stop_ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
    for index, token_id in enumerate(ids):
        if token_id in stop_ids:
            return tuple(ids[:index]), "stop"
    return tuple(ids), "length"


def outcomes(completions: Sequence[Completion]) -> list[tuple[tuple[int, ...], str]]:
    return [(completion.token_ids, completion.finish_reason) for completion in completions]


def record_batch_sizes(model: Any) -> list[int]:
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, __, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    return sizes


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_any_batch_is_transformers_greedy_one_by_one(arch: str, load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model, prompts = load(arch), make_prompts()
    references = [reference_ids(model, prompt) for prompt in prompts]
    # Stop ids that end some rows at once, some on the way and some not at all.
    stop_ids = (references[2][0], references[5][6], references[7][3])
    expected = [cut(ids, stop_ids) for ids in references]
    assert {reason for _, reason in expected} == {"stop", "length"}
    sizes = record_batch_sizes(model)
    for batch_size in (1, 3, 8):
        completions = Engine(model, tiny_tokenizer, template(*stop_ids)).generate_ids(
            prompts, GenerateConfig(max_new_tokens=NEW_TOKENS), batch_size=batch_size
        )
        assert outcomes(completions) == expected
        assert [completion.prompt_tokens for completion in completions] == LENGTHS
    # Ended rows were dropped: the last batch began with eight rows and went on with fewer.
    assert sizes[-1] < 8 <= max(sizes)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_sliding_attention_and_padding(implementation: str, load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model = load("mistral", sliding_window=8, attn_implementation=implementation)
    references = [reference_ids(model, prompt) for prompt in make_prompts()]
    assert references != [reference_ids(load("mistral"), prompt) for prompt in make_prompts()]
    stop_ids = (references[1][4], references[6][2])
    for batch_size in (3, 8):
        completions = Engine(model, tiny_tokenizer, template(*stop_ids)).generate_ids(
            make_prompts(), GenerateConfig(max_new_tokens=NEW_TOKENS), batch_size=batch_size
        )
        assert outcomes(completions) == [cut(ids, stop_ids) for ids in references]


@pytest.mark.parametrize("penalty", [1.0, 1.8])
@pytest.mark.parametrize("can_join", [True, False])
def test_waiting_rows_take_the_places_of_ended_ones(
    can_join: bool, penalty: float, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of 16 tokens and of none by turns, four rows at once."""
    prompts = make_prompts([9] * 12)
    settings = GenerateConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=penalty)
    whole = engine.generate_ids(prompts, settings, batch_size=1)
    stop_ids = {answer.token_ids[0] for answer in whole[::2]}
    expected = [cut(list(answer.token_ids), list(stop_ids)) for answer in whole]
    assert sum(reason == "length" for _, reason in expected) >= 4
    if not can_join:
        monkeypatch.setattr(Rows, "can_join", False)
    sizes = record_batch_sizes(engine.model)
    completions = Engine(engine.model, engine.tokenizer, template(*stop_ids)).generate_ids(
        prompts, settings, batch_size=4
    )
    assert outcomes(completions) == expected
    assert max(sizes) == 4
    tokens = sum(max(1, len(ids)) for ids, _ in expected)
    # full batches but for the last answers, or three batches one after the other
    assert (len(sizes) < tokens / 4 + NEW_TOKENS) is can_join, (len(sizes), tokens)


@pytest.mark.parametrize("penalty", [0.7, 1.8])
def test_repetition_penalty_counts_prompt_and_answer_as_transformers(
    penalty: float, load: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    model = load("llama")
    references = [reference_ids(model, prompt, repetition_penalty=penalty) for prompt in make_prompts()]
    assert references != [reference_ids(model, prompt) for prompt in make_prompts()]
    stop_ids = (references[2][3],)
    settings = GenerateConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=penalty)
    for batch_size in (3, 8):
        completions = Engine(model, tiny_tokenizer, template(*stop_ids)).generate_ids(
            make_prompts(), settings, batch_size=batch_size
        )
        assert outcomes(completions) == [cut(ids, stop_ids) for ids in references]


def test_sampled_text_is_the_same_whatever_the_batch_and_the_order(engine: Engine) -> None:
    prompts = make_prompts()
    texts = [completion.text for completion in engine.generate_ids(prompts, SAMPLED, seed=3, batch_size=1)]
    for batch_size in (3, 8):
        again = engine.generate_ids(prompts, SAMPLED, seed=3, batch_size=batch_size)
        assert [completion.text for completion in again] == texts
    backwards = engine.generate_ids(prompts[::-1], SAMPLED, seed=3, batch_size=3)
    assert [completion.text for completion in backwards][::-1] == texts
    assert [completion.text for completion in engine.generate_ids(prompts, SAMPLED, seed=4)] != texts
    greedy = GenerateConfig(max_new_tokens=NEW_TOKENS)
    assert [completion.text for completion in engine.generate_ids(prompts, greedy, seed=3)] != texts


def test_the_same_question_again_is_sampled_again(engine: Engine) -> None:
    prompt, other = make_prompts([6, 6])
    first, _, second = engine.generate_ids([prompt, other, prompt], SAMPLED, seed=3)
    assert first.token_ids != second.token_ids
    assert engine.generate_ids([prompt], SAMPLED, seed=3) == [first]


@pytest.mark.parametrize("settings", [GenerateConfig(max_new_tokens=NEW_TOKENS), SAMPLED], ids=["greedy", "sampled"])
def test_stop_strings_end_rows_and_stay_out_of_the_text(engine: Engine, settings: GenerateConfig) -> None:
    prompts = make_prompts()
    plain = engine.generate_ids(prompts, settings, seed=5)
    # Three letters from inside an answer: in most tokenizations they lie across tokens.
    stop = next(match[1] for completion in plain if (match := re.search(r"..([a-z]{3})", completion.text)))
    stopping = settings.model_copy(update={"stop": [stop]})
    completions = engine.generate_ids(prompts, stopping, seed=5)
    assert sum(completion.finish_reason == "stop" for completion in completions) >= 1
    for before, completion in zip(plain, completions, strict=True):
        assert completion.finish_reason == ("stop" if stop in before.text else "length")
        assert completion.text == tidy(before.text.split(stop)[0])
        assert completion.token_ids == before.token_ids[: len(completion.token_ids)]
    for batch_size in (1, 3):
        assert engine.generate_ids(prompts, stopping, seed=5, batch_size=batch_size) == completions
    for prompt, completion in zip(prompts, completions, strict=True):
        assert "".join(engine.stream_ids(prompt, stopping, seed=5)) == completion.text


@pytest.mark.parametrize("settings", [GenerateConfig(max_new_tokens=40), SAMPLED], ids=["greedy", "sampled"])
def test_streamed_pieces_are_the_text(engine: Engine, settings: GenerateConfig) -> None:
    for prompt, completion in zip(make_prompts(), engine.generate_ids(make_prompts(), settings, seed=9), strict=True):
        pieces = list(engine.stream_ids(prompt, settings, seed=9))
        assert len(pieces) > 1
        assert "".join(pieces) == completion.text


class Scripted(nn.Module):
    """Writes given ids after a prompt of one token, whatever it reads."""

    def __init__(self, ids: Sequence[int], vocabulary: int) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(max_position_embeddings=CONTEXT)
        self.scores = nn.Parameter(torch.full((len(ids), vocabulary), -9.0))
        self.scores.data[range(len(ids)), list(ids)] = 9.0

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.scores[position_ids])


def test_scripted_answer_is_read_until_its_stop_string_and_characters_stay_whole(tiny_tokenizer: Any) -> None:
    written = tiny_tokenizer.encode(" 🙂 Größe 日本\n\n### Question: more", add_special_tokens=False)
    engine = Engine(Scripted(written, len(tiny_tokenizer)), tiny_tokenizer, template(1))
    settings = GenerateConfig(max_new_tokens=len(written), stop=["### Question"])
    (completion,) = engine.generate_ids([[7]], settings)
    assert (completion.text, completion.finish_reason) == ("🙂 Größe 日本", "stop")
    pieces = list(engine.stream_ids([7], settings))
    assert "".join(pieces) == completion.text
    assert pieces[0] == "🙂"
    (whole,) = engine.generate_ids([[7]], GenerateConfig(max_new_tokens=len(written)))
    assert (whole.text, whole.finish_reason) == ("🙂 Größe 日本\n\n### Question: more", "length")
    assert whole.token_ids == tuple(written)


@pytest.mark.parametrize("max_new_tokens", [5, 9], ids=["ends by length", "ends by stop token"])
def test_a_last_character_in_byte_tokens_is_not_lost(max_new_tokens: int, byte_fallback_tokenizer: Any) -> None:
    tokenizer = byte_fallback_tokenizer
    written = [*tokenizer.encode("ab", add_special_tokens=False), *tokenizer.encode("日", add_special_tokens=False)[1:]]
    script = [*written, tokenizer.bos_token_id]
    engine = Engine(Scripted(script, len(tokenizer)), tokenizer, template(tokenizer.bos_token_id))
    for stop in ([], ["###"], ["日"]):
        settings = GenerateConfig(max_new_tokens=max_new_tokens, stop=stop)
        (completion,) = engine.generate_ids([[7]], settings)
        assert completion.text == ("ab" if stop == ["日"] else "ab日")
        assert "".join(engine.stream_ids([7], settings)) == completion.text
        if stop == ["日"]:
            assert completion.finish_reason == "stop"


def test_the_stop_token_ends_the_answer_and_is_no_part_of_it(tiny_tokenizer: Any) -> None:
    answer = tiny_tokenizer.encode("yes", add_special_tokens=False)
    stop_id, later = tiny_tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    engine = Engine(Scripted([*answer, stop_id, later], len(tiny_tokenizer)), tiny_tokenizer, template(later, stop_id))
    (completion,) = engine.generate_ids([[7]], GenerateConfig())
    assert completion == Completion("yes", tuple(answer), "stop", 1)
    assert list(engine.stream_ids([7], GenerateConfig())) == ["y", "es"]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_answers_are_shortened_to_the_context(arch: str, load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model, prompts = load(arch), make_prompts([CONTEXT - 3, *[5] * 7])
    # One row of eight ends early and is carried along: its positions would run past GPT-2's table.
    completions = Engine(model, tiny_tokenizer, template()).generate_ids(
        prompts, GenerateConfig(max_new_tokens=NEW_TOKENS)
    )
    lengths = [3, *[NEW_TOKENS] * 7]
    expected = [cut(reference_ids(model, prompt, n), ()) for prompt, n in zip(prompts, lengths, strict=True)]
    assert outcomes(completions) == expected


def test_prompts_that_cannot_be_answered_are_refused_before_anything_is_computed(engine: Engine) -> None:
    sizes = record_batch_sizes(engine.model)
    with pytest.raises(DataError, match=r"prompt 2 of 2 has 256 tokens; the model reads at most 256") as caught:
        engine.generate_ids(make_prompts([5, CONTEXT]), GenerateConfig())
    assert caught.value.fix is not None
    assert "255 tokens" in caught.value.fix
    with pytest.raises(DataError, match="the prompt has no tokens"):
        engine.stream_ids([], GenerateConfig())
    with pytest.raises(SettingsError, match=r"generate\.stop"):
        engine.generate_ids([[5]], GenerateConfig(stop=["#", ""]))
    with pytest.raises(SettingsError, match="batch_size is 0"):
        engine.generate_ids([[5]], GenerateConfig(), batch_size=0)
    assert not sizes
    (longest,) = engine.generate_ids(make_prompts([CONTEXT - 1]), GenerateConfig())
    assert len(longest.token_ids) == 1


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error(engine: Engine, broken: float) -> None:
    with torch.no_grad():
        engine.model.get_parameter("lm_head.weight")[50, 0] = broken
    for settings in (GenerateConfig(), SAMPLED):
        with pytest.raises(TrainingError, match="NaN or infinite"):
            engine.generate_ids(make_prompts(), settings)


def test_dropout_is_off_and_every_module_is_left_as_it_was(load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model = load("gpt2")
    engine = Engine(model, tiny_tokenizer, template())
    model.train()
    model.transformer.h[0].eval()
    before = {name: (module.training, type(module)) for name, module in model.named_modules()}
    model.eval()
    expected = engine.generate_ids(make_prompts(), GenerateConfig(max_new_tokens=NEW_TOKENS))
    model.train()
    model.transformer.h[0].eval()
    assert engine.generate_ids(make_prompts(), GenerateConfig(max_new_tokens=NEW_TOKENS)) == expected
    assert {name: (module.training, type(module)) for name, module in model.named_modules()} == before
    stream = engine.stream_ids(make_prompts()[0], GenerateConfig(max_new_tokens=NEW_TOKENS))
    assert expected[0].text.startswith(next(stream))
    assert {name: (module.training, type(module)) for name, module in model.named_modules()} == before
    assert not torch.is_inference_mode_enabled()


# peft 0.21 reads an attribute that transformers 5.23 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_called_through_and_can_be_disabled(load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    base = load("llama")
    settings = GenerateConfig(max_new_tokens=NEW_TOKENS)
    plain = Engine(base, tiny_tokenizer, template()).generate_ids(make_prompts(), settings)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    engine = Engine(tuned, tiny_tokenizer, template())
    adapted = engine.generate_ids(make_prompts(), settings)
    assert outcomes(adapted) == [cut(reference_ids(tuned.eval(), prompt), ()) for prompt in make_prompts()]
    assert adapted != plain
    with tuned.disable_adapter():
        assert engine.generate_ids(make_prompts(), settings) == plain


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids are not supported", "ignore::UserWarning")
@pytest.mark.parametrize("arch", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("name", ["prompt", "prefix", "ptuning"])
def test_a_soft_prompt_is_read_once_and_answers_as_in_peft(
    arch: str, name: str, load: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    base, prompts = load(arch), make_prompts()
    settings = GenerateConfig(max_new_tokens=NEW_TOKENS)
    torch.manual_seed(5)
    method = MethodConfig(name=name, num_virtual_tokens=7)  # type: ignore[arg-type]
    tuned = apply_method(base, method, dtype=torch.float32).eval()
    references = [reference_ids(tuned, prompt) for prompt in prompts]
    stop_ids = (references[2][0], references[5][6])
    expected = [cut(ids, stop_ids) for ids in references]
    engine = Engine(tuned, tiny_tokenizer, template(*stop_ids))
    for batch_size in (1, 3, 8):
        completions = engine.generate_ids(prompts, settings, batch_size=batch_size)
        assert outcomes(completions) == expected
        assert [completion.prompt_tokens for completion in completions] == LENGTHS
    engine = Engine(tuned, tiny_tokenizer, template())
    with tuned.disable_adapter():
        plain = engine.generate_ids(prompts, settings)
    assert outcomes(plain) == [cut(reference_ids(tuned.get_base_model(), prompt), ()) for prompt in prompts]
    assert outcomes(plain) != outcomes(engine.generate_ids(prompts, settings))

    assert engine.context_tokens == CONTEXT - 7
    longest, _ = engine.generate_ids(make_prompts([CONTEXT - 7 - 3, 5]), settings)
    assert len(longest.token_ids) == 3
    with pytest.raises(DataError, match="reads at most 249"):
        engine.generate_ids(make_prompts([CONTEXT - 7]), settings)


def test_bfloat16_on_cpu(load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model = load("llama").bfloat16()
    completions = Engine(model, tiny_tokenizer, template()).generate_ids(
        make_prompts(), GenerateConfig(max_new_tokens=NEW_TOKENS), batch_size=1
    )
    assert outcomes(completions) == [cut(reference_ids(model, prompt), ()) for prompt in make_prompts()]


def test_progress_counts_every_answer_once(engine: Engine) -> None:
    calls: list[tuple[int, int]] = []
    prompts = make_prompts()
    first = engine.generate_ids(prompts, GenerateConfig(max_new_tokens=4), batch_size=1)
    stopping = Engine(engine.model, engine.tokenizer, template(first[0].token_ids[1], first[3].token_ids[0]))
    stopping.generate_ids(
        prompts,
        GenerateConfig(max_new_tokens=4),
        batch_size=5,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (8, 8)
    assert calls == sorted(set(calls))
    assert len(calls) > 2


def test_each_answer_is_told_once_when_it_has_ended(engine: Engine) -> None:
    told: list[dict[int, Completion]] = []
    prompts = make_prompts()
    first = engine.generate_ids(prompts, GenerateConfig(max_new_tokens=4), batch_size=1)
    stopping = Engine(engine.model, engine.tokenizer, template(first[0].token_ids[1], first[3].token_ids[0]))
    found = stopping.generate_ids(
        prompts,
        GenerateConfig(max_new_tokens=4),
        batch_size=3,
        on_answers=lambda answers: told.append(dict(answers)),
    )
    assert sorted(place for answers in told for place in answers) == list(range(8))
    assert all(found[place] == answer for answers in told for place, answer in answers.items())
    assert len(told) > 2  # not all at the end


def test_no_prompts_no_answers(engine: Engine) -> None:
    assert engine.generate_ids([], GenerateConfig()) == []


def test_conversations_are_rendered_by_the_one_renderer(load: Callable[..., Any], tiny_tokenizer: Any) -> None:
    source = tiny_tokenizer.chat_template
    stop_id = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = Template(name="chat", source=source, stop_ids=(stop_id,), stop_id=stop_id)
    engine = Engine(load("llama"), tiny_tokenizer, chat)
    conversations = [(Message("user", "Hello"),), (Message("system", "Short."), Message("user", "What is a press?"))]
    prompts = [render_prompt(messages, chat, tiny_tokenizer) for messages in conversations]
    settings = GenerateConfig(max_new_tokens=NEW_TOKENS)
    completions = engine.generate(conversations, settings)
    assert completions == engine.generate_ids(prompts, settings)
    assert [completion.prompt_tokens for completion in completions] == [len(prompt) for prompt in prompts]
    assert ["".join(engine.stream(messages, settings)) for messages in conversations] == [c.text for c in completions]


def test_running_out_of_memory_is_a_lack_of_resources(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(type(engine.model), "forward", Mock(side_effect=full))
    with pytest.raises(ResourceError, match="not enough memory for writing answers"):
        engine.generate_ids([(5, 6)], GenerateConfig())
    with pytest.raises(ResourceError, match=r"eval\.batch_size"):
        list(engine.stream_ids((5, 6), GenerateConfig()))
