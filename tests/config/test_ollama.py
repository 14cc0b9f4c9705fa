"""What OLLAMA_HOST may hold, as Ollama itself reads it."""

from __future__ import annotations

import pytest

from tunesmith.config import ollama_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://0.0.0.0:11434"),
        ("box/", "http://box:11434"),
        ("box:80", "http://box:80"),
        ("box/ollama", "http://box:11434/ollama"),
        ("box:80/ollama/", "http://box:80/ollama"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:80", "http://[::1]:80"),
        ("::1", "http://[::1]:11434"),
        ("http://box", "http://box"),
        ("https://box/ollama/", "https://box/ollama"),
        (' "box" ', "http://box:11434"),
    ],
)
def test_a_host_is_read_as_ollama_reads_it(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert ollama_url(host) == url
    assert ollama_url() == "http://127.0.0.1:11434"
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_url() == url
    assert ollama_url("other") == "http://other:11434"
