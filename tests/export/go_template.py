"""A small evaluator of Go's text/template: what Ollama's templates of this project use, and nothing else.

Source: pkg.go.dev/text/template and ollama/ollama, template/template.go (collate, Execute). Anything it does not know
is an error, so a template that leaves the subset cannot pass a test by accident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ACTION = re.compile(r'\{\{(-\s)?((?:"(?:[^"\\\n]|\\.)*"|(?!\}\}).)*?)(\s-)?\}\}', re.DOTALL)
_WORD = re.compile(r'\s*("(?:[^"\\\n]|\\.)*"|\(|\)|:=|,|\$?[A-Za-z_][\w.]*|\$\.?[\w.]*|\.[\w.]*|\d+)')
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


def ask_ollama(source: str, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt that Ollama writes: messages of one role in a row are joined, system texts are also collected."""
    collated: list[dict[str, str]] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message["role"]:
            collated[-1]["Content"] += "\n\n" + message["content"]
        else:
            collated.append({"Role": message["role"], "Content": message["content"]})
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return execute(source, {"System": system, "Messages": collated, "Response": ""})


def execute(source: str, data: Mapping[str, Any]) -> str:
    pieces = _lex(source)
    out: list[str] = []
    end = _run(pieces, 0, data, {"$": data}, out, live=True)
    if end != len(pieces):
        raise ValueError(f"unexpected {pieces[end]}")
    return "".join(out)


def _lex(source: str) -> list[tuple[str, str]]:
    """("text", literal) and ("do", action); trim markers take the white space of the literals beside them."""
    pieces: list[tuple[str, str]] = []
    place, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[place : match.start()]
        text = text.lstrip(" \t\r\n") if trim else text
        text = text.rstrip(" \t\r\n") if match[1] else text
        pieces += [("text", text), ("do", match[2].strip())]
        place, trim = match.end(), bool(match[3])
    rest = source[place:]
    if "{{" in rest:
        raise ValueError(f"unclosed action in {rest!r}")
    return [*pieces, ("text", rest.lstrip(" \t\r\n") if trim else rest)]


def _run(pieces: list[tuple[str, str]], at: int, dot: Any, names: dict[str, Any], out: list[str], *, live: bool) -> int:
    """Run up to an end or else that belongs to an outer block; returns where that is."""
    while at < len(pieces):
        kind, text = pieces[at]
        word = text.split(" ", 1)[0] if kind == "do" else ""
        if kind == "text":
            out += [text] if live else []
        elif word in ("end", "else"):
            return at
        elif word == "if":
            at = _run_if(pieces, at, text.removeprefix("if"), dot, names, out, live=live)
        elif word == "range":
            at = _run_range(pieces, at, text, dot, names, out, live=live)
        elif live and (assigned := re.match(r"(\$\w+) := (.*)", text, re.DOTALL)):
            names[assigned[1]] = _value(assigned[2], dot, names)
        elif live:
            out.append(str(_value(text, dot, names)))
        at += 1
    return at


def _run_if(
    pieces: list[tuple[str, str]],
    at: int,
    condition: str,
    dot: Any,
    names: dict[str, Any],
    out: list[str],
    *,
    live: bool,
) -> int:
    """Returns where its end is."""
    holds = live and bool(_value(condition, dot, names))
    at = _run(pieces, at + 1, dot, dict(names), out, live=holds)
    if pieces[at][1] == "end":
        return at
    rest = pieces[at][1].removeprefix("else").strip()
    if rest.startswith("if"):
        return _run_if(pieces, at, rest.removeprefix("if"), dot, names, out, live=live and not holds)
    at = _run(pieces, at + 1, dot, dict(names), out, live=live and not holds)
    if pieces[at][1] != "end":
        raise ValueError(f"expected end, found {pieces[at]}")
    return at


def _run_range(
    pieces: list[tuple[str, str]], at: int, text: str, dot: Any, names: dict[str, Any], out: list[str], *, live: bool
) -> int:
    match = re.fullmatch(r"range (\$\w+), (\$\w+) := (.+)", text)
    if match is None:
        raise ValueError(f"unknown range: {text}")
    items = _value(match[3], dot, names) if live else []
    end = _run(pieces, at + 1, dot, dict(names), [], live=False)
    for index, item in enumerate(items):
        _run(pieces, at + 1, item, {**names, match[1]: index, match[2]: item}, out, live=True)
    if pieces[end][1] != "end":
        raise ValueError(f"expected end, found {pieces[end]}")
    return end


def _value(expression: str, dot: Any, names: Mapping[str, Any]) -> Any:
    words = _words(expression)
    value, rest = _command(words, dot, names)
    if rest:
        raise ValueError(f"left over: {rest} of {expression!r}")
    return value


def _words(expression: str) -> list[str]:
    words, place = [], 0
    expression = expression.rstrip()
    while place < len(expression):
        match = _WORD.match(expression, place)
        if match is None:
            raise ValueError(f"cannot read {expression[place:]!r}")
        words.append(match[1])
        place = match.end()
    return words


def _command(words: list[str], dot: Any, names: Mapping[str, Any]) -> tuple[Any, list[str]]:
    functions = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "not": lambda a: not a,
        "len": len,
        "slice": lambda items, start: items[start:],
    }
    if words[0] not in functions:
        return _operand(words, dot, names)
    name, rest = words[0], words[1:]
    values = []
    while rest and rest[0] != ")":
        value, rest = _operand(rest, dot, names)
        values.append(value)
    return functions[name](*values), rest


def _operand(words: list[str], dot: Any, names: Mapping[str, Any]) -> tuple[Any, list[str]]:
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _command(rest, dot, names)
        if not rest or rest[0] != ")":
            raise ValueError("unclosed parenthesis")
        return value, rest[1:]
    if word.startswith('"'):
        return _ESCAPE.sub(_unescape, word[1:-1]), rest
    if word.isdigit():
        return int(word), rest
    start, *fields = word.split(".")
    if start and start not in names:
        raise ValueError(f"unknown name {start!r}")
    value = names[start] if start else dot
    for field in fields:
        value = value[field] if field else value
    return value, rest


def _unescape(match: re.Match[str]) -> str:
    found = match[1]
    if found[0] in "uU":
        code = int(found[1:], 16)
        if 0xD800 <= code < 0xE000:
            raise ValueError("Go refuses halves of surrogate pairs")
        return chr(code)
    return {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}[found]
