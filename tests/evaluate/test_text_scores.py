"""Text scores against their references: the official SQuAD v1.1 script, sacrebleu and rouge_score."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.evaluate import EVALUATORS
from tunesmith.evaluate.material import Rows
from tunesmith.evaluate.text import exact_match, normalize, separate, token_f1, word_count, words

ORDER = ["exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
PAIRS = [
    ("The cat sat on the mat.", "A cat sat on a mat"),
    ("the the the cat cat", "the cat cat cat sat"),  # multiset overlap: min of the counts, not a set
    ("", ""),
    ("", "something"),
    ("something", ""),
    ("the", "an"),  # nothing is left of either
    ("...", "!"),
    ("well-known fact, isn't it?", "well known fact isnt it"),
    ("Paris", "paris "),
    ("It opens at 9:30 on Monday; ring the bell.", "On Monday it opens at 9:30, and you ring the bell twice."),
    ("a\tb\n c", "b c"),
    ("cat—the—dog", "cat——dog"),  # an article leaves a space behind
    ("Theatre an-other", "theatre another"),  # articles only as whole words
]
ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
spaced_text = st.text(max_size=30).filter(lambda text: separate(text) == text.split())
short_words = st.lists(st.sampled_from(["a", "the", "cat", "Cat", "sat,", "on", "7", "-"]), max_size=12).map(" ".join)


# The official evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016), its two metrics and their normalization word for word.
def normalize_answer(s):
    """Lower text and remove punctuation, articles and extra whitespace."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    def lower(text):
        return text.lower()

    return white_space_fix(remove_articles(remove_punc(lower(s))))


def f1_score(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    f1 = (2 * precision * recall) / (precision + recall)
    return f1


def exact_match_score(prediction, ground_truth):
    return normalize_answer(prediction) == normalize_answer(ground_truth)


@pytest.mark.parametrize(("prediction", "reference"), PAIRS)
def test_squad_scores_of_a_row_are_those_of_the_official_script(prediction, reference):
    assert exact_match(prediction, reference) == exact_match_score(prediction, reference)
    assert token_f1(prediction, reference) == pytest.approx(f1_score(prediction, reference), abs=1e-12)


@given(st.one_of(short_words, spaced_text), st.one_of(short_words, spaced_text))
def test_squad_parity_on_any_text(prediction, reference):
    assert normalize(prediction) == normalize_answer(prediction)
    assert exact_match(prediction, reference) == exact_match_score(prediction, reference)
    assert token_f1(prediction, reference) == pytest.approx(f1_score(prediction, reference), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("法国的首都是巴黎。", "法国的首都是巴黎。", 1),
        ("首都是巴黎", "巴黎是首都", 1),  # the same characters
        ("巴黎", "首都是巴黎", 2 * 2 / 7),
        ("パリ", "ロンドン", 0),
        ("ปารีส", "กรุงปารีส", 2 * 5 / 14),
        ("in 巴黎", "巴黎 in", 1),
    ],
)
def test_of_scripts_without_spaces_characters_are_words(prediction, reference, score):
    """SQuAD's script gives 0 to each answer that is not the reference."""
    assert token_f1(prediction, reference) == pytest.approx(score)
    assert word_count("法国 的首都 is Paris!") == 7


def test_corpus_scores_are_means_over_rows():
    predictions, references = zip(*PAIRS, strict=True)
    exact = [exact_match_score(*pair) for pair in PAIRS]
    f1 = [f1_score(*pair) for pair in PAIRS]
    assert 0 < sum(exact) < len(PAIRS)
    assert EVALUATORS["exact_match"](predictions, references) == pytest.approx(sum(exact) / len(PAIRS), abs=1e-12)
    assert EVALUATORS["token_f1"](predictions, references) == pytest.approx(sum(f1) / len(PAIRS), abs=1e-12)


