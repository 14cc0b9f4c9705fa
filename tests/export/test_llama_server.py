"""Verification through a llama-server: what it is asked, what is found, and when it has another file or none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.conftest import faults
from tests.export.fake_llama_server import FakeLlamaServer, fake_llama_server
from tests.local_server import LocalServer, QuietHandler, running
from tunesmith.api import Export, export, open_session
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export import Check, LlamaServer, Verdict, read_verdict
from tunesmith.export.verify import _asked_positions, _Distance
from tunesmith.model import merge
from tunesmith.runs import Run
from tunesmith.types import Encoded

pytest.importorskip("gguf")


@pytest.fixture
def run(tuned: Callable[..., Run]) -> Run:
    return tuned("llama")


@pytest.fixture
def server(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLlamaServer]:
    """It has loaded what an export of the run in float32 makes; asked about some forty positions."""
    monkeypatch.setattr("tunesmith.export.llama_server._NUMBERS", 20_000)
    session = open_session(str(run.path), {"model.dtype": "float32"})
    stops = set(session.template.stop_ids)
    file = f"/models/{run.name}-f32.gguf"
    with fake_llama_server(merge(session.loaded.model), session.loaded.tokenizer, stops=stops, loaded=file) as found:
        yield found


def exported(run: Run, server: FakeLlamaServer, out: Path, **more: Any) -> Export:
    return export(str(run.path), out=out, to=["gguf"], quantize=["f32"], prompts=3, server=server.url, **more)


def test_a_file_is_verified_by_what_the_server_says(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    result = exported(run, server, tmp_path)
    (one,) = result.products
    assert one.verdict.status == "verified", faults(result)
    assert set(server.asked) == {"/props", "/tokenize", "/apply-template", "/completion"}
    numbers = one.verdict.numbers
    assert numbers["logits"] < 1e-5
    assert numbers["divergence"] < 1e-6
    assert numbers["perplexity"] == pytest.approx(numbers["reference_perplexity"], rel=1e-4)
    assert numbers["tokens_per_second"] == pytest.approx(500, rel=0.2)  # two milliseconds a token, one ends it


def test_a_file_that_is_there_is_not_made_again(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    untried = export(str(run.path), out=tmp_path, to=["gguf"], quantize=["f32"], prompts=0)
    written = untried.products[0].path.stat().st_mtime_ns
    result = exported(run, server, tmp_path)
    assert result.products[0].verdict.status == "verified"
    assert result.products[0].path.stat().st_mtime_ns == written
    server.asked.clear()
    assert exported(run, server, tmp_path).products[0].verdict.status == "verified"
    assert "/completion" in server.asked  # an earlier verdict is not this server's


def test_a_stop_that_the_server_does_not_know_is_found(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    server.stops.pop()
    assert "stop tokens" in faults(exported(run, server, tmp_path))


def test_another_template_is_found(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    template = server.tokenizer.chat_template
    server.tokenizer.chat_template = template.replace("\\n", " ").replace("\n", " ")
    assert "prompts" in faults(exported(run, server, tmp_path))


def test_other_weights_are_found(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    import torch

    with torch.no_grad():
        server.model.model.layers[0].self_attn.q_proj.weight.mul_(-1)
    assert {"logits", "distribution"} <= set(faults(exported(run, server, tmp_path)))


def test_another_file_is_no_verdict_and_the_command_is_told(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    server.loaded = "/models/another.gguf"
    result = exported(run, server, tmp_path)
    (one,) = result.products
    assert one.verdict.status == "unverified"
    assert "has another.gguf loaded" in str(one.verdict.reason)
    assert f"llama-server -m {one.path} --port {server.server_address[1]}" in str(one.verdict.reason)
    assert one.path.exists()


def test_no_server_is_no_verdict(run: Run, server: FakeLlamaServer, tmp_path: Path) -> None:
    wishes: dict[str, Any] = {"out": tmp_path, "to": ["gguf", "gguf-lora"], "quantize": ["f32"], "prompts": 1}
    result = export(str(run.path), server="http://127.0.0.1:9", **wishes)
    reasons = [str(one.verdict.reason) for one in result.products]
    assert "does not answer" in reasons[0]
    assert "adapters are not tried" in reasons[1]
    for address in ("ftp://x", "http://[::1", "127.0.0.1:65536"):
        with pytest.raises(SettingsError, match="no address of a llama-server"):
            LlamaServer(address, tmp_path)


def test_numbers_that_json_does_not_have_are_null_and_read_as_infinite(tmp_path: Path) -> None:
    """A broken file is what a machine should be able to read of."""
    distance = _Distance()
    row = Encoded(np.array([0, 1]), np.array([False, True]))
    far = np.array([[1e9, 0.0], [0.0, 0.0]], dtype=np.float32)
    distance.add(np.zeros((2, 2), dtype=np.float32), far, row, np.array([0, 1]))
    numbers = distance.numbers()
    assert numbers["perplexity"] == math.inf
    path = tmp_path / "verification.json"
    verdict = Verdict((Check("distribution", False, "far"),), numbers)
    path.write_text(json.dumps({"schema_version": 1, **verdict.to_json()}, allow_nan=False))
    found = read_verdict(path)
    assert found == verdict
    for damaged in ("", "[]", '{"schema_version": 1}', '{"schema_version": 1, "status": "failed", "checks": [3]}'):
        path.write_text(damaged)
        assert read_verdict(path) is None


def test_another_server_is_told(tmp_path: Path) -> None:
    class Another(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

    with running(LocalServer(Another)) as another, pytest.raises(ResourceError, match="is no llama-server") as caught:
        LlamaServer(another.url, tmp_path)
    assert caught.value.cause == "/props: []"


def test_positions_before_targets_are_asked_first_and_spread_over_the_rows() -> None:
    supervised = np.array([False] * 6 + [True] * 4)
    rows = [Encoded(np.arange(10), supervised) for _ in range(4)]
    assert [len(at) for at in _asked_positions(rows, None)] == [10] * 4
    asked = _asked_positions(rows, 8)
    assert [len(at) for at in asked] == [2] * 4
    assert all(supervised[place + 1] for at in asked for place in at)
    assert sum(len(at) for at in _asked_positions(rows, 30)) == 30  # more than there are targets
