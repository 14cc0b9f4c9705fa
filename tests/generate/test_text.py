"""Text that grows token by token against decoding all of it at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.generate.text import REPLACEMENT, GrowingText, decode, tidy

QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = [
    "plain words",
    " Größe: 5 µm – naïve café ",
    "日本語のテキスト、と句読点。",
    "👩‍👩‍👧 family 🇩🇪 flag 🙂",
    "a\n\n b  .  c ,d\t",
    "",
]


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


def test_the_first_of_two_stop_strings_in_one_token_ends_the_text(tiny_tokenizer: Any) -> None:
    token = next(
        token for token in tiny_tokenizer.get_vocab() if len(token) > 3 and token.isalpha() and token.isascii()
    )
    growing, _ = grow(tiny_tokenizer, [tiny_tokenizer.convert_tokens_to_ids(token)], [token[2:], token[1:3]])
    assert growing.stopped
    assert growing.text == token[0]


def test_special_tokens_are_no_text(tokenizer: Any) -> None:
    first, second = (tokenizer.encode(word, add_special_tokens=False) for word in ("ab", "ba"))
    growing, pieces = grow(tokenizer, [*first, tokenizer.bos_token_id, *second], [])
    assert "".join(pieces) == growing.text == decode(tokenizer, [*first, *second]).strip()
    assert "<" not in growing.text


def test_only_surrounding_white_space_is_stripped_and_nothing_is_tidied(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode(" it 's  so .\n", add_special_tokens=False)
    tidying = copy.deepcopy(tiny_tokenizer)
    tidying.clean_up_tokenization_spaces = True
    tidying.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert tidying.decode(ids) == " it's  so.\n"
    for tokenizer in (tiny_tokenizer, tidying):
        assert tidy(decode(tokenizer, ids)) == "it 's  so ."
