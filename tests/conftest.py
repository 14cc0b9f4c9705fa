"""Shared fixtures: a throw-away tokenizer, tiny random models of every architecture, the open data sets."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import Crew, crew_at_work
from tests.shortcuts import draw_only, stay_in_memory
from tunesmith.runs import plots

if TYPE_CHECKING:
    from tunesmith.train import Event

gc.disable()  # until everything is collected
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Properties are proven on machines that others use too: how long an example takes is not one of them.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A model is trained on many sentences, and it learns.",
    "We store weights in safetensors files. Hello world! 12345 67890 it's we'll don't",
    "Le café était très bon, naïve façade.\n\nNew line here.",
    "### Question: What is a press?\n\n### Answer: A machine that prints.",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(chat_template: str | None = CHATML) -> Any:
    """Byte-level BPE of about 400 tokens with its own pad, stop and turn tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(arch: str, vocab_size: int) -> Any:
    """A random two-layer model, hidden size 32."""
    import torch
    import transformers as tf

    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        **ids,
    }
    grouped = {**shared, "num_key_value_heads": 2}
    configs = {
        "llama": lambda: tf.LlamaConfig(**grouped),
        "mistral": lambda: tf.MistralConfig(**grouped, sliding_window=None),
        "mistral, window 8": lambda: tf.MistralConfig(**grouped, sliding_window=8),
        "qwen2": lambda: tf.Qwen2Config(**grouped, tie_word_embeddings=False),
        "qwen3": lambda: tf.Qwen3Config(**grouped, head_dim=8, tie_word_embeddings=True),
        "gpt2": lambda: tf.GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids),
        "gpt_neox": lambda: tf.GPTNeoXConfig(**shared),
        "gpt_neo": lambda: tf.GPTNeoConfig(
            **{"vocab_size": vocab_size, "hidden_size": 32, "num_layers": 2, "num_heads": 4, **ids},
            **{"attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 256},
        ),
        "phi": lambda: tf.PhiConfig(**shared, partial_rotary_factor=0.5),
        "phi3": lambda: tf.Phi3Config(**grouped, original_max_position_embeddings=256, sliding_window=None),
        "gemma": lambda: tf.GemmaConfig(**{**grouped, "num_key_value_heads": 1}, head_dim=8),
    }
    torch.manual_seed(0)
    return randomised(tf.AutoModelForCausalLM.from_config(configs[arch]()))


def randomised(model: Any) -> Any:
    """`model` in float32 with weights so large that logits differ, and biases and norms nobody else has."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.float().eval()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What was imported stays: the garbage collector need not look through a million objects again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def rendering() -> Iterator[Callable[..., bytes]]:
    """Takes shortcuts. Yields what really renders, for tests of pictures."""
    real = plots.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "render", draw_only)
        patch.setattr(os, "fsync", stay_in_memory)
        yield real


def stop_at(step: int) -> Callable[[Event], None]:
    """An observer that asks the run to stop after `step`, as Ctrl-C and `kill` do."""

    def observe(event: Event) -> None:
        if event.kind == "train" and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return observe


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_model_dir("llama") -> folder of a saved tiny random model with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(arch: str) -> Path:
        if arch not in made:
            path = tmp_path_factory.mktemp(arch)
            tokenizer = make_tokenizer()
            make_model(arch, len(tokenizer)).save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[arch] = path
        return made[arch]

    return folder


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Runs command lines in processes that need not import anything."""
    with crew_at_work(tmp_path_factory.mktemp("output") / "text") as found:
        yield found


@pytest.fixture(scope="session")
def open_data() -> Path:
    """Folder of the open data sets; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "open"
    path = Path(os.environ.get("TUNESMITH_DATA", default))
    if not path.is_dir():
        pytest.skip(f"the open data sets are not at {path}; set TUNESMITH_DATA")
    return path
