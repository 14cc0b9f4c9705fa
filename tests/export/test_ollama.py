"""Ollama's template against our renderer, byte for byte; the Modelfile; and the whole way with real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.export.fake_ollama import FakeOllama, fake_ollama
from tests.export.go_template import ask_ollama, execute
from tests.local_server import LocalServer, QuietHandler, running
from tests.prompts.conftest import FAMILIES, build_tokenizer
from tunesmith.api import export
from tunesmith.api.exporter import export_products
from tunesmith.config import load_config
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.export import (
    Evidence,
    LlamaServer,
    Modelfile,
    Ollama,
    Product,
    find_frame,
    is_writable,
    make_modelfile,
    verify_modelfile,
)
from tunesmith.prompts import check_template, prompt_text
from tunesmith.runs import Run
from tunesmith.types import Message

CONVERSATIONS = {
    "a question": ("Why?",),
    "three turns": ("What is a press?", "A machine.", "Who made it?"),
    "seven turns": ("One", "1", "Two", "2", "Three", "3", "Four"),
    "braces and quotes": ('{{ .Content }} "x" \\n {% if %} """', "{{ end }}\n\n", "`a` 🙂 ｜é"),
}
SYSTEMS = (None, "You are terse.", 'Say "no".\n{{ .System }}')
CUSTOM = "Instruction: {question}\n\nResponse: {answer}"


def same_prompts(tokenizer: Any, name: str) -> bool:
    """Whether every conversation has the same bytes in Ollama; BOS is llama.cpp's to add."""
    template = check_template(name, tokenizer)
    bos = tokenizer.bos_token or ""
    add_bos = bool(bos) and prompt_text([Message("user", "a")], template, tokenizer).startswith(bos)
    frame = find_frame(template, tokenizer, add_bos=add_bos)
    for system in SYSTEMS:
        for contents in CONVERSATIONS.values():
            texts = [content.strip() for content in contents] if frame.trims else contents
            messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
            if system is not None:
                messages.insert(0, Message("system", system))
            turns = [{"role": message.role, "content": message.content} for message in messages]
            found = ask_ollama(frame.source(), turns)
            assert frame.render(turns) == found
            assert (bos if add_bos else "") + found == prompt_text(messages, template, tokenizer)
    return True


@pytest.mark.parametrize("name", ["qa", "alpaca", "plain", CUSTOM, "Q: {question}\nA:", "{system}\n{question} => "])
@pytest.mark.parametrize("family", ["base", "base-bos"])
def test_text_templates_have_the_same_prompts(family: str, name: str) -> None:
    assert same_prompts(build_tokenizer(FAMILIES[family]), name)


@pytest.mark.parametrize(
    "family", ["chatml", "llama3", "llama3.2", "gemma", "phi3", "phi4", "qwen2.5", "qwen3", "mistral", "no-stop"]
)
def test_chat_templates_have_the_same_prompts(family: str) -> None:
    assert same_prompts(build_tokenizer(FAMILIES[family]), "chat")


def test_the_built_in_model_has_the_same_prompts() -> None:
    from transformers import AutoTokenizer

    import tunesmith.model

    folder = Path(tunesmith.model.__file__).parent / "builtin" / "nano"
    assert same_prompts(AutoTokenizer.from_pretrained(folder), "chat")


