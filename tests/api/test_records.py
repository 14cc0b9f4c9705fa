"""Where answers are kept: what is another model, other settings or another judge has another file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.local_server import LocalServer, QuietHandler, running
from tunesmith.api.records import answers_file, file_name, tools_of
from tunesmith.config import load_config
from tunesmith.generate import Endpoint
from tunesmith.model import LoadedModel

CONFIG = load_config()


def session(config: Any = CONFIG, **changes: Any) -> Any:
    tokenizer: Any = SimpleNamespace(chat_template="{{ messages }}")
    model: Any = None
    loaded = LoadedModel(model, tokenizer, "nowhere", "sha256:1", torch.float32, "", torch.device("cpu"))
    return SimpleNamespace(loaded=replace(loaded, **changes), config=config)


@pytest.mark.parametrize(
    "other",
    [
        session(dtype=torch.bfloat16),
        session(device=torch.device("cuda", 0)),
        session(revision="sha256:2"),
        session(load_config(overrides={"model.quantize": "nf4"})),
    ],
    ids=["dtype", "device", "base", "quantize"],
)
def test_answers_belong_to_the_model_as_it_was_loaded(tmp_path: Path, other: Any) -> None:
    first = answers_file(tmp_path, "base", CONFIG, session())
    assert answers_file(tmp_path, "base", CONFIG, session()) == first
    assert answers_file(tmp_path, "base", CONFIG, other) != first


@contextmanager
def ollama(digests: dict[str, str]) -> Iterator[str]:
    """An Ollama that has models with these digests, by name. Yields its address."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            models = [{"name": name, "digest": digest} for name, digest in digests.items()]
            body = json.dumps({"models": models if self.path == "/api/tags" else []}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with running(LocalServer(Handler)) as server:
        yield server.url


def test_a_model_of_ollama_that_was_made_anew_has_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"faq:latest": "one", "else": "x"}
    with ollama(digests) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        endpoint = Endpoint.parse("ollama:faq")
        assert endpoint is not None
        assert endpoint.digest() == "one"
        first = answers_file(tmp_path, "ollama:faq", CONFIG, endpoint)
        digests["else"] = "y"
        assert answers_file(tmp_path, "ollama:faq", CONFIG, endpoint) == first
        digests["faq:latest"] = "two"
        assert answers_file(tmp_path, "ollama:faq", CONFIG, endpoint) != first
    assert endpoint.digest() is None


def test_what_was_answered_without_a_setting_that_is_sent_now_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(overrides={"repetition_penalty": 1.2})
    endpoint = Endpoint("http://127.0.0.1:9/v1", "faq")
    first = answers_file(tmp_path, "faq", config, endpoint)
    monkeypatch.setattr("tunesmith.generate.remote._owner", lambda url: "llamacpp")
    assert answers_file(tmp_path, "faq", config, endpoint) != first


def test_a_judge_of_ollama_that_was_made_anew_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {"owl:latest": "one"}
    config = load_config(overrides={"eval.judge": "ollama:owl"})

    def found() -> object:
        judge = tools_of(config, tmp_path).judge
        assert judge is not None
        return judge.log.found("a reply")

    with ollama(digests) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        first = tools_of(config, tmp_path).judge
        assert first is not None
        first.log.keep({"a reply": {"likelihoods": [0.0]}})
        assert found() is not None
        digests["owl:latest"] = "two"
        assert found() is None
        digests["owl:latest"] = "one"
        assert found() is not None


def test_two_judges_never_share_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are the same once they are fit for a file."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nobody is there
    logs = []
    for judge in ("ollama:llama3:8b", "ollama:llama3-8b"):
        tools = tools_of(load_config(overrides={"eval.judge": judge}), tmp_path)
        assert tools.judge is not None
        tools.judge.log.keep({judge: {"likelihoods": [0.0]}})
        logs.append(tools.judge.log)
    assert logs[1].found("ollama:llama3:8b") is None
    assert len(list(tmp_path.glob("judge-ollama-llama3-8b-*.jsonl"))) == 2


def test_a_name_of_many_long_paths_is_short_enough_for_a_file() -> None:
    first, other = (file_name("-vs-".join(["runs/" + "ä" * 100] * 3) + end) for end in ("a", "b"))
    assert len(first.encode()) < 200
    assert first != other
    assert file_name("runs/a-vs-b") == "runs-a-vs-b"
