"""The Python API, as the guides write it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import FinetuningConfig, ModelFinetuner, RunConfig, api
from tunesmith.errors import DataError, SettingsError


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> FinetuningConfig:
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"What is the code of colour {number}?,The code is {number * 7}." for number in range(20))
    (tmp_path / "train.csv").write_text(f"question,answer\n{rows}\n")
    return FinetuningConfig(
        model_name=str(tiny_model_dir("llama")),
        train_file="train.csv",
        use_lora=True,
        num_train_epochs=1,
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
    )


def test_load_train_evaluate_test_save_generate(config: FinetuningConfig) -> None:
    finetuner = ModelFinetuner(config)
    finetuner.load_model()
    before = finetuner.generate("What is the code of colour 3?", max_new_tokens=6, temperature=0.0)
    finetuner.train()
    assert finetuner.evaluate() == pytest.approx(finetuner.result.state.best_loss)
    scores = finetuner.test([{"question": "What is the code of colour 3?", "answer": "The code is 21."}])
    of_short_answers = ["exact_match", "token_f1", "chrf"]
    assert list(scores) == ["perplexity", "bits_per_byte", *of_short_answers, "ended", "repetition", "words"]
    folder = finetuner.save_model()
    assert (folder / "adapter_model.safetensors").exists()
    answer = finetuner.generate("What is the code of colour 3?", max_new_tokens=6)

    other = ModelFinetuner()
    other.load_finetuned_model(folder)
    assert other.generate("What is the code of colour 3?", max_new_tokens=6, temperature=0.0) == answer
    assert answer != before
    other.load_finetuned_model(str(config.model_name))
    assert other.generate("What is the code of colour 3?", max_new_tokens=6, temperature=0.0) == before  # the base's


def test_a_loop_over_learning_rates_makes_a_run_each(config: FinetuningConfig) -> None:
    finetuner, names = ModelFinetuner(config), []
    for rate in (1e-3, 1e-2):
        config.learning_rate = rate
        names.append(finetuner.train().run.name)
    assert names == ["train", "train-2"]
    assert config.learning_rate == 1e-2


def test_mistakes_are_told_at_once(config: FinetuningConfig) -> None:
    with pytest.raises(SettingsError, match=r"did you mean '(train\.)?learning_rate'"):
        FinetuningConfig(learning_rat=1)
    with pytest.raises(SettingsError, match=r"train\.learning_rate = -1"):
        config.learning_rate = -1
    assert config.learning_rate == 1e-2
    with pytest.raises(SettingsError, match="no tuned model yet"):
        ModelFinetuner(config).test([])
    with pytest.raises(SettingsError, match="nothing has been trained yet"):
        ModelFinetuner(config).evaluate()
    with pytest.raises(AttributeError, match="was not set"):
        _ = config.weight_decay


def test_the_last_assignment_holds_by_whichever_name() -> None:
    config = FinetuningConfig(num_train_epochs=3)
    config.epochs = 5
    assert config.run_config.train.epochs == 5
    config.num_train_epochs = 1
    assert config.run_config.train.epochs == 1


def test_training_has_no_other_model_in_memory_beside_its_own(config: FinetuningConfig) -> None:
    finetuner = ModelFinetuner(config)
    finetuner.load_model()
    alive: list[object] = []

    def look(event: object) -> None:
        gc.collect()
        alive.extend(found for found in models if found() is not None)

    models = [weakref.ref(finetuner._base.model)]
    finetuner.train(observers=[look])
    answer = finetuner.generate("What is the code of colour 3?", max_new_tokens=3)
    models = [weakref.ref(finetuner._session.loaded.model)]
    config.learning_rate = 1e-3
    finetuner.train(observers=[look])
    assert alive == []
    assert finetuner.generate("What is the code of colour 3?", max_new_tokens=3) != answer


def test_a_training_that_fails_leaves_the_tuned_model(config: FinetuningConfig) -> None:
    finetuner = ModelFinetuner(config)
    finetuner.train()
    answer = finetuner.generate("What is the code of colour 3?", max_new_tokens=3)
    config.train_file = "gone.csv"
    with pytest.raises(DataError):
        finetuner.train()
    assert finetuner.generate("What is the code of colour 3?", max_new_tokens=3) == answer


@pytest.mark.parametrize("given", ["builtin:nano", {"model_name": "builtin:nano"}, RunConfig(), {}])
def test_a_config_of_another_kind_is_told(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"config is of the type .*, not FinetuningConfig") as caught:
        ModelFinetuner(given)
    assert "train_file=" in str(caught.value.fix)


@pytest.mark.parametrize("verb", [tunesmith.inspect, tunesmith.pretrain, api.train])
def test_verbs_say_which_settings_they_take(verb: Callable[[Any], object]) -> None:
    for given in ("faq.csv", {"data": "faq.csv"}, FinetuningConfig()):
        with pytest.raises(SettingsError, match=r"config is of the type .*, not RunConfig") as caught:
            verb(given)
        assert "run_config of a FinetuningConfig" in str(caught.value.fix)


def test_a_session_is_opened_by_a_path_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no run"):
        tunesmith.open_session(tmp_path / "nope")


def test_values_of_the_wrong_kind_are_told(config: FinetuningConfig) -> None:
    finetuner = ModelFinetuner(config)
    with pytest.raises(SettingsError, match=r"generate\.temperature = -1"):
        finetuner.generate("Why?", temperature=-1)
    for prompt in (["Why?", "How?"], None):
        with pytest.raises(SettingsError, match=r"prompt is of the type .*, not str"):
            finetuner.generate(prompt)  # type: ignore[arg-type]
    finetuner.load_finetuned_model(str(config.model_name))
    for rows in ("faq.csv", {"question": "a", "answer": "b"}):
        with pytest.raises(SettingsError, match="not a list"):
            finetuner.test(rows)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="row 2 holds 21, which is no text"):
        finetuner.test([{"question": "a", "answer": "b"}, {"question": "a", "answer": 21}])
