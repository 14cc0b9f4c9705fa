"""`tunesmith push`: the real client of huggingface_hub against the Hub's protocol, and what never goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from tests.export.fake_hub import TOKEN, FakeHub, fake_hub
from tunesmith.api import export, push
from tunesmith.cli import main
from tunesmith.errors import GateFailed, ResourceError, SettingsError
from tunesmith.export import choose_files
from tunesmith.runs import Run

# the client's own, where it sends a large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    constants = huggingface_hub.constants
    with fake_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(tuned: Callable[..., Run], tmp_path: Path) -> Run:
    """A finished run that a test may change, with a merged export of its own."""
    folder = tmp_path / "runs" / "colours"
    shutil.copytree(tuned("llama").path, folder)
    export(str(folder), to=["merged"], prompts=0)
    mark = folder / "exports" / "merged" / "verification.json"
    mark.write_text(mark.read_text().replace('"unverified"', '"verified"'))
    return Run.open(folder)


def test_the_model_of_a_run_goes_to_a_private_repository(run: Run, hub: FakeHub) -> None:
    result = push(str(run.path), "ada/colours")
    repo = hub.repos["ada/colours"]
    assert repo["private"] is True
    assert result.url == f"{hub.url}/ada/colours"
    here = {file.name: file.read_bytes() for file in run.model_dir.iterdir()}
    there = {name: content for name, content in repo["files"].items() if name != ".gitattributes"}
    assert there.keys() == here.keys()
    for name in here.keys() - {"adapter_config.json"}:
        assert there[name] == here[name], name
    assert hub.commits == ["Upload the model of colours with Tunesmith"]


def test_no_path_of_this_machine_goes_with_an_adapter(run: Run, hub: FakeHub) -> None:
    before = json.loads((run.model_dir / "adapter_config.json").read_text())
    assert Path(before["base_model_name_or_path"]).is_absolute()
    push(str(run.path), "ada/colours")
    sent = json.loads(hub.repos["ada/colours"]["files"]["adapter_config.json"])
    assert sent == {**before, "base_model_name_or_path": Path(before["base_model_name_or_path"]).name}
    everything = b"".join(hub.repos["ada/colours"]["files"].values())
    assert str(run.path.parent).encode() not in everything
    assert str(Path(before["base_model_name_or_path"]).parent).encode() not in everything


def test_an_export_goes_by_its_name_or_its_folder(run: Run, hub: FakeHub, tmp_path: Path) -> None:
    push(str(run.path), "ada/colours-merged", export="merged", public=True)
    repo = hub.repos["ada/colours-merged"]
    assert repo["private"] is False
    assert {"model.safetensors", "config.json", "README.md", "verification.json"} <= repo["files"].keys()
    elsewhere = shutil.copytree(run.exports_dir / "merged", tmp_path / "elsewhere" / "merged")
    push(str(run.path), "ada/again", export=str(elsewhere))
    assert hub.repos["ada/again"]["files"] == repo["files"]


def test_what_was_measured_on_the_training_rows_stays(run: Run, hub: FakeHub) -> None:
    (run.exports_dir / "merged" / "importance.gguf").write_bytes(b"GGUF")
    (run.exports_dir / "merged" / "model-q4_k_m.gguf").write_bytes(b"GGUF")
    push(str(run.path), "ada/colours", export="merged")
    sent = hub.repos["ada/colours"]["files"].keys()
    assert "model-q4_k_m.gguf" in sent
    assert "importance.gguf" not in sent


@pytest.mark.parametrize("status", ["failed", "unverified"])
def test_an_export_that_is_not_verified_stays_unless_forced(run: Run, hub: FakeHub, status: str) -> None:
    mark = run.exports_dir / "merged" / "verification.json"
    checks = [
        {"name": "vocabulary", "passed": True, "detail": "all 400 tokens are the tokenizer's"},
        {"name": "greedy text", "passed": False, "detail": "row 3: 'a private answer', was 'another'"},
    ]
    content = {"status": status, "reason": "llama.cpp is not there", "checks": checks if status == "failed" else []}
    mark.write_text(json.dumps(content))
    with pytest.raises(GateFailed, match=f"merged is {status}") as caught:
        push(str(run.path), "ada/colours", export="merged")
    assert ("a private answer" if status == "failed" else "llama.cpp is not there") in str(caught.value.cause)
    assert hub.log == []
    push(str(run.path), "ada/colours", export="merged", force=True)
    sent = hub.repos["ada/colours"]["files"]["verification.json"]
    assert json.loads(sent)["status"] == status
    assert b"private" not in sent  # what a failed check says quotes the user's rows
    assert (b"the tokenizer's" in sent) is (status == "failed")


def test_a_dry_run_tells_everything_and_asks_nobody(
    run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run.path), "ada/colours", "--export", "merged", "--dry-run"]) == 0
    printed = capsys.readouterr()
    for file in (run.exports_dir / "merged").iterdir():
        assert file.name in printed.out
    assert (run.exports_dir / "merged" / "README.md").read_text().strip() in printed.out
    assert "private" in printed.out
    assert "nobody was asked" in printed.err
    assert main(["push", str(run.path), "ada/colours", "--dry-run", "--json", "--public"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["private"] is False
    assert document["url"] is None
    assert {"name": "README.md", "bytes": (run.model_dir / "README.md").stat().st_size} in document["files"]
    assert ModelCard(document["card"]).data.library_name == "peft"
    assert hub.log == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (".env", "KEY=1", ".env does not belong to a model"),
        ("colours.csv", "question,answer", "colours.csv does not belong to a model"),
        ("replay.jsonl", "{}", "replay.jsonl does not belong to a model"),
        ("optimizer.safetensors", "x", "optimizer.safetensors does not belong to a model"),
        ("training_args.bin", "x", "training_args.bin does not belong to a model"),
        ("step-000050/model.safetensors", "x", "step-000050/ does not belong to a model"),
        ("LICENSE", "AKIA" + "Q" * 16, "LICENSE line 1 holds a key of AWS"),
        ("chat_template.jinja", "{# \n" + TOKEN + " #}", "chat_template.jinja line 2 holds a token of the Hub"),
        ("NOTICE", "-----BEGIN OPENSSH PRIVATE KEY-----", "NOTICE line 1 holds a private key"),
        ("added_tokens.json", '{"a-token-of-another-form": 3}', "added_tokens.json line 1 holds your token of the Hub"),
    ],
)
def test_leftovers_and_secrets_are_refused(
    name: str, content: str, words: str, run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form" if name == "added_tokens.json" else TOKEN)
    file = run.model_dir / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        push(str(run.path), "ada/colours")
    assert words in caught.value.problems
    assert hub.log == []


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_adapter_is_told(content: str, run: Run) -> None:
    (run.model_dir / "adapter_config.json").write_text(content)
    with pytest.raises(SettingsError) as caught:
        push(str(run.path), "ada/colours", dry_run=True)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["adapter_config.json is damaged"]


def test_a_link_and_a_folder_without_a_card_are_refused(run: Run, tmp_path: Path) -> None:
    (run.model_dir / "README.md").unlink()
    with pytest.raises(SettingsError) as caught:
        choose_files(run.model_dir)
    assert caught.value.problems == ("it has no README.md, which says what it is and under which licence",)
    (tmp_path / "elsewhere").write_text("---\nlicense: mit\n---\n")
    (run.model_dir / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError) as caught:
        choose_files(run.model_dir)
    assert "README.md is a link" in caught.value.problems[0]


def test_a_repository_that_is_there_is_not_touched_without_update(run: Run, hub: FakeHub) -> None:
    hub.repos["ada/colours"] = {
        "private": True,
        "files": {"model-00001-of-00002.safetensors": b"old", "picture.png": b"mine", "README.md": b"old"},
    }
    before = dict(hub.repos["ada/colours"]["files"])
    with pytest.raises(SettingsError, match="ada/colours is there already") as caught:
        push(str(run.path), "ada/colours", export="merged")
    assert "--update" in str(caught.value.fix)
    assert hub.repos["ada/colours"]["files"] == before
    push(str(run.path), "ada/colours", export="merged", update=True)
    files = hub.repos["ada/colours"]["files"]
    assert "model-00001-of-00002.safetensors" not in files  # a loader would read it beside the new ones
    assert files["picture.png"] == b"mine"
    assert files["README.md"] == (run.exports_dir / "merged" / "README.md").read_bytes()


def test_a_private_upload_does_not_go_into_a_public_repository(run: Run, hub: FakeHub) -> None:
    hub.repos["ada/colours"] = {"private": False, "files": {}}
    with pytest.raises(SettingsError, match="is public"):
        push(str(run.path), "ada/colours", update=True)
    assert hub.repos["ada/colours"]["files"] == {}
    push(str(run.path), "ada/colours", update=True, public=True)
    assert "README.md" in hub.repos["ada/colours"]["files"]
    hub.repos["ada/hidden"] = {"private": True, "files": {}}
    with pytest.raises(SettingsError, match="does not make it public"):
        push(str(run.path), "ada/hidden", update=True, public=True)
    assert hub.repos["ada/hidden"] == {"private": True, "files": {}}


def test_what_the_hub_refuses_is_told_in_words(run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="may not write to strangers/colours") as caught:
        push(str(run.path), "strangers/colours")
    assert "check the owner" in str(caught.value.fix)
    hub.say["/api/repos/create"] = 500
    with pytest.raises(ResourceError, match="answered 500") as caught:
        push(str(run.path), "ada/colours")
    assert caught.value.fix == "try again later"
    del hub.say["/api/repos/create"]
    hub.say["/api/models/ada/colours/commit"] = 429
    with pytest.raises(ResourceError, match="answered 429") as caught:
        push(str(run.path), "ada/colours")
    assert "push again with --update" in str(caught.value.fix)
    hub.say = {"/store/": 403}
    with pytest.raises(ResourceError, match="may not write to ada/colours"):
        push(str(run.path), "ada/colours", update=True)
    hub.say = {}
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    with pytest.raises(ResourceError, match="does not know this token") as caught:
        push(str(run.path), "ada/other")
    assert "HF_TOKEN" in str(caught.value.fix)


def test_without_a_token_or_a_network_it_says_so(
    run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(ResourceError, match=r"http://127.0.0.1:9 cannot be reached"):
        push(str(run.path), "ada/colours")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        push(str(run.path), "ada/colours")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ResourceError, match="no token of the Hub") as caught:
        push(str(run.path), "ada/colours")
    assert "hf auth login" in str(caught.value.fix)
    assert hub.log == []


@pytest.mark.parametrize("repo", ["a/b/c", "ada/-x", "ada/x y", "ada/x.git", ""])
def test_no_such_repository_names(repo: str, run: Run) -> None:
    with pytest.raises(SettingsError, match="is no name of a repository"):
        push(str(run.path), repo, dry_run=True)


def test_what_is_not_there_cannot_be_pushed(run: Run) -> None:
    with pytest.raises(SettingsError, match="no export 'gguf-q8_0'") as caught:
        push(str(run.path), "ada/colours", export="gguf-q8_0")
    assert caught.value.cause == "it has: merged"
    run.update_manifest(status="stopped")
    with pytest.raises(ResourceError, match="no finished model"):
        push(str(run.path), "ada/colours")
