"""Looking at data: what it shows is what training reads, though it comes without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tunesmith.api.look import _tokenizer, check_finished
from tunesmith.config import find_builtin
from tunesmith.errors import ResourceError
from tunesmith.prompts import check_template
from tunesmith.runs import Run

TURNS = [{"role": "user", "content": "What is a press?"}, {"role": "assistant", "content": "It prints. Ünïcödé 12"}]


def test_the_packaged_tokenizer_is_the_one_that_training_loads() -> None:
    looked, trained = _tokenizer("builtin:nano"), AutoTokenizer.from_pretrained(find_builtin("builtin:nano"))
    assert type(looked) is type(trained)
    assert looked.special_tokens_map == trained.special_tokens_map
    assert looked.get_vocab() == trained.get_vocab()
    templates = [check_template("auto", each, shape="pairs") for each in (looked, trained)]
    assert templates[0] == templates[1]
    texts = [each.apply_chat_template(TURNS, tokenize=False) for each in (looked, trained)]
    assert looked(texts[0])["input_ids"] == trained(texts[1])["input_ids"]


def test_an_unfinished_pre_training_is_finished_by_its_own_command(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "books", config_text="seed: 1\n", manifest={"kind": "pretrain", "status": "stopped"})
    with pytest.raises(ResourceError, match="books has no finished model") as caught:
        check_finished(run)
    assert caught.value.fix == f"finish it with: tunesmith pretrain --resume {run.path}"


def test_a_finished_run_whose_model_is_gone_is_not_to_be_finished(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "faq", config_text="seed: 1\n", manifest={"status": "finished"})
    with pytest.raises(ResourceError, match="faq has lost its model: there is no") as caught:
        check_finished(run)
    assert "restore" in str(caught.value.fix)