LAST_SYSTEM = (  # Mistral v3 and later: the system text stands before the last question
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{% if loop.last and system %}"
    "{{ system + '\n\n' }}{% endif %}{{ m['content'] }}<|im_end|>"
    "{% else %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
NUMBERED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + loop.index | string + '\n' + m['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant ' + "
    "(messages | length + 1) | string + '\n' }}{% endif %}"
)


@pytest.mark.parametrize(("source", "reason"), [(LAST_SYSTEM, "system, user, assistant"), (NUMBERED, "it writes")])
def test_what_go_cannot_say_is_refused_and_not_guessed(source: str, reason: str) -> None:
    tokenizer = build_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = source
    template = check_template("chat", tokenizer)
    with pytest.raises(SettingsError, match="cannot be written as a template of Ollama") as caught:
        find_frame(template, tokenizer, add_bos=False)
    assert reason in str(caught.value.cause)
    assert "llama-server" in str(caught.value.fix)


def test_the_evaluator_is_strict_and_trims_as_go_does() -> None:
    assert execute(
        ' a {{- "b\\n" }} {{ if eq .X 1 }}one{{ else if eq .X 2 }}two{{ else }}no{{ end -}} \n c', {"X": 2}
    ) == (" ab\n twoc")
    assert execute("{{ range $i, $m := .L }}{{ $i }}{{ len (slice $.L $i) }} {{ end }}", {"L": ["x", "y"]}) == "02 11 "
    for wrong in ("{{ .X | upper }}", "{{ trim .X }}", "{{ if .X }}", "{{ .X"):
        with pytest.raises((ValueError, IndexError)):
            execute(wrong, {"X": "x"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")
def test_a_run_is_exported_with_its_modelfile_and_verified(tuned: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    run = tuned(
        "llama", **{"prompt.system": 'You are "terse".', "generate.temperature": 0.5, "generate.stop": ["\nQ:"]}
    )
    result = export(str(run.path), out=tmp_path, to=["ollama"], quantize=["f32"], prompts=4)
    (one,) = result.products
    assert one.verdict.status == "verified", one.verdict.faults
    text = (tmp_path / "ollama-f32" / "Modelfile").read_text(encoding="utf-8")
    assert f"FROM ./{one.path.name}\n" in text
    assert "PARAMETER temperature 0.5\n" in text
    assert "PARAMETER num_predict 8\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text
    assert 'PARAMETER stop "<|endoftext|>"\n' in text
    assert 'PARAMETER stop """\nQ:"""\n' in text
    assert 'SYSTEM """You are "terse"."""\n' in text
    assert "LICENSE" not in text  # the base names none
    checks = {
        check["name"] for check in json.loads((tmp_path / "ollama-f32" / "verification.json").read_text())["checks"]
    }
    assert {"prompts", "stop tokens", "Modelfile", "logits"} <= checks


def test_quotation_marks_stand_between_three_of_them() -> None:
    stops: dict[str, float | list[str]] = {"stop": ['"', 'a "b"', "c"]}
    lines = Modelfile(template="{{ .Prompt }}", parameters=stops).text("m.gguf", origin="x").splitlines()
    assert lines[3:] == ['PARAMETER stop """""""', 'PARAMETER stop """a "b""""', 'PARAMETER stop "c"']


class Framed:
    """Of a file, what `verify_modelfile` asks; it renders nothing, as there are no cases."""

    tokens: ClassVar[list[str]] = ['<"end">']

    def ends(self, token_id: int) -> bool:
        return True

    def render(self, turns: object) -> str:
        raise NotImplementedError

    def tokenize(self, text: str) -> list[int]:
        raise NotImplementedError


def test_a_stop_token_with_a_quotation_mark_is_found_in_the_modelfile() -> None:
    frame = find_frame(check_template("qa", tokenizer := build_tokenizer(FAMILIES["base"])), tokenizer, add_bos=False)
    evidence = Evidence(
        cases=(), rows=(), limit=1, tokens=('<"end">',), stop_ids=(0,), score=lambda answer, expected: 0.0
    )
    for stops, passed in ((['<"end">'], True), (["<end>"], False)):
        text = Modelfile(template=frame.source(), parameters={"stop": stops}).text("m.gguf", origin="x")
        *_, told = verify_modelfile(Framed(), evidence, frame, text)
        assert (told.name, told.passed) == ("Modelfile", passed)


def test_a_stop_token_that_a_modelfile_cannot_hold_is_refused() -> None:
    tokenizer = build_tokenizer(FAMILIES["base"])
    tokenizer.add_special_tokens({"eos_token": '<"""end>'})
    template = replace(check_template("qa", tokenizer), stop_ids=(tokenizer.eos_token_id,))
    config = SimpleNamespace(max_position_embeddings=64, sliding_window=None)
    trained = SimpleNamespace(
        **{"tokenizer": tokenizer, "template": template, "config": config, "max_length": 32},
        **{"generate": load_config().generate, "facts": SimpleNamespace(system=None)},
    )
    with pytest.raises(SettingsError, match="a stop token of its tokenizer cannot be written into a Modelfile"):
        make_modelfile(trained)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")
def test_a_modelfile_that_is_gone_is_written_again(tuned: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    run = tuned("llama")
    config = load_config(stored=run.config_path, overrides={"export.prompts": 0})
    for _ in range(2):
        (one,) = export_products(run, config, [Product("ollama", "f32")], out=tmp_path, keep=True).products
        modelfile = one.path.parent / "Modelfile"
        modelfile.unlink()  # fails where it was not written
    assert one.path.exists()


def test_a_refusal_that_breaks_off_is_still_one(tmp_path: Path) -> None:
    class Rude(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"9\r\nbusy")
            self.close_connection = True

    with running(LocalServer(Rude)) as rude:
        with pytest.raises(ResourceError, match="refused") as caught:
            Ollama(rude.url).version()
        assert caught.value.cause == "status 500"
        with pytest.raises(ResourceError, match=r"refused /props") as refused:
            LlamaServer(rude.url, tmp_path)
        assert str(refused.value.cause).startswith("status 500")


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    with fake_ollama() as found:
        yield found


def make_files(folder: Path) -> tuple[Path, Modelfile]:
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 9000)  # more than one chunk
    parameters: dict[str, float | list[str]] = {"temperature": 0.5, "stop": ["<|im_end|>"]}
    return path, Modelfile(template="{{ .Prompt }}", parameters=parameters, system="Hi", licence="mit")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")
def test_training_rows_are_examples_where_they_are_asked_for(tuned: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    run = str(tuned("llama").path)
    (one,) = export(run, out=tmp_path, to=["ollama"], quantize=["f32"], prompts=0, messages=2).products
    lines = (one.path.parent / "Modelfile").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("MESSAGE")]
    assert [line.split()[1] for line in told] == ["user", "assistant"] * 2
    asked = int(told[0].removesuffix('?"').split()[-1])
    assert told[1] == f'MESSAGE assistant "The code is {asked * 7}."'
    assert lines[-4:] == told  # after everything else
    with pytest.raises(DataError, match="is 99, and") as caught:
        export(run, out=tmp_path, to=["ollama"], quantize=["f32"], prompts=0, messages=99)
    assert "or less" in str(caught.value.fix)
    assert not is_writable("a row with \u200b in it is no example")


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def test_a_model_is_made_of_a_file_that_is_sent_once(server: FakeOllama, tmp_path: Path) -> None:
    path, modelfile = make_files(tmp_path)
    seen: list[tuple[str, int, int]] = []
    for name in ("one", "team/two:q8_0"):
        Ollama(server.url).create(name, path, modelfile, on_progress=lambda *step: seen.append(step))
    assert server.pushes == 1
    assert list(server.blobs.values()) == [path.read_bytes()]
    assert set(server.models) == {"one", "team/two:q8_0"}
    made = server.models["one"]
    assert made["template"] == "{{ .Prompt }}"
    assert made["parameters"] == {"temperature": 0.5, "stop": ["<|im_end|>"]}
    assert (made["system"], made["license"]) == ("Hi", ["mit"])
    assert ("sending m.gguf", path.stat().st_size, path.stat().st_size) in seen


@pytest.mark.parametrize(
    ("place", "said", "message", "fix"),
    [
        ("push", "write blob: no space left on device", "disk of Ollama .* is full", "OLLAMA_MODELS"),
        ("create", "unsupported architecture", "refused", "update it"),
        ("silence", "", "ended before", "ollama serve"),
    ],
)
def test_what_a_server_says_is_told(
    place: str, said: str, message: str, fix: str, server: FakeOllama, tmp_path: Path
) -> None:
    server.say[place] = said
    path, modelfile = make_files(tmp_path)
    with pytest.raises(ResourceError, match=message) as caught:
        Ollama(server.url).create("one", path, modelfile, on_progress=no_progress)
    assert said in str(caught.value.cause)
    assert fix in str(caught.value.fix)


def test_no_server_is_told_before_anything_is_made(tuned: Callable[..., Run], tmp_path: Path) -> None:
    with fake_ollama() as gone:
        url = gone.url
    run = str(tuned("llama").path)
    with pytest.raises(ResourceError, match="cannot be reached") as caught:
        export(run, out=tmp_path / "out", to=["ollama"], create="faq", host=url)
    assert "ollama serve" in str(caught.value.fix)
    assert not (tmp_path / "out").exists()
    for wrong, words in (
        ({"to": ["gguf"]}, "--to ollama"),
        ({"to": ["ollama"], "quantize": ["f32", "q8_0"]}, "faq:q8_0"),
    ):
        with pytest.raises(SettingsError) as refused:
            export(run, out=tmp_path / "out", create="faq:1", host=url, **wrong)
        assert words in str(refused.value.fix)
    with pytest.raises(SettingsError, match="no address"):
        Ollama("ftp://x")


def test_the_command_line_makes_models(
    tuned: Callable[..., Run], server: FakeOllama, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    from tunesmith.cli import main

    tuned_run = tuned("llama")
    run, base = str(tuned_run.path), Path(tuned_run.settings["model"]["path"])
    command = ["export", run, "--to", "ollama", "--quantize", "f32,q8_0", "--verify", "0", "--out", str(tmp_path)]
    capsys.readouterr()
    assert main([*command, "--create", "faq", "--host", server.url]) == 0
    assert "ollama run faq:q8_0" in capsys.readouterr().out
    assert set(server.models) == {"faq:f32", "faq:q8_0"}
    text = (tmp_path / "ollama-q8_0" / "Modelfile").read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith(f" from {base.name}")
    assert base.is_absolute()
    assert str(base.parent) not in text  # it may be uploaded
    assert server.models["faq:q8_0"]["template"] in text
    assert server.models["faq:q8_0"]["parameters"]["stop"] == ["<|endoftext|>", "<|im_end|>"]
