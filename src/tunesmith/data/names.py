"""Literal tables: what people call the columns of each part of an example. No logic but the comparison of names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

# part -> names that settle it, then names that only suggest it; earlier ones are preferred.
# Of many languages; compared by `normalise_name`: case, accents, punctuation, plurals do not matter.
PART_NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "question": (
        ("question", "questions", "q", "query", "frage", "fragen", "pregunta", "user question", "customer question",
         "domanda", "pergunta", "vraag", "fråga", "spørgsmål", "spørsmål", "kysymys", "pytanie", "otázka", "kérdés",
         "întrebare", "pitanje", "вопрос", "питання", "въпрос", "ερώτηση", "soru", "سؤال", "السؤال", "پرسش", "שאלה",
         "प्रश्न", "câu hỏi", "คำถาม", "pertanyaan", "问题", "問題", "提问", "質問", "ご質問", "お問い合わせ", "질문"),
        ("user message", "user input", "user", "human", "message", "utterance", "request", "anfrage", "kundenanfrage",
         "consulta", "demande", "inquiry", "enquiry", "pattern", "problem", "problème", "issue", "term", "begriff",
         "title", "subject", "betreff", "objet", "asunto", "description", "beschreibung", "body", "selftext",
         "customer", "kunde", "client", "cliente"),
    ),
    "answer": (
        ("answer", "corrected answer", "approved answer", "final answer", "best answer", "response", "reply", "a",
         "antwort", "antworten", "réponse", "respuesta", "risposta", "resposta", "antwoord", "svar", "vastaus",
         "odpowiedź", "odpověď", "odpoveď", "válasz", "răspuns", "odgovor", "ответ", "відповідь", "отговор", "απάντηση",
         "cevap", "yanıt", "جواب", "الجواب", "إجابة", "پاسخ", "תשובה", "उत्तर", "câu trả lời", "คำตอบ", "jawaban",
         "答案", "回答", "ご回答", "答复", "回复", "답변", "solution", "resolution", "lösung",
         "solución"),
        ("correct answer", "expected answer", "output", "completion", "assistant", "bot", "agent",
         "lösungsvorschlag", "antwortvorschlag", "definition", "chosen"),
    ),
    "context": (("context", "passage", "paragraph", "background", "kontext", "contexte", "contexto"), ()),
    "system": (("system", "system prompt", "system message", "system instruction"), ()),
    "instruction": (
        ("instruction", "task", "anweisung", "aufgabe", "consigne", "instrucción"),
        ("command", "directive"),
    ),
    "input": (("input", "context", "eingabe", "entrée", "entrada", "kontext"), ()),
    "output": (
        ("output", "response", "ausgabe", "sortie", "salida"),
        ("answer", "completion", "target", "result", "antwort", "réponse", "respuesta"),
    ),
    "prompt": (("prompt",), ("input", "source text", "eingabe", "entrée", "entrada")),
    "completion": (
        ("completion", "continuation"),
        ("answer", "response", "output", "target", "chosen", "antwort", "réponse", "respuesta", "ausgabe"),
    ),
    "messages": (
        ("messages", "conversation", "conversations", "chat", "dialog", "dialogue", "contents"), ("prompt", "chosen"),
    ),
    "conversations": (("conversations", "conversation", "messages", "chat", "dialog", "dialogue"), ("chosen",)),
    "chosen": (("chosen", "preferred output", "completion"), ()),  # turns; a completion of text is that of a prompt
    "text": (
        ("text", "texts", "content", "document", "body", "texte", "texto", "testo", "tekst", "текст", "テキスト",
         "文本"),
        ("sentence", "utterance", "paragraph", "article", "abstract", "passage", "message", "review", "comment",
         "tweet", "question", "query", "description", "title", "satz", "phrase", "nachricht", "kommentar", "frage",
         "pregunta"),
    ),
    "label": (
        ("label", "category", "class", "intent", "sentiment", "klasse", "kategorie", "catégorie", "categoría",
         "etikett", "étiquette", "etiqueta", "classe", "clase", "categoria", "categorie", "kategoria", "kategori",
         "etykieta", "категория", "カテゴリ", "カテゴリー", "ラベル", "类别", "标签", "분류"),
        ("target", "topic", "tag", "emotion", "domain", "type", "typ", "thema", "stimmung"),
    ),
}  # fmt: skip

# A name with one of these words is never taken for a part because of its other words, nor by its content:
# "Question_ID", "Incorrect Answers", "answer_annotation", "Source".
OTHER_WORDS = (
    "id", "uid", "uuid", "guid", "key", "index", "idx", "nr", "no", "number", "num", "count", "length", "size", "rank",
    "date", "time", "timestamp", "created", "updated", "source", "url", "link", "href", "file", "path", "author",
    "start", "offset", "position", "lang", "language", "locale", "score", "rating", "vote", "split", "version",
    "status", "metadata", "meta", "incorrect", "wrong", "false", "bad", "rejected", "negative", "distractor",
    "suggested", "annotation", "anno", "quelle", "datum", "autor", "sprache",
    "username", "nickname", "old", "former", "outdated", "obsolete", "deprecated", "alte", "veraltet",
)  # fmt: skip

# How German compounds end: "Kundenfrage", "Musterantwort".
_HEADS: Mapping[str, tuple[str, ...]] = {"question": ("frage", "fragen"), "answer": ("antwort", "antworten")}
# Where an export has a heading and the text below it, the text is the question: "Subject" and "Body" of a mail.
HEADINGS = frozenset({"title", "subject", "betreff", "objet", "asunto", "oggetto", "topic", "thema", "summary"})
DETAILS = frozenset(
    {"body", "selftext", "description", "message", "text", "content", "detail", "inquiry", "enquiry"}
    | {"beschreibung", "nachricht", "mensaje", "descripcion", "corps"}
)

# A prompt and its completion where they stand side by side, in translations and summaries: "Source" alone says where a
# text is from, and a document alone is a text.
BESIDE = (
    ("source", "target"), ("src", "tgt"), ("source text", "target text"), ("document", "summary"),
    ("article", "summary"), ("article", "highlight"), ("dialogue", "summary"),
)  # fmt: skip
# Before the letter or number of a choice, "Option A", and on a list of them; then of the column with the right one.
CHOICES = frozenset(
    {"option", "choice", "answer", "ans", "alternative", "antwort", "auswahl", "antwortmoglichkeit", "opcion", "opcao"}
    | {"opzione", "choix", "proposition", "reponse", "respuesta", "risposta", "resposta", "选项", "選項", "選択肢"}
)
RIGHT = frozenset(
    {"correct", "key", "right", "answer", "gold", "label", "target", "richtig", "correcta", "correcte", "correto"}
    | {"corretta", "bonne", "solution"}
)

# In preference data, what the answers of the column that is learnt were preferred to.
REJECTED = frozenset({"rejected", "non preferred output"})

ORDINARY_WEIGHT = 0.8  # of a name that only suggests its part
PARTIAL_WEIGHT = 0.6  # of a name that has a settling name among its words: "Answer (EN)"
_PREFERENCE_STEP = 0.002  # between a name and the next one in its list

INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"  # zero-width space, marks of direction, word joiner, byte order mark
# "Answer (at most 300 words, no names)": what stands in brackets at the end explains the name
_REMARK = re.compile(r"(?P<name>[^()\[\]（）]+)[(\[（](?P<remark>[^()\[\]（）]*)[)\]）]\W*")
_LONGEST_TAG = 3  # words in brackets that still tell two columns apart: "Answer (EN)", "Question (ID)"


def plain_heading(cell: str) -> str:
    r"""A heading as one would type it: on one line, without characters that nobody sees, accents in one piece (NFC).

    >>> plain_heading("\u200bLo\u0308sung\n(kurz)")
    'Lösung (kurz)'
    """
    visible = cell.translate(dict.fromkeys(map(ord, INVISIBLE)))
    return " ".join(unicodedata.normalize("NFC", visible).split())


def without_remark(name: str, *, longer_than: int = 0) -> str:
    """A heading without what explains it in brackets at its end, if that has more than so many words.

    >>> without_remark("Answer (at most 300 words)"), without_remark("Answer (EN)", longer_than=3)
    ('Answer', 'Answer (EN)')
    """
    match = _REMARK.fullmatch(name)
    if match is None or len(match["remark"].split()) <= longer_than:
        return name
    return match["name"].strip() or name


@cache
def normalise_name(name: str) -> str:
    """Lower-case words without accents, punctuation or plural: how two column names are compared.

    >>> normalise_name("SuggestedQuestions"), normalise_name("Réponses :"), normalise_name("Best_Answer")
    ('suggested question', 'reponse', 'best answer')
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    plain = "".join(char for char in unicodedata.normalize("NFKD", spaced) if not unicodedata.combining(char))
    return " ".join(_singular(word) for word in re.findall(r"[^\W_]+", plain.casefold()))


