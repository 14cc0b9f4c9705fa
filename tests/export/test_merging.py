"""Merged weights, streamed: how much memory that takes, and that a killed export leaves nothing under a final name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import make_tokenizer
from tunesmith.runs import Run

# Of the model, in memory beside what was there: a shard of a twentieth twice, since safetensors lays it out in bytes
# before it writes, some layers of 3 MB while one is merged, and as much again that the allocator has not given back.
SHARE = 0.2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_a_part_of_the_model(tmp_path: Path) -> None:
    """A LoRA of a model of 400 MB into shards of 20 MB; pages of the mapped base, which may go, are not counted."""
    import transformers as tf
    from peft import LoraConfig, get_peft_model

    tokenizer = make_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=8
    )
    model = tf.AutoModelForCausalLM.from_config(config)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base, max_shard_size="80MB")
    tokenizer.save_pretrained(base)
    tokenizer.save_pretrained(adapter)
    wrapped = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(adapter)
    script = """
        import re, sys, threading, time
        from pathlib import Path
        import torch
        from tunesmith.export.merged import write_merged
        from tunesmith.model import open_trained

        def anonymous():
            return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

        tensors = open_trained(sys.argv[1])
        tensors[next(iter(tensors.shapes))]
        before, peak, done = anonymous(), 0, False

        def watch():
            global peak
            while not done:
                peak = max(peak, anonymous())
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        place = Path(sys.argv[2])
        place.mkdir()
        write_merged(
            place, tensors, Path(sys.argv[1]), dtype=torch.float32, stop_ids=(1,), shard_bytes=20_000_000
        )
        done = True
        watcher.join()
        print(peak - before)
    """
    place = tmp_path / "merged"
    command = [sys.executable, "-c", textwrap.dedent(script), str(adapter), str(place)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    size = sum(path.stat().st_size for path in place.glob("*.safetensors"))
    assert size > 390e6
    assert len(list(place.glob("model-*-of-*.safetensors"))) >= 20
    assert int(answer.stdout.splitlines()[-1]) < SHARE * size


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 3])  # three processes each
def test_a_killed_export_leaves_what_was_there(call: int, tuned: Callable[..., Run], tmp_path: Path) -> None:
    """SIGKILL while the second export writes: the first one is there, whole; the next call clears up."""
    run = tuned("llama")
    script = """
        import os, signal, sys
        from tunesmith import api
        from tunesmith.export import merged
        real, calls = merged.save_file, 0

        def save(*arguments, **more):
            global calls
            calls += 1
            if calls == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        _shards = merged._shards
        merged._shards = lambda tensors, item, limit: _shards(tensors, item, 20_000)
        merged.save_file = save
        api.export(sys.argv[1], to=["merged"], prompts=0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(run.path)]
    assert subprocess.run([*command, "99"], check=True).returncode == 0
    exports = run.exports_dir
    before = {path.name: path.read_bytes() for path in (exports / "merged").iterdir()}
    assert len([name for name in before if name.endswith(".safetensors")]) > 3
    killed = subprocess.run([*command, str(call)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in (exports / "merged").iterdir()} == before
    assert list(exports.glob(".tmp-merged.*"))  # it was in the middle of it
    assert subprocess.run([*command, "99"], check=True).returncode == 0
    assert [path.name for path in exports.iterdir()] == ["merged"]