@given(st.lists(st.tuples(short_words, short_words), min_size=1, max_size=5))
def test_bleu_is_sacrebleu(pairs):
    from sacrebleu.metrics import BLEU

    predictions, references = map(list, zip(*pairs, strict=True))
    expected = BLEU(force=True).corpus_score(predictions, [references]).score / 100
    assert EVALUATORS["bleu"](predictions, references) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_a_known_corpus():
    predictions = ["the cat is sitting on the mat", "there is a dog in the garden"]
    references = ["the cat is sitting on the mat", "a dog is in the garden now"]
    # shared n-grams counted by hand: 7+6 of 14 words, 6+3 of 12 pairs, 5+1 of 10 triples, 4+0 of 8 fours; equal lengths
    expected = (13 / 14 * 9 / 12 * 6 / 10 * 4 / 8) ** 0.25
    assert EVALUATORS["bleu"](predictions, references) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_a_perfect_corpus_is_one_and_no_more(caplog):
    sentences = [f"answer number {number} ends here ." for number in range(150)]
    assert EVALUATORS["bleu"](sentences, sentences) == 1.0
    assert not caplog.records  # sacrebleu's advice about tokenized periods is for translators


@settings(max_examples=30)
@given(st.lists(st.tuples(ascii_text, ascii_text), min_size=1, max_size=8))
def test_chrf_is_sacrebleus_own(pairs: list[tuple[str, str]]) -> None:
    from sacrebleu import corpus_chrf

    predictions, references = [wrote for wrote, _ in pairs], [wanted for _, wanted in pairs]
    expected = corpus_chrf(predictions, [references]).score / 100
    assert EVALUATORS["chrf"](predictions, references) == pytest.approx(expected, abs=1e-9)


def test_sums_of_some_rows_give_the_score_of_these_rows() -> None:
    """What resampling stands on: twice the third row and none of the first is the score of that very corpus."""
    predictions, references = [list(side) for side in zip(*PAIRS, strict=True)]
    drawn = [2, 2, 7, 8, 9, 10]
    for name in ORDER:
        score = EVALUATORS[name]
        sums = score.measure(Rows(predictions=predictions, references=references))
        totals = sums.rows[drawn].sum(axis=0, keepdims=True)
        expected = score([predictions[row] for row in drawn], [references[row] for row in drawn])
        assert sums.score(totals)[0] == pytest.approx(expected, abs=1e-9), name


@given(st.one_of(short_words, ascii_text), st.one_of(short_words, ascii_text))
def test_rouge_is_rouge_score_on_ascii(prediction, reference):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False).score(reference, prediction)
    for name, score in expected.items():
        assert EVALUATORS[name]([prediction], [reference]) == pytest.approx(score.fmeasure, abs=1e-12)


def test_rouge_is_the_mean_over_rows_and_does_not_stem():
    from rouge_score.rouge_scorer import RougeScorer

    predictions, references = zip(*PAIRS, strict=True)
    scorer = RougeScorer(["rouge1"], use_stemmer=False)
    scores = [scorer.score(reference, prediction)["rouge1"].fmeasure for prediction, reference in PAIRS]
    assert EVALUATORS["rouge1"](predictions, references) == pytest.approx(sum(scores) / len(scores), abs=1e-12)
    assert EVALUATORS["rouge1"](["printing"], ["prints"]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Öl, 3.5!", ["öl", "3", "5"]),
        ("caf\u0065\u0301", ["caf\u00e9"]),  # composed and decomposed letters are the same letter
        ("snake_case", ["snake", "case"]),
        ("Привет, мир", ["привет", "мир"]),
        ("你好 world", ["你", "好", "world"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs belong to the word
        ("🎉 — “”", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_rouge_sees_letters_outside_ascii():
    assert EVALUATORS["rouge1"](["Она открыта в понедельник"], ["Она открыта в понедельник"]) == 1
    assert EVALUATORS["rouge1"](["Она закрыта"], ["Она открыта"]) == pytest.approx(0.5)
    assert EVALUATORS["rougeL"](["营业时间九点"], ["九点营业"]) == pytest.approx(2 * 2 / (6 + 4))


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=4))
def test_every_score_is_a_share(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    for name in ORDER:
        assert 0 <= EVALUATORS[name](predictions, references) <= 1


def test_a_right_answer_scores_one_and_a_wrong_one_zero():
    answer, other = "press the green button twice", "all flak"  # not a letter in common, for chrF
    for name in ORDER:
        assert EVALUATORS[name]([answer], [answer]) == 1, name
        assert EVALUATORS[name]([other], [answer]) == pytest.approx(0, abs=1e-6), name


@pytest.mark.parametrize("name", ORDER)
def test_nothing_to_score_is_an_error_of_the_data(name):
    with pytest.raises(DataError, match="no answers"):
        EVALUATORS[name]([], [])
    with pytest.raises(ValueError, match="zip"):
        EVALUATORS[name](["one", "two"], ["one"])
