"""`tunesmith ollama` killed between and inside its stages, called again, and compared with an undisturbed call."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_runs import Project
from tests.export.fake_ollama import FakeOllama, fake_ollama

pytest.importorskip("gguf")

NAME = "faq"
SETTINGS = {  # other people's names, as scripts that end in Ollama have them
    "model_name_or_path": "model",
    "dataset_path": "faq.csv",
    "finetuning_type": "lora",
    "lora_r": 4,
    "max_steps": 6,
    "save_steps": 2,
    "max_seq_length": 64,
    "torch_dtype": "float32",
    "device": "cpu",
    "max_new_tokens": 6,
    "quantization_method": "Q8_0",
    "ollama_model_name": "faq",
    "name": NAME,
    "eval": {"max_rows": 3},
    "export": {"prompts": 2, "messages": 1},
}
STAGES = ["data", "train", "eval", "merge", "gguf", "quantise", "verify", "verify", "verify", "create"]


@pytest.fixture(scope="session")
def server() -> Iterator[FakeOllama]:
    with fake_ollama() as found:
        yield found


@pytest.fixture(scope="session")
def pipeline(project: Project, server: FakeOllama) -> Any:
    """pipeline("first", hook=...) -> exit code and output of the command for a run in that folder."""
    (project.folder / "faq.json").write_text(json.dumps(SETTINGS))

    def call(place: str, **options: Any) -> tuple[int, str]:
        target = ["--output_dir", f"{place}/{NAME}", "--ollama_host", server.url]
        return project.call("ollama", "faq.json", *target, **options)

    return call


@pytest.fixture(scope="session")
def undisturbed(project: Project, pipeline: Any) -> dict[str, bytes]:
    code, output = pipeline("undisturbed")
    assert code == 0, output
    assert stages(output) == [(name, False) for name in STAGES]
    return files(project.folder / "undisturbed")


def stages(output: str) -> list[tuple[str, bool]]:
    """Stages that were told, and whether they were done before."""
    lines = [line for line in output.splitlines() if line.partition(": ")[0] in STAGES]
    return [(line.partition(": ")[0], line.endswith("(done before)")) for line in lines]


def files(place: Path) -> dict[str, bytes]:
    """What came of it: weights, files for llama.cpp, Modelfile, cards; cards and verdicts without what they timed."""
    run = place / NAME
    wanted = [*run.glob("model/*.safetensors"), *run.glob("exports/*/*")]
    found = {str(path.relative_to(run)): path.read_bytes() for path in wanted if path.name != "verification.json"}
    for name, content in found.items():
        if name.endswith("README.md"):
            found[name] = re.sub(rb"(Training time \| )\d+ seconds", rb"\1", content)
            assert found[name] != content
    for path in run.glob("exports/*/verification.json"):
        content = json.loads(path.read_text())
        content["numbers"].pop("tokens_per_second", None)
        found[str(path.relative_to(run))] = json.dumps(content).encode()
    return found


def hook(module: str, name: str, call: int = 1) -> dict[str, object]:
    return {"module": f"tunesmith.{module}", "name": name, "call": call, "signals": [signal.SIGKILL]}


# where it is killed -> stages that the next call finds done
PLACES = {
    "reading": (hook("api.pipeline", "prepare"), []),
    "loading": (hook("train.recipe", "load_base"), []),
    "a checkpoint": (hook("train.checkpoint", "save_file", 3), ["data"]),
    "the model": (hook("train.recipe", "save_adapter"), ["data"]),
    "the card": (hook("api.verbs", "write_card"), ["data"]),
    "the base's answers": (hook("api.measuring", "ask_session", 2), ["data", "train"]),
    "the report": (hook("api.measuring", "run_page"), ["data", "train"]),
    "a shard": (hook("export.merged", "save_file"), ["data", "train", "eval"]),
    "a tensor": (hook("export.gguf", "change", 9), ["data", "train", "eval", "merge"]),
    "the Modelfile": (hook("export.targets", "_modelfile_text"), ["data", "train", "eval", "merge", "gguf"]),
    "a check": (hook("api.verifiers", "verify_numbers", 2), ["data", "train", "eval", "merge", "gguf", "quantise"]),
    "handing over": (hook("export.ollama", "_chunks"), STAGES[:-1]),
}
# what is not verified, for want of llama.cpp, is not done: it is tried at every call
VERIFIED = ("a check", "handing over")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_it_goes_on(
    place: str, project: Project, pipeline: Any, undisturbed: dict[str, bytes], server: FakeOllama
) -> None:
    if place in VERIFIED:
        pytest.importorskip("llama_cpp")
    planted, done = PLACES[place]
    folder = f"killed-{list(PLACES).index(place)}"
    code, output = pipeline(folder, hook=planted)
    assert code == -signal.SIGKILL, output
    for product in (project.folder / folder / NAME / "exports").glob("[!.]*/"):
        assert (product / "verification.json").exists()  # what has its name is whole
    server.models.clear()
    code, output = pipeline(folder)
    assert code == 0, output
    assert "Traceback" not in output
    told = stages(output)
    assert [name for name, is_done in told if is_done] == done
    assert [name for name, _ in told] == STAGES
    assert files(project.folder / folder) == undisturbed
    assert list((project.folder / folder / NAME / "exports").glob(".*")) == []  # nothing is left of the killed one
    assert set(server.models) == {"faq"}
    assert server.models["faq"]["messages"][0]["role"] == "user"


@pytest.mark.slow
def test_a_call_after_the_last_does_nothing_again(
    project: Project, pipeline: Any, undisturbed: dict[str, bytes], server: FakeOllama
) -> None:
    pytest.importorskip("llama_cpp")
    exports = project.folder / "undisturbed" / NAME / "exports"
    written = {path: path.stat().st_mtime_ns for path in exports.rglob("*.gguf")}
    pushes = server.pushes
    code, output = pipeline("undisturbed")
    assert code == 0
    assert stages(output) == [*((name, True) for name in STAGES[:-1]), ("create", False)]
    assert {path: path.stat().st_mtime_ns for path in exports.rglob("*.gguf")} == written
    assert server.pushes == pushes  # Ollama has the file


@pytest.mark.slow
def test_other_settings_are_another_run(project: Project, pipeline: Any, undisturbed: dict[str, bytes]) -> None:
    text = (project.folder / "faq.json").read_text()
    try:
        (project.folder / "faq.json").write_text(json.dumps({**SETTINGS, "lora_r": 8}))
        code, output = pipeline("undisturbed")
        assert code == 2
        assert "method.r is 8, the run has 4" in output
        assert "another name" in output
        # what Ollama is told may change: the files of the merge stay
        (project.folder / "faq.json").write_text(json.dumps({**SETTINGS, "temperature": 0.5}))
        code, output = pipeline("undisturbed")
        assert code == 0, output
        assert dict(stages(output))["merge"] is True
        assert dict(stages(output))["quantise"] is False
        modelfile = project.folder / "undisturbed" / NAME / "exports" / "ollama-q8_0" / "Modelfile"
        assert "PARAMETER temperature 0.5\n" in modelfile.read_text()
    finally:
        (project.folder / "faq.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"finetuning_type": "prompt", "lora_r": 4}, 2, "prompt has no method.r: leave it out"),
        ({"finetuning_type": "prompt", "lora_r": 16}, 2, "cannot be put into the base's weights"),
        ({"quantization_method": "q9"}, 2, "unknown type 'q9'"),
        ({"learning_rte": 1}, 2, "did you mean"),
        ({"dataset_path": "gone.csv"}, 3, "gone.csv"),
        ({"ollama_host": "http://127.0.0.1:9"}, 4, "ollama serve"),
    ],
)
def test_what_cannot_be_is_told_before_training(
    change: dict[str, object], code: int, said: str, project: Project
) -> None:
    settings = {**SETTINGS, "ollama_model_name": None, "name": "refused", **change}
    if "ollama_host" in change:
        settings["ollama_model_name"] = "faq"
    (project.folder / "refused.json").write_text(json.dumps(settings))
    found, output = project.call("ollama", "refused.json")
    assert found == code, output
    assert said in output
    assert not (project.folder / "runs" / "refused").exists()
