"""Where a model comes from: what is refused before a weight is read, and what the user is told."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from tunesmith.config import builtin
from tunesmith.errors import ResourceError
from tunesmith.model import find_source, load_base, source
from tunesmith.model.source import compute_fingerprint, read_json, refuse_code


@pytest.fixture
def folder(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir("llama"), tmp_path / "base-model")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(path: str | Path, revision: str | None = None) -> ResourceError:
    with pytest.raises(ResourceError) as caught:
        find_source(str(path), revision)
    assert caught.value.exit_code == 4
    assert caught.value.fix or caught.value.cause
    return caught.value


def test_a_whole_folder_passes(folder: Path) -> None:
    found = find_source(str(folder))
    assert (found.name, found.folder, found.commit) == (str(folder), folder, None)


def test_the_home_folder_may_be_written_as_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_source("~/base-model").folder == folder


def empty_of(suffix: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for path in folder.glob(f"*{suffix}"):
            path.unlink()

    return remove


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nest(folder: Path) -> None:
    inner = folder / "model"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path != inner:
            path.rename(inner / path.name)


def as_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/the-base"}')


def index_with(*shards: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weight_map = {f"tensor{number}": shard for number, shard in enumerate(shards)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return write


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty_of("config.json"), ["has no config.json", "found there:", "model.safetensors"]),
        (empty_of(".safetensors"), ["has no weights (*.safetensors)", "git-lfs", "tokenizer.json"]),
        (only_pickle, ["only as pytorch_model.bin", "save_pretrained", "can run code"]),
        (nest, ["has no config.json", "did you mean", "base-model/model?"]),
        (as_adapter, ["holds an adapter", "'org/the-base'", "tunesmith chat RUN"]),
        (lambda f: change_config(f, model_type="lama"), ["does not know: 'lama'", "near names: ", "llama"]),
        (lambda f: change_config(f, model_type="t5"), ["'t5', which does not write text from left to right"]),
        (lambda f: change_config(f, model_type=["llama"]), ["architecture this transformers does not know"]),
        (lambda f: (f / "config.json").write_text("[1]"), ["must hold a JSON object, found list"]),
        (lambda f: (f / "config.json").write_text("{'"), ["cannot be read as JSON"]),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), ["cannot be read as JSON"]),
        (lambda f: (f / "config.json").write_text("[" * 100_000), ["cannot be read as JSON"]),
        (index_with("model.safetensors", "two.safetensors"), ["lacks 1 of 2 weight files: two.safetensors"]),
        (index_with("../../etc/shadow.safetensors"), ["not a valid index", "../../etc/shadow"]),
        (index_with("..\\x.safetensors"), ["not a valid index"]),
        (index_with(), ["not a valid index"]),
    ],
)
def test_folders_that_are_no_model(folder: Path, spoil: Callable[[Path], object], words: list[str]) -> None:
    spoil(folder)
    told = str(refusal(folder))
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"model_type": "vit", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),  # writes no text
        ({"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ({"text_config": {"deep": [{"_experts_implementation_internal": "x"}]}}, "_experts_implementation_internal"),
        ({"sub": {"trust_remote_code": True}}, "trust_remote_code"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ({"_attn_implementation": {"text_config": "evil/kernel:run"}}, "_attn_implementation"),
    ],
)
def test_a_config_that_asks_for_code(folder: Path, changes: dict[str, Any], key: str) -> None:
    change_config(folder, **changes)
    told = refusal(folder)
    assert f"while the model is loaded: {key}" in told.message
    assert "never run" in str(told.cause)


def test_harmless_settings_pass(folder: Path) -> None:
    change_config(folder, attn_implementation="sdpa", internal_size=3, architectures=["a/b"])
    find_source(str(folder))
    refuse_code("x", {"_name_or_path": "org/name", "nested": [{"a": ["b/c"]}]})


def test_names_of_folders_that_are_not_there(folder: Path) -> None:
    assert f"did you mean {folder}?" in str(refusal(folder.parent / "base-modle").fix)
    assert "builtin:nano" in str(refusal("./no/such/place").fix)


def test_files_that_are_no_folder(tmp_path: Path) -> None:
    for name, words in (("x.gguf", "GGUF files cannot be trained"), ("model.safetensors", str(tmp_path))):
        (tmp_path / name).write_text("")
        assert words in str(refusal(tmp_path / name).fix)


def test_builtin_models(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "BUILTIN_FOLDER", tmp_path)
    assert find_source("builtin:base-model").folder == folder
    told = refusal("builtin:base-modl")
    assert "there are: builtin:base-model" in told.message
    assert told.fix == "did you mean builtin:base-model?"
    monkeypatch.setattr(builtin, "BUILTIN_FOLDER", tmp_path / "nothing")
    assert "not in this installation" in refusal("builtin:nano").message


def test_the_fingerprint_covers_config_weights_and_names(folder: Path) -> None:
    first = compute_fingerprint(folder)
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 64
    (folder / "model.safetensors").touch()
    (folder / "README.md").write_text("not part of it")
    assert compute_fingerprint(folder) == first
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    second = compute_fingerprint(folder)
    change_config(folder, rope_theta=1.0)
    third = compute_fingerprint(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert len({first, second, third, compute_fingerprint(folder)}) == 4


def test_large_weights_are_known_by_their_headers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FULLY_HASHED_BYTES", 10)
    first = compute_fingerprint(folder)
    assert first.startswith("sha256-headers:")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert compute_fingerprint(folder) == first  # numbers are not covered, and the prefix says so
    weights[12] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert compute_fingerprint(folder) != first


def test_a_missing_json_file(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be read as JSON"):
        read_json(tmp_path / "config.json")


# --- the hub ---


def test_offline_is_one_error_at_once() -> None:
    started = time.monotonic()
    told = refusal("some-org/some-model")
    assert time.monotonic() - started < 10  # the library's own retries take 23 seconds
    assert "there is no folder 'some-org/some-model', the hub cannot be reached" in told.message
    assert "offline mode" in str(told.cause)
    assert "HF_TOKEN" in str(told.fix)
    assert "hf auth login" in str(told.fix)


def test_an_unreachable_hub_is_not_tried_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    assert "the hub cannot be reached" in refusal("some-org/some-model").message
    assert time.monotonic() - started < 10


def hub_error(kind: type[Exception], text: str) -> Exception:
    return kind(text, response=Mock(headers={}, status_code=403))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            hub_error(errors.GatedRepoError, "403 Client Error.\nlong"),
            ["is gated", "huggingface.co/org/name", "HF_TOKEN"],
        ),
        (hub_error(errors.RepositoryNotFoundError, "401 Client Error."), ["neither a folder nor a public hub model"]),
        (hub_error(errors.RevisionNotFoundError, "404"), ["has no revision 'v9'", "model.revision"]),
        (hub_error(errors.HfHubHTTPError, "503 Server Error"), ["the hub answered with an error", "503"]),
        (errors.HFValidationError("Repo id must be ..."), ["it is not a hub id"]),
        (TimeoutError("timed out"), ["the hub cannot be reached", "timed out"]),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, raised: Exception, words: list[str]) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", Mock(side_effect=raised))
    told = refusal("org/name", "v9")
    assert "\n" not in str(told.cause)
    for word in words:
        assert word in str(told)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["config.json", "pytorch_model.bin"], "only safetensors are loaded"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter"),
        (["model.gguf"], "has no config.json"),
    ],
)
def test_a_hub_model_is_judged_by_its_list_of_files(
    monkeypatch: pytest.MonkeyPatch, names: list[str], words: str
) -> None:
    info = Mock(siblings=[Mock(rfilename=name) for name in names], sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", Mock(return_value=info))
    download = Mock(side_effect=AssertionError("nothing is downloaded"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert words in refusal("org/name").message


def test_a_cached_model_is_used_when_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(folder / "config.json"))
    found = find_source("org/name")
    assert (found.location, found.commit, found.only_cached) == ("org/name", folder.name, True)
    change_config(folder, trust_remote_code=True)
    assert "trust_remote_code" in refusal("org/name").message


def test_code_that_transformers_does_not_need_is_left_aside(folder: Path) -> None:
    """Older microsoft/Phi-3 repositories still name their own code, though transformers has the architecture."""
    (folder / "evil.py").write_text("raise AssertionError('this code must never run')\n")
    change_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    assert find_source(str(folder)).folder == folder
    assert type(load_base(str(folder)).model).__module__.startswith("transformers.")
