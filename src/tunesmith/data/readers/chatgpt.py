"""A conversation as ChatGPT exports it, a tree of messages in conversations.json -> its turns as one list.

    {"title": "Ice", "current_node": "c", "mapping": {
        "a": {"parent": null, "message": null},
        "b": {"parent": "a", "message": {"author": {"role": "user"}, "content": {"parts": ["What is ice?"]}}},
        "c": {"parent": "b", "message": {"author": {"role": "assistant"}, "content": {"parts": ["Frozen water."]}}}}}

is {"title": "Ice", "messages": [{"role": "user", "content": "What is ice?"}, {"role": "assistant", ..}]}.
Works on parsed values; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SAID = ("text", "multimodal_text")  # kinds of content; others are code for tools, their output, thoughts
_ROLES = ("user", "assistant")


def is_chatgpt(item: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation of such an export."""
    nodes = item.get("mapping")
    return (
        isinstance(nodes, dict)
        and bool(nodes)
        and all(isinstance(node, dict) and {"parent", "message"} <= node.keys() for node in nodes.values())
    )


def unfold_chatgpt(item: Mapping[str, Any]) -> dict[str, Any]:
    """The turns that were seen last: of a question asked again, or an answer made anew, the branch that was left open.

    What one says in several messages, as before and after a tool is called, is one turn.
    """
    turns: list[dict[str, str]] = []
    for role, text in _said(_branch(item["mapping"], item.get("current_node"))):
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return {"title": item.get("title"), "messages": turns}


def _branch(nodes: dict[str, Mapping[str, Any]], end: object) -> list[Mapping[str, Any]]:
    """From the root to the current node; where it is not told, to the last one that none goes on from."""
    if not isinstance(end, str) or end not in nodes:
        parents = {node["parent"] for node in nodes.values() if isinstance(node["parent"], str)}
        end = next((name for name in reversed(nodes) if name not in parents), None)
    branch: dict[str, Mapping[str, Any]] = {}
    while isinstance(end, str) and end in nodes and end not in branch:
        branch[end] = nodes[end]
        end = nodes[end]["parent"]
    return list(branch.values())[::-1]


def _said(branch: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(role, text) of what people saw: no tools, nothing hidden, no pictures."""
    for node in branch:
        message = _object(node["message"])
        role = _object(message.get("author")).get("role")
        content, about = _object(message.get("content")), _object(message.get("metadata"))
        is_seen = not about.get("is_visually_hidden_from_conversation") and message.get("recipient") in (None, "all")
        parts = content.get("parts")
        if role not in _ROLES or not is_seen or content.get("content_type", "text") not in _SAID:
            continue
        text = "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
        if text.strip():
            yield role, text


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
