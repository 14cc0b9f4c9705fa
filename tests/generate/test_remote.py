"""A model behind an address: what is sent, what comes back, and what is told when nothing does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from tests.local_server import LocalServer, QuietHandler, running
from tunesmith.config import RunConfig
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.generate import Endpoint, remote
from tunesmith.generate.remote import TIMEOUT_SECONDS
from tunesmith.types import Message

SETTINGS = RunConfig().generate


class Server(QuietHandler):
    """An OpenAI-compatible server that knows one model."""

    seen: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []
    # what the next requests are refused with: a status and a header, or None for a connection that ends
    troubles: ClassVar[list[tuple[int, tuple[str, str]] | None]] = []
    owner: ClassVar[str | None] = None  # of the model in the list of models; without one there is no list
    no_list: ClassVar[int] = 404  # the status of that
    limit: ClassVar[str] = "max_tokens"  # what it takes; in the other it refuses
    reasons: ClassVar[bool] = False  # refuses what OpenAI's reasoning models do, one at a time
    reply: ClassVar[Any] = None  # in place of a completion

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, self.headers["authorization"], request))
        if self.troubles:
            self._refuse(self.troubles.pop(0))
            return
        wrong = "max_tokens" if self.limit != "max_tokens" else "max_completion_tokens"
        if wrong in request:
            message = f"Unsupported parameter: '{wrong}' is not supported with this model. Use '{self.limit}' instead."
            self._say(400, {"error": {"message": message, "param": wrong, "code": "unsupported_parameter"}})
            return
        if self.reasons and (refused := [name for name in ("temperature", "top_p", "stop") if name in request]):
            kind = (
                ("value", "does not support 0.0") if refused[0] == "temperature" else ("parameter", "is not supported")
            )
            message = f"Unsupported {kind[0]}: '{refused[0]}' {kind[1]} with this model."
            self._say(400, {"error": {"message": message, "param": refused[0], "code": f"unsupported_{kind[0]}"}})
            return
        if self.reply is not None:
            self._say(200, self.reply)
            return
        known = request["model"] == "parrot"
        said = {"role": "assistant", "content": f" {request['messages'][-1]['content']}!\n"}
        reply = {
            "id": "1",
            "created": 0,
            "model": "parrot",
            "object": "chat.completion",
            "system_fingerprint": "",
            "choices": [{"index": 0, "finish_reason": "length", "message": said}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
        }
        self._say(*((200, reply) if known else (404, {"error": {"message": "no such model: owl"}})))

    def _say(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """The list of models; also where a redirected request comes to."""
        if self.path == "/v1/models" and self.owner is None:
            self._refuse((self.no_list, ("x", "y")))
            return
        if self.path == "/v1/models":
            body = json.dumps({"object": "list", "data": [{"id": "parrot", "owned_by": self.owner}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.seen.append((self.path, self.headers["authorization"], {}))
        self._refuse((404, ("x", "y")))

    def _refuse(self, trouble: tuple[int, tuple[str, str]] | None) -> None:
        if trouble is None:
            self.close_connection = True
            return
        status, header = trouble
        body = f"wrong key: {self.headers['authorization']}".encode()
        self.send_response(status)
        self.send_header(*header)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[str]:
    Server.seen.clear()
    Server.troubles.clear()
    Server.owner, Server.no_list, Server.limit, Server.reasons, Server.reply = None, 404, "max_tokens", False, None
    remote._told_owner.cache_clear()  # another server may have listened on this port
    remote._REFUSED.clear()
    with running(LocalServer(Server)) as made:
        yield f"{made.url}/v1"


def endpoint(address: str) -> Endpoint:
    found = Endpoint.parse(address)
    assert found is not None
    return found


def test_an_answer_by_the_protocol(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", "secret")
    settings = SETTINGS.model_copy(update={"max_new_tokens": 9, "stop": ["\n"]})
    talk = [Message("system", "Be brief."), Message("user", "hello", context="a parrot")]
    found = endpoint(f"{server}#parrot").answer(talk, settings, seed=5)
    assert (found.text, found.ended, found.tokens) == ("hello\na parrot!", False, 7)
    ((path, key, sent),) = Server.seen
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello\na parrot"},
    ]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["stop"], sent["seed"]) == (
        *("parrot", 9, 0.0),
        *(["\n"], 5),
    )


DRAWN = SETTINGS.model_copy(update={"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2})
HI = [Message("user", "hi")]


@pytest.mark.parametrize(
    ("owner", "drawn", "off"),
    [
        (
            *("llamacpp", {"top_k": 5, "min_p": 0, "repeat_penalty": 1.2, "repeat_last_n": -1}),
            {"top_k": 0, "min_p": 0, "repeat_penalty": 1, "repeat_last_n": -1},
        ),
        (
            *("vllm", {"top_k": 5, "min_p": 0, "repetition_penalty": 1.2}),
            {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
        ),
    ],
    ids=["llama-server", "vllm"],
)
def test_a_server_that_says_who_it_is_gets_all_settings_in_its_words(
    server: str, owner: str, drawn: dict[str, float], off: dict[str, float]
) -> None:
    """Those that are off too: what is not sent would be what the server has of its own."""
    Server.owner = owner
    parrot = endpoint(f"{server}#parrot")
    for settings, wanted in ((SETTINGS, off), (DRAWN, drawn)):
        parrot.answer(HI, settings, seed=5)
        usual = ("model", "messages", "max_tokens", "temperature", "top_p", "seed")
        assert {name: value for name, value in Server.seen[-1][2].items() if name not in usual} == wanted
        assert parrot.unsent(settings) == []


@pytest.mark.parametrize("owner", [None, "library", "openai"])
def test_a_setting_that_a_server_may_not_know_is_not_sent_and_told(server: str, owner: str | None) -> None:
    Server.owner = owner
    parrot = endpoint(f"{server}#parrot")
    parrot.answer(HI, DRAWN, seed=5)
    assert {"top_k", "min_p", "repeat_penalty", "repetition_penalty"}.isdisjoint(Server.seen[-1][2])
    assert parrot.unsent(DRAWN) == ["top_k", "repetition_penalty"]
    greedy = DRAWN.model_copy(update={"temperature": 0.0})
    assert parrot.unsent(greedy) == ["repetition_penalty"]  # the likeliest token is among any k
    assert parrot.unsent(SETTINGS) == []
    drawn = SETTINGS.model_copy(update={"temperature": 0.7})
    assert parrot.unsent(drawn) == ["top_k"]  # 0 is all tokens, and the server may take fewer


def test_a_model_that_calls_the_longest_answer_otherwise_is_asked_so_from_then_on(server: str) -> None:
    Server.limit = "max_completion_tokens"
    parrot = endpoint(f"{server}#parrot")
    for asked in (parrot, parrot.shared_by(2)):
        assert asked.answer(HI, SETTINGS, seed=5).text == "hi!"
    refused, *others = [sent for _, _, sent in Server.seen]
    limit = refused.pop("max_tokens")
    assert others == [{**refused, "max_completion_tokens": limit}] * 2
    Server.limit = "max_tokens"
    with pytest.raises(ResourceError, match="status 400"):  # what it no longer takes is not tried in turns for ever
        parrot.answer(HI, SETTINGS, seed=5)
    assert len(Server.seen) == 4


def test_what_a_reasoning_model_refuses_is_left_out_from_then_on_and_told(server: str) -> None:
    Server.reasons = True
    parrot = endpoint(f"{server}#parrot")
    settings = SETTINGS.model_copy(update={"top_p": 0.9, "stop": ["END"]})
    assert parrot.refused(settings) == []
    for asked in (parrot, parrot.shared_by(2)):
        assert asked.answer(HI, settings, seed=5).text == "hi!"
    first, *_, last = [sent for _, _, sent in Server.seen]
    assert len(Server.seen) == 5  # it names one at a time
    assert first == {**last, "temperature": 0.0, "top_p": 0.9, "stop": ["END"]}
    assert parrot.refused(settings) == ["temperature", "top_p", "stop"]
    assert parrot.refused(SETTINGS) == ["temperature"]  # the others are off
    assert endpoint(f"{server}#owl").refused(settings) == []


def test_a_refusal_of_what_an_answer_needs_is_one(server: str) -> None:
    Server.reply = {}
    Server.troubles[:] = [(400, ("x", "Unsupported parameter: 'messages'"))]
    with pytest.raises(ResourceError, match="refused with status 400"):
        endpoint(f"{server}#parrot").answer(HI, SETTINGS, seed=5)
    assert len(Server.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {"choices": []},
        {"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": ["many"]},
    ],
    ids=["a list", "no choice", "a content of parts", "a list of usage"],
)
def test_a_completion_of_another_form_is_told(server: str, reply: object) -> None:
    Server.reply = reply
    with pytest.raises(ResourceError, match="does not speak the protocol"):
        endpoint(f"{server}#parrot").answer(HI, SETTINGS, seed=0)


def test_a_refusal_that_breaks_off_is_still_one(waits: list[float]) -> None:
    """Its words are good to know, and no answer: a server that hangs up in the middle of them is asked again."""

    class Rude(QuietHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(503)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"9\r\nbusy")
            self.close_connection = True

    with running(LocalServer(Rude)) as rude, pytest.raises(ResourceError, match="refused with status 503"):
        endpoint(f"{rude.url}/v1#parrot").answer(HI, SETTINGS, seed=0)
    assert waits == [1, 4, 16]


def test_a_server_that_is_busy_is_asked_later_who_it_is(server: str) -> None:
    parrot = endpoint(f"{server}#parrot")
    Server.no_list = 503
    assert parrot.further(SETTINGS) == {}
    Server.owner = "vllm"
    assert parrot.further(SETTINGS)["top_k"] == -1
    Server.owner = None
    assert parrot.further(SETTINGS)["top_k"] == -1  # and no more once it has said so


def test_ollama_is_found_where_it_listens(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.removesuffix("/v1").removeprefix("http://"))
    assert endpoint("ollama:parrot").answer([Message("user", "hi")], SETTINGS, seed=0).text == "hi!"
    monkeypatch.setenv("OLLAMA_HOST", "box/ollama")
    assert endpoint("ollama:parrot") == Endpoint("http://box:11434/ollama/v1", "parrot")
    monkeypatch.delenv("OLLAMA_HOST")
    assert endpoint("ollama:faq:7b") == Endpoint("http://127.0.0.1:11434/v1", "faq:7b")


def test_a_server_of_this_machine_is_asked_past_the_proxy_of_the_web(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first request
    assert endpoint(f"{server}#parrot").answer(HI, SETTINGS, seed=0).text == "hi!"


def test_a_refusal_says_what_the_server_said(server: str) -> None:
    with pytest.raises(ResourceError, match=r"owl at .* refused with status 404.*no such model: owl") as caught:
        endpoint(f"{server}#owl").answer([Message("user", "hi")], SETTINGS, seed=0)
    assert "TUNESMITH_API_KEY" in str(caught.value.fix)


def test_another_protocol_is_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.generate.remote.json.load", lambda response: {"response": "ollama's own protocol"})
    with pytest.raises(ResourceError, match=r"does not speak the protocol: .*ollama's own"):
        endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)


def test_nobody_there_is_an_error_of_resources() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match="cannot be reached"):
        endpoint(f"http://127.0.0.1:{port}/v1#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.generate.remote.TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("tunesmith.generate.remote._ASIDE_SECONDS", 0.1)
    monkeypatch.setattr("tunesmith.generate.remote.WAITS_SECONDS", ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1#parrot"
        with pytest.raises(ResourceError, match=r"parrot at .* did not answer within 0\.3 s"):
            endpoint(address).answer([Message("user", "hi")], SETTINGS, seed=0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited between tries, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("tunesmith.generate.remote.time.sleep", waited.append)
    return waited


def test_a_server_in_trouble_is_asked_again_later_each_time(server: str, waits: list[float]) -> None:
    Server.troubles[:] = [(503, ("x", "y")), None, (429, ("retry-after", "7"))]
    assert endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0).text == "hi!"
    assert waits == [1, 4, 7]
    assert len(Server.seen) == 4


def test_it_is_given_up_after_the_fourth_time(server: str, waits: list[float]) -> None:
    Server.troubles[:] = [(500, ("retry-after", "99999"))] * 9
    with pytest.raises(ResourceError, match="refused with status 500"):
        endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)
    assert waits == [60, 60, 60]  # no longer than a minute, whatever it asks for
    assert len(Server.seen) == 4


def test_what_will_not_pass_is_not_asked_again(server: str, waits: list[float]) -> None:
    for status in (400, 401, 404):
        Server.troubles[:] = [(status, ("x", "y"))]
        with pytest.raises(ResourceError, match=f"status {status}"):
            endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)
    assert waits == []


def test_a_key_is_in_no_message_and_goes_to_no_other_place(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", "sk-secret-9")
    Server.troubles[:] = [(401, ("x", "y"))]
    with pytest.raises(ResourceError, match="wrong key: Bearer") as caught:
        endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)
    assert "sk-secret-9" not in str(caught.value)
    assert "sk-secret-9" not in repr(endpoint(f"{server}#parrot"))
    Server.troubles[:] = [(302, ("location", f"{server}/elsewhere"))]
    with pytest.raises(ResourceError, match="status 404"):
        endpoint(f"{server}#parrot").answer([Message("user", "hi")], SETTINGS, seed=0)
    assert [key for _, key, _ in Server.seen] == ["Bearer sk-secret-9", "Bearer sk-secret-9", None]


def test_a_key_that_no_header_can_hold_is_in_no_message_either(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = endpoint(f"{server}#parrot")
    monkeypatch.setenv("TUNESMITH_API_KEY", "sk-secret-9\n")  # as read from a file
    assert parrot.answer(HI, SETTINGS, seed=0).text == "hi!"
    assert Server.seen[-1][1] == "Bearer sk-secret-9"
    Server.troubles[:] = [(401, ("x", "y"))]
    with pytest.raises(ResourceError, match="wrong key: Bearer") as caught:
        parrot.answer(HI, SETTINGS, seed=0)
    assert "sk-secret-9" not in str(caught.value)
    for key in ("sk-secret\n-9", "sk-secret-\u2019"):
        monkeypatch.setenv("TUNESMITH_API_KEY", key)
        with pytest.raises(SettingsError, match="TUNESMITH_API_KEY holds characters that no key has") as refused:
            parrot.answer(HI, SETTINGS, seed=0)
        assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "sk-openai"),
        ("http://api.openai.com/v1", None),  # in the clear
        ("https://api.openai.com.example/v1", None),
        ("http://127.0.0.1:11434/v1", None),
    ],
)
def test_the_key_of_openai_goes_to_openai_alone(url: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert remote._key(url) == key
    monkeypatch.setenv("TUNESMITH_API_KEY", "chosen")
    assert remote._key(url) == "chosen"


def test_one_of_several_requests_waits_for_the_others_too() -> None:
    assert Endpoint("http://127.0.0.1/v1", "parrot", 2.5).shared_by(4).timeout_seconds == 10
    assert Endpoint("http://127.0.0.1/v1", "parrot").shared_by(3).timeout_seconds == 3 * TIMEOUT_SECONDS


@pytest.mark.parametrize(
    "address",
    [
        *("ollama:", "http://127.0.0.1:8080/v1", "https://#name", "http://[::1/v1#name"),
        *("http://box:65536/v1#name", "http://box:port/v1#name"),
    ],
)
def test_an_address_without_a_model_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="names no model of a server"):
        Endpoint.parse(address)


@pytest.mark.parametrize("host", ["example.com", "[::1", "example.com:99999"])
def test_an_address_with_a_password_is_refused_without_showing_it(host: str) -> None:
    with pytest.raises(SettingsError, match="a user or a password in it") as caught:
        Endpoint.parse(f"https://ada:secret-9@{host}/v1#owl")
    assert "secret-9" not in str(caught.value)


@pytest.mark.parametrize("other", ["faq", "runs/faq", "org/model", "builtin:nano"])
def test_what_is_no_address_is_left_to_others(other: str) -> None:
    assert Endpoint.parse(other) is None
