"""Text that grows token by token against decoding all of it at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tunesmith.generate.text import REPLACEMENT, GrowingText, decode, tidy

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = [
    "plain words",
    " Größe: 5 µm – naïve café ",
    "日本語のテキスト、と句読点。",
    "👩‍👩‍👧 family 🇩🇪 flag 🙂",
    "a\n\n b  .  c ,d\t",
    "",
]


@pytest.fixture(scope="module")
def byte_fallback_tokenizer() -> Any:
    """As Llama 2's: the space is a letter, unknown characters are spelt in byte tokens, the first space is dropped."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,:", "▁a", "ab"]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(params=["byte_level", "byte_fallback"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Any, byte_fallback_tokenizer: Any) -> Any:
    return {"byte_level": tiny_tokenizer, "byte_fallback": byte_fallback_tokenizer}[request.param]


def grow(tokenizer: Any, ids: list[int], stops: list[str]) -> tuple[GrowingText, list[str]]:
    growing = GrowingText(tokenizer, stops)
    pieces = []
    for token_id in ids:
        growing.push(token_id)
        if growing.stopped:
            break
        pieces.append(growing.settled())
    growing.close()
    return growing, [*pieces, growing.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text_and_no_half_character_leaks(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    growing, pieces = grow(tokenizer, ids, [])
    assert "".join(pieces) == growing.text == tidy(decode(tokenizer, ids)) == text.strip()
    assert REPLACEMENT not in "".join(pieces)
    assert not growing.stopped


def test_text_comes_as_soon_as_it_is_certain(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode("one two 🙂 three", add_special_tokens=False)
    _, pieces = grow(tiny_tokenizer, ids, ["###"])
    assert sum(bool(piece) for piece in pieces) > 4
    assert pieces[-1] == ""
    assert any("🙂" in piece for piece in pieces)


@given(data=st.data())
@QUICK
def test_any_ids_read_the_same_grown_and_whole(tokenizer: Any, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    growing, pieces = grow(tokenizer, ids, [])
    assert "".join(pieces) == growing.text == tidy(decode(tokenizer, ids))


@given(data=st.data())
@QUICK
def test_text_ends_where_the_stop_string_begins(tokenizer: Any, data: st.DataObject) -> None:
    text = data.draw(st.text("ab .\n日🙂", max_size=30))
    stop = data.draw(st.text("ab .\n日🙂", min_size=1, max_size=4))
    ids = tokenizer.encode(text, add_special_tokens=False)
    growing, pieces = grow(tokenizer, ids, [stop])
    whole = decode(tokenizer, ids)
    assert growing.text == "".join(pieces) == tidy(whole.split(stop)[0])
    assert growing.stopped == (stop in whole)


@given(data=st.data())
@QUICK
def test_no_part_of_any_stop_string_leaks(tokenizer: Any, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    stops = data.draw(st.lists(st.text("ab .\n", min_size=1, max_size=4), min_size=1, max_size=3))
    growing, pieces = grow(tokenizer, ids, stops)
    assert "".join(pieces) == growing.text
    assert not any(stop in growing.text for stop in stops)
    assert decode(tokenizer, ids).lstrip().startswith(growing.text)


def test_a_stop_string_that_did_not_come_is_given_out_after_all(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode("so ##", add_special_tokens=False)
    growing, pieces = grow(tiny_tokenizer, ids, ["###"])
    assert pieces[-1] == " ##"
    assert growing.text == "so ##"


def test_a_character_that_misses_bytes_at_the_end_is_left_out(tokenizer: Any) -> None:
    ids = tokenizer.encode("ab 🙂", add_special_tokens=False)[:-1]
    growing, pieces = grow(tokenizer, ids, [])
    assert "".join(pieces) == growing.text == "ab"


def test_only_surrounding_white_space_is_stripped_and_nothing_is_tidied(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode(" it 's  so .\n", add_special_tokens=False)
    assert tidy(decode(tiny_tokenizer, ids)) == "it 's  so ."