@cache
def name_weight(name: str, part: str) -> float:
    """How surely a column of this name is this part: 1 settles it, 0 says nothing."""
    name = without_remark(name, longer_than=_LONGEST_TAG)
    exact = _weights(part).get(normalise_name(name))
    if exact is not None:
        return exact
    words = set(normalise_name(name).split())
    if has_other_word(name):
        return 0.0
    settling = {word for word in map(normalise_name, PART_NAMES[part][0]) if len(word) > 1}
    is_compound = any(word.endswith(_HEADS[part]) for word in words) if part in _HEADS else False
    return PARTIAL_WEIGHT if is_compound or (len(words) > 1 and words & settling) else 0.0


@cache
def has_other_word(name: str) -> bool:
    """Whether the name speaks of an id, a source, a wrong answer and the like."""
    plain = without_remark(name, longer_than=_LONGEST_TAG)
    return any(word in _OTHER or _JOINED_ID.fullmatch(word) for word in normalise_name(plain).split())


def is_known_name(name: str, *, settling: bool = False) -> bool:
    """Whether this is, but for a remark, a name of any part (a settling one, if asked): it tells a header from data."""
    return normalise_name(without_remark(name)) in (_SETTLING if settling else _KNOWN)


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


@cache
def _weights(part: str) -> Mapping[str, float]:
    settling, suggesting = PART_NAMES[part]
    weights: dict[str, float] = {}
    for start, names in ((1.0, settling), (ORDINARY_WEIGHT, suggesting)):
        for index, name in enumerate(names):
            weights.setdefault(normalise_name(name), start - _PREFERENCE_STEP * index)
    return weights


_JOINED_ID = re.compile(r"(row|record|item|doc|document|user|question|answer|qna|faq|message|example|ticket|article)id")
_OTHER = frozenset(normalise_name(word) for word in OTHER_WORDS)
_SETTLING = frozenset(normalise_name(name) for names, _ in PART_NAMES.values() for name in names) - {"a"}
_KNOWN = _SETTLING | frozenset(normalise_name(name) for _, names in PART_NAMES.values() for name in names)
