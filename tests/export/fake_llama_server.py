"""A server with llama-server's part of the protocol that verification uses, answered by a model in Python.

Source: llama.cpp, tools/server/README.md and server-context.cpp (`process_token`, `populate_token_probs`): the token
that ends an answer is among `tokens` and not in `content`; probabilities are of the raw logits, best first, and one of
0 is the lowest float; `logit_bias` changes what is chosen and not what is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.local_server import LocalServer, QuietHandler, running

LOWEST = -3.4028234663852886e38


class FakeLlamaServer(LocalServer):
    """model, tokenizer: what it answers with. stops: ids that end an answer. loaded: path of its file."""

    def __init__(self, model: Any, tokenizer: Any, *, stops: set[int], loaded: str) -> None:
        super().__init__(_Handler)
        self.model, self.tokenizer, self.stops, self.loaded = model, tokenizer, stops, loaded
        self.asked: list[str] = []


@contextmanager
def fake_llama_server(model: Any, tokenizer: Any, *, stops: set[int], loaded: str) -> Iterator[FakeLlamaServer]:
    with running(FakeLlamaServer(model, tokenizer, stops=stops, loaded=loaded)) as server:
        yield server


class _Handler(QuietHandler):
    server: FakeLlamaServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer(200, {"model_path": self.server.loaded, "total_slots": 1, "build_info": "b9999-fake"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        tokenizer = self.server.tokenizer
        if self.path == "/tokenize":
            assert body["parse_special"] is True
            self._answer(200, {"tokens": tokenizer.encode(body["content"], add_special_tokens=False)})
        elif self.path == "/apply-template":
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            self._answer(200, {"prompt": text})
        elif self.path == "/completion":
            self._answer(200, self._complete(body))
        else:
            self._answer(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})

    @torch.inference_mode()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0
        assert body["return_tokens"] is True
        written: list[int] = []
        told: list[dict[str, Any]] = []
        stop_type = "limit"
        while len(written) < body["n_predict"]:
            ids = torch.tensor([[*body["prompt"], *written]])
            logits = self.server.model(input_ids=ids).logits[0, -1].float()
            if body.get("n_probs"):
                told.append(self._told(logits, body["n_probs"]))
            for token_id, bias in body.get("logit_bias", []):
                logits[token_id] += bias
            written.append(int(logits.argmax()))
            if written[-1] in self.server.stops:
                stop_type = "eos"
                break
        content = self.server.tokenizer.decode(written[:-1] if stop_type == "eos" else written)
        timings = {"predicted_n": len(written), "predicted_ms": 2.0 * len(written)}
        answer = {"content": content, "tokens": written, "stop": True, "stop_type": stop_type, "timings": timings}
        return {**answer, "completion_probabilities": told} if told else answer

    def _told(self, logits: torch.Tensor, count: int) -> dict[str, Any]:
        probabilities = torch.softmax(logits, 0)
        best = torch.argsort(probabilities, descending=True)[:count].tolist()
        logarithms = torch.log(probabilities).tolist()
        top = [{"id": i, "token": "", "bytes": [], "logprob": max(logarithms[i], LOWEST)} for i in best]
        return {"id": best[0], "logprob": logarithms[best[0]], "top_logprobs": top}

    def _answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
