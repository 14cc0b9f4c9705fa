"""conversations.json of ChatGPT: the branch that was seen last, and of it what people saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.data.readers.chatgpt import is_chatgpt, unfold_chatgpt


def node(parent: str | None, role: str = "", *parts: object, **more: Any) -> dict[str, Any]:
    content = {"content_type": more.pop("content_type", "text"), "parts": list(parts)}
    message = {"author": {"role": role}, "content": content, "recipient": "all", **more} if role else None
    return {"parent": parent, "children": [], "message": message}


# Two answers to one question, of which the first was gone on from
ASKED = {
    "root": node(None),
    "hidden": node("root", "system", ""),
    "question": node("hidden", "user", "What is ice?"),
    "one": node("question", "assistant", "Frozen water."),
    "more": node("one", "user", "And steam?"),
    "end": node("more", "assistant", "Water that boils."),
    "two": node("question", "assistant", "Cold."),
}


def turns(mapping: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    item = {"title": "Ice", "mapping": mapping, **more}
    assert is_chatgpt(item)
    return [(turn["role"], turn["content"]) for turn in unfold_chatgpt(item)["messages"]]


def test_the_current_branch_is_read() -> None:
    asked = ("user", "What is ice?")
    assert turns(ASKED, current_node="two") == [asked, ("assistant", "Cold.")]
    whole = [asked, ("assistant", "Frozen water."), ("user", "And steam?"), ("assistant", "Water that boils.")]
    assert turns(ASKED, current_node="end") == whole
    assert turns(ASKED) == turns(ASKED, current_node="gone") == [asked, ("assistant", "Cold.")]  # the last leaf


def test_only_what_people_saw() -> None:
    mapping = {
        "a": node(None, "user", "About me", metadata={"is_visually_hidden_from_conversation": True}),
        "b": node("a", "user", {"asset_pointer": "file"}, "What is this?", content_type="multimodal_text"),
        "c": node("b", "assistant", "Let me look."),
        "d": node("c", "assistant", "open()", recipient="python"),
        "e": node("d", "tool", "a press"),
        "f": node("e", "assistant", content_type="thoughts"),
        "g": node("f", "assistant", "A press."),
    }
    assert turns(mapping, current_node="g") == [("user", "What is this?"), ("assistant", "Let me look.\n\nA press.")]


def test_an_export_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "conversations.json"
    empty = {"title": "Nothing", "mapping": {"root": node(None)}, "current_node": "root"}
    path.write_text(json.dumps([{"title": "Ice", "mapping": ASKED, "current_node": "end"}, empty]))
    prepared = prepare(load_config(overrides={"data.path": str(path), "data.split": {"validation": 0, "test": 0}}))
    assert [message.content for message in prepared.train[0].messages][-1] == "Water that boils."
    assert prepared.report.dropped == {"no answer turn": (2,)}
    assert "conversations of ChatGPT" in prepared.report.findings[0].message
    path.write_text(json.dumps({"title": "Ice", "mapping": ASKED}))  # a single one
    assert len(prepare(load_config(overrides={"data.path": str(path)})).train) == 1


NAMES = st.sampled_from("abc")
VALUES = st.sampled_from(
    [None, "a", "b", 1, [], [[]], {}, {"author": 1}, {"author": {"role": []}, "content": {"parts": 1}}]
)


@given(st.dictionaries(NAMES, st.fixed_dictionaries({"parent": VALUES, "message": VALUES})), VALUES)
def test_any_tree_is_read(mapping: dict[str, Any], current: object) -> None:
    assert isinstance(unfold_chatgpt({"mapping": mapping, "current_node": current})["messages"], list)
