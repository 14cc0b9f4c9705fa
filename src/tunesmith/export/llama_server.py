"""A GGUF file that a running llama-server has loaded: the same questions as to llama.cpp in this process, over HTTP.

Source of the protocol: llama.cpp, tools/server/README.md (/props, /tokenize, /apply-template, /completion). What the
server does not tell, how the file spells its tokens, is read from the file. Only the standard library is used, or
xllamacpp, which has wheels where llama-cpp-python has to be built: that same server inside this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export.runner import Answer, in_turn
from tunesmith.optional import need

TIMEOUT_SECONDS = 600.0
# Each position is a request that brings a number for every token of the vocabulary: about this many numbers in all.
_NUMBERS = 2_000_000
# A probability that float32 cannot hold comes as the lowest float; no logarithm of a float32 is below this.
_LOWEST = -104.0


class LlamaServer:
    """One server.

    Args:
        url: its address. path: the file that it should have loaded. handle: keeps it running until `close`.

    Raises:
        SettingsError: url is no address.
        ResourceError: no server answers there, it has another file, or the package gguf is missing.
    """

    def __init__(self, url: str, path: Path, *, handle: object = None) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        if not _is_address(self.url):
            raise SettingsError(f"{url!r} is no address of a llama-server", fix="--server http://127.0.0.1:8080")
        self._path, self._handle = path, handle
        self._direct = build_opener(ProxyHandler({}))  # proxies of the environment are for the web
        loaded = str(self._ask("/props").get("model_path", ""))
        if Path(loaded).name != path.name:
            raise ResourceError(
                f"llama-server at {self.url} has {Path(loaded).name or 'no file'} loaded, not {path.name}",
                fix=self._start_command(),
            )
        gguf = need("gguf", extra="gguf")
        fields = gguf.GGUFReader(str(path)).fields
        self.tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
        adds_bos = "tokenizer.ggml.add_bos_token" in fields and fields["tokenizer.ggml.add_bos_token"].contents()
        self._bos = self.tokens[fields["tokenizer.ggml.bos_token_id"].contents()] if adds_bos else ""
        self._generated_tokens = 0
        self._seconds = 0.0

    @property
    def positions(self) -> int:
        """So many requests bring two million numbers."""
        return max(8, _NUMBERS // len(self.tokens))

    @property
    def tokens_per_second(self) -> float:
        """Of all answers so far, as the server measured it; 0 before the first."""
        return self._generated_tokens / self._seconds if self._seconds else 0.0

    def close(self) -> None:
        """A server of somebody else's goes on."""
        self._handle = None

    def ends(self, token_id: int) -> bool:
        """Whether an answer ends at this token: it is made to be the only likely one."""
        forced = self._complete([token_id], n_predict=2, logit_bias=[[token_id, 1e6]])
        return bool(forced["stop_type"] == "eos")

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the server writes."""
        return str(self._ask("/apply-template", {"messages": [dict(turn) for turn in turns]})["prompt"])

    def tokenize(self, text: str) -> list[int]:
        """Token ids as the server makes them: BOS by the file's flag, not twice."""
        content = text.removeprefix(self._bos) if self._bos else text
        wanted = {"content": content, "add_special": True, "parse_special": True}
        return [int(token_id) for token_id in self._ask("/tokenize", wanted)["tokens"]]

    def logits(self, ids: Sequence[int], at: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(P, V) log-probabilities of what follows the positions `at`: a request for each."""
        places = range(len(ids)) if at is None else at
        found = np.full((len(places), len(self.tokens)), _LOWEST, dtype=np.float32)
        for row, place in enumerate(places):
            prompt = list(ids[: place + 1])
            answer = self._complete(prompt, n_predict=1, n_probs=len(self.tokens), cache_prompt=True)
            for one in answer["completion_probabilities"][0]["top_logprobs"]:
                found[row, one["id"]] = max(one["logprob"], _LOWEST)
        return found

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        """Greedy answers of at most `limit` tokens."""
        return in_turn(prompts, lambda prompt: self._answer(prompt, limit), on_progress)

    def _answer(self, prompt: Sequence[int], limit: int) -> Answer:
        answer = self._complete(prompt, n_predict=limit)
        timings: Mapping[str, float] = answer.get("timings", {})
        ended = answer["stop_type"] == "eos"
        written = answer["tokens"][:-1] if ended else answer["tokens"]  # the one that ended it is among them
        self._generated_tokens += len(written)
        self._seconds += timings.get("predicted_ms", 0.0) / 1000
        return Answer(tuple(written), str(answer["content"]).rstrip("\ufffd").strip(), ended)

    def _complete(self, prompt: Sequence[int], *, n_predict: int, **more: object) -> dict[str, Any]:
        """Greedy, whatever the server was started with."""
        greedy = {"temperature": 0.0, "samplers": ["temperature"], "repeat_penalty": 1.0, "seed": 0, "stop": []}
        wanted = {"prompt": list(prompt), "n_predict": n_predict, "return_tokens": True, "cache_prompt": False}
        return self._ask("/completion", {**greedy, **wanted, "stream": False, **more})

    def _ask(self, place: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + place, data, {"Content-Type": "application/json"})
        try:
            with self._direct.open(request, timeout=TIMEOUT_SECONDS) as response:
                found: Any = json.load(response)
        except HTTPError as error:
            said = ""
            with error, suppress(OSError, HTTPException):  # it may hang up before it has said why
                said = error.read(500).decode(errors="replace").strip()
            raise ResourceError(
                f"llama-server at {self.url} refused {place}",
                cause=f"status {error.code}: {said}",
                fix="its log says more; take a recent llama.cpp",
            ) from error
        except (URLError, OSError, HTTPException, ValueError) as error:
            raise ResourceError(
                f"llama-server at {self.url} does not answer",
                cause=" ".join(str(error).split()),
                fix=self._start_command(),
            ) from error
        if not isinstance(found, dict):
            raise ResourceError(
                f"the server at {self.url} is no llama-server",
                cause=f"{place}: {json.dumps(found)[:200]}",
                fix=self._start_command(),
            )
        return found

    def _start_command(self) -> str:
        port = urlsplit(self.url).port or 8080
        # the cache in float32, as in this process; its default of float16 alone moves logits by 5e-3
        return f"llama-server -m {self._path} --port {port} --jinja -ctk f32 -ctv f32 -fa off"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port above 65535
        return False


def start_server(path: Path, *, context: int) -> LlamaServer:
    """A server inside this process, through xllamacpp, on a port of its own choice.

    Args:
        context: longest prompt and answer together, in tokens.

    Raises:
        ResourceError: xllamacpp is not installed. ValueError: llama.cpp cannot load the file.
    """
    library: Any = need("xllamacpp", extra="xllamacpp")
    wanted = library.CommonParams()
    wanted.model.path = str(path)
    wanted.port = 0
    wanted.n_ctx, wanted.n_parallel, wanted.use_jinja, wanted.warmup = context, 1, True, False
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = torch.get_num_threads()
    # the cache in float32, as with llama-cpp-python; its default of float16 alone moves logits by 5e-3
    wanted.cache_type_k = wanted.cache_type_v = library.ggml_type.GGML_TYPE_F32
    wanted.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    wanted.verbosity = -1
    try:
        server = library.Server(wanted)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return LlamaServer(server.listening_address, path, handle=server)
