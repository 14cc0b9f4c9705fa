"""Rows that are pieces of an example -> one row each: a chat of one message a row, a FAQ in one column of text.

    Ticket | Sender | Message          messages: [user "Hi", assistant "Hello"]
    7      | Kunde  | Hi          ->
    7      | Agent  | Hello

    Q: Where is it?               ->   question: Where is it?   answer: There.
    A: There.

Instructions with a history are conversations as well. Rows that answer others by an id are `replies`.

What is found is told; a set shape or column says that rows are examples already. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.config import DataConfig
from tunesmith.data.clean import is_blank
from tunesmith.data.examples import ROLES
from tunesmith.data.facts import ColumnFacts, column_facts
from tunesmith.data.names import ORDINARY_WEIGHT, name_weight, normalise_name
from tunesmith.data.replies import replies
from tunesmith.data.table import Table, cell_text
from tunesmith.types import Finding, Record, Role

# What exports call those who write, beside the roles of chat data
_SPEAKERS: Mapping[str, Role] = {
    **ROLES,
    **dict.fromkeys(("customer", "client", "kunde", "visitor", "requester", "caller", "guest", "cliente"), "user"),
    **dict.fromkeys(("agent", "support", "operator", "staff", "mitarbeiter", "advisor", "berater"), "assistant"),
}
_SPEAKER_COLUMNS = frozenset({"role", "sender", "speaker", "author", "from", "who", "absender", "rolle", "participant"})
_CHAT_WORDS = frozenset({"conversation", "chat", "session", "thread", "dialog", "dialogue", "ticket", "case", "call"})
_ANSWERS_AMONG_NAMES = (0.2, 0.8)  # share of the messages that are answers, where those who ask are called by name
_BESIDE = ("input", "system")  # an instruction with a history
_MOST_NAMED = 3  # speakers in one sentence
_MOST_KNOWN = 0.9  # of the speakers, from which on a column tells who speaks

_QUESTION = r"q|f|question|frage|pregunta|domanda|pergunta|user|human|问|問"
_ANSWER = r"a|r|answer|antwort|réponse|reponse|respuesta|risposta|resposta|assistant|bot|答"
_MARKED = re.compile(
    rf"\W*(?:(?P<q>{_QUESTION})|(?P<a>{_ANSWER}))\W?\d*\s*[:：](?:\*\*)?\s*(?P<text>.*)", re.IGNORECASE
)
_MARK = re.compile(rf"\W*(?:(?P<q>{_QUESTION})|(?P<a>{_ANSWER}))\W*\d*\W*", re.IGNORECASE)
_LETTERED = re.compile(r"\W*(?P<letter>[a-z])\W?\s*[:：].*", re.IGNORECASE)
_NAMED = re.compile(r"(?P<name>[^:：?？]{1,40})[:：]\s+(?P<text>.*)", re.DOTALL)
_HEADING = re.compile(r"#{1,6}\s+(?P<text>.*?)\s*#*$")
_FEWEST_PAIRS = 3
_AS_IT_IS = "to train on the text as it is set data.shape to text"


def gather(table: Table, config: DataConfig) -> Table:
    """The table with one example a row, or as it is where its rows are examples."""
    if not table.records or not table.columns or config.columns or config.shape not in ("auto", "messages", "qa"):
        return table
    if config.shape != "qa" and (chats := _chats(table) or _with_history(table)):
        return chats
    if config.shape == "messages":
        return table
    return replies(table) or _pairs(table) or _in_turn(table) or table


def _chats(table: Table) -> Table | None:
    """Conversations by their column, in the order of the rows; what one says in a row of rows is one turn."""
    facts = column_facts(table.records, table.columns)
    speaker = next((name for name in facts if _tells_speakers(table, facts[name])), None)
    key = next((name for name in facts if set(normalise_name(name).split()) & _CHAT_WORDS), None)
    texts = [fact for fact in facts.values() if fact.is_prose and fact.name not in (speaker, key)]
    if speaker is None or key is None or not texts:
        return None
    text = max(texts, key=lambda fact: fact.median_length).name
    chats: dict[tuple[str | None, str], Record] = {}
    last: tuple[str | None, str] | None = None
    for record in table.records:
        if is_blank(record.cells.values()):
            continue
        role = _role(cell_text(record.cells.get(speaker))) or "user"
        said = cell_text(record.cells.get(text)).strip()
        name = (record.sheet, cell_text(record.cells.get(key)).strip())
        if not name[1]:  # as sheets are written by hand: it stands in the first row of each conversation only
            if last is None or last[0] != record.sheet:
                return None
            name = last
        last = name
        turns = chats.setdefault(name, Record(record.row, {"messages": []}, record.sheet)).cells["messages"]
        assert isinstance(turns, list)
        if said and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{said}"
        elif said:
            turns.append({"role": role, "content": said})
    if len(chats) == len(table.records):
        return None
    message = (
        f'{len(table.records)} rows are messages: put together to {len(chats)} conversations by column "{key}", '
        f'who speaks by "{speaker}", what is said by "{text}"; answers are those of {_answering(table, speaker)}'
    )
    return _replaced(table, list(chats.values()), Finding("note", "messages_gathered", message))


def _with_history(table: Table) -> Table | None:
    """Instructions that go on from earlier turns, {"history": [["question", "answer"], ..]}, as conversations."""
    history = next((name for name in table.columns if normalise_name(name) == "history"), None)
    asks, gives = (_best(table.columns, parts) for parts in (("instruction", "question"), ("output", "answer")))
    if history is None or asks is None or gives is None:
        return None
    before: list[Any] = [record.cells.get(history) or [] for record in table.records]
    if not any(before) or not all(isinstance(turns, list) and all(map(_is_exchange, turns)) for turns in before):
        return None
    further, system = (next((name for name in table.columns if normalise_name(name) == part), "") for part in _BESIDE)
    records = []
    for record, turns in zip(table.records, before, strict=True):
        said = [text for exchange in turns for text in exchange]
        asked = [cell_text(record.cells.get(name)).strip() for name in (asks, further)]
        said += ["\n".join(filter(None, asked)), cell_text(record.cells.get(gives)).strip()]
        roles = ["user", "assistant"] * (len(said) // 2)
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        prompt = cell_text(record.cells.get(system)).strip()
        begin = [{"role": "system", "content": prompt}] if prompt else []
        records.append(replace(record, cells={"messages": [*begin, *messages]}))
    message = (
        f'{sum(map(bool, before))} of {len(records)} rows go on from earlier turns, by column "{history}": read as '
        f'conversations that end with "{asks}" and "{gives}"'
    )
    return _replaced(table, records, Finding("note", "history_gathered", message))


def _best(columns: Sequence[str], parts: Sequence[str]) -> str | None:
    """The column that is one of these parts by a name that settles it."""
    named = [(name_weight(name, part), name) for part in parts for name in columns]
    weight, name = max(named, key=lambda one: one[0], default=(0.0, ""))
    return name if weight > ORDINARY_WEIGHT else None


def _is_exchange(turns: object) -> bool:
    return isinstance(turns, list) and len(turns) == 2 and all(isinstance(text, str) for text in turns)


def _tells_speakers(table: Table, fact: ColumnFacts) -> bool:
    if not set(normalise_name(fact.name).split()) & _SPEAKER_COLUMNS or fact.kind != "text":
        return False
    cells = [cell_text(record.cells.get(fact.name)) for record in table.records]
    roles = Counter(_role(cell) for cell in cells if cell.strip())
    if roles[None] <= (1 - _MOST_KNOWN) * roles.total():
        return bool(roles["user"] and roles["assistant"])
    # customers have names, those who answer are a team or a bot
    lowest, highest = (share * roles.total() for share in _ANSWERS_AMONG_NAMES)
    return lowest <= roles["assistant"] <= highest and roles.keys() <= {None, "user", "assistant"}


def _role(speaker: str) -> Role | None:
    """Of "Agent", and of "Support Team" or "support@acme.org" by a word of it. In "Customer support" nobody asks."""
    roles = [_SPEAKERS[word] for word in re.findall(r"[^\W\d_]+", speaker.lower()) if word in _SPEAKERS]
    whole = _SPEAKERS.get(speaker.strip().lower())
    return whole or ("assistant" if "assistant" in roles else next(iter(roles), None))


def _answering(table: Table, speaker: str) -> str:
    cells = dict.fromkeys(cell_text(record.cells.get(speaker)).strip() for record in table.records)
    names = [cell for cell in cells if _role(cell) == "assistant"]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(f'"{name}"' for name in names[:_MOST_NAMED]) + more


@dataclass(slots=True)
class _Pair:
    """A question with its answer on the way: the row it begins on, lines of each."""

    record: Record
    question: list[str]
    answer: list[str] = field(default_factory=list)


def _pairs(table: Table) -> Table | None:
    """Questions and answers of the only column of text: by "Q:" and "A:", beside it too, or by headings that ask."""
    marks, texts = _marks_beside(table)
    if len(table.columns) != 1 and marks is None:
        return None
    lines = [
        (record, line)
        for record in table.records
        for line in (_mark(record, marks) + cell_text(record.cells.get(texts))).split("\n")
        if line.strip()
    ]
    if marks is None:
        lines.insert(0, (_at_heading(table), table.columns[0]))
    for find in (_marked, _headed):
        pairs = find(lines)
        whole = [pair for pair in pairs if pair.answer]
        if len(whole) >= _FEWEST_PAIRS and len(whole) >= _MOST_KNOWN * len(pairs):
            records = [
                Record(
                    pair.record.row,
                    {"question": "\n".join(pair.question), "answer": "\n".join(pair.answer)},
                    pair.record.sheet,
                )
                for pair in pairs
            ]
            by = 'marks such as "Q:" and "A:"' if find is _marked else "headings that ask"
            message = f"{len(records)} questions and answers were found in the text by {by}"
            return _replaced(table, records, Finding("note", "pairs_gathered", message, _AS_IT_IS))
    return None


def _marks_beside(table: Table) -> tuple[str | None, str]:
    """The column of marks of two, such as "Question:" and "Answer:" in turn, and the one of texts. No marks: None."""
    if len(table.columns) == 2:
        for marks, texts in (table.columns, table.columns[::-1]):
            found = Counter(_mark(record, marks) for record in table.records if not is_blank([record.cells.get(marks)]))
            if min(found["Q: "], found["A: "]) >= _FEWEST_PAIRS and found[""] <= (1 - _MOST_KNOWN) * found.total():
                return marks, texts
    return None, table.columns[0]


def _mark(record: Record, column: str | None) -> str:
    """What a cell says of the one beside it."""
    match = _MARK.fullmatch(cell_text(record.cells.get(column)).strip()) if column is not None else None
    return "" if match is None else "Q: " if match["q"] else "A: "


def _at_heading(table: Table) -> Record:
    """The place of the only heading, which is itself a line where a sheet begins with a question."""
    first = table.records[0]
    return Record(max(1, first.row - 1), {}, first.sheet)


Lines = Sequence[tuple[Record, str]]


def _marked(lines: Lines) -> list[_Pair]:
    """Empty unless half of the lines at least have a mark, and an answer comes after each question.

    Lists of choices belong to what they stand in, and count for nothing.
    """
    choices = _choices(lines)
    pairs: list[_Pair] = []
    part: list[str] | None = None
    marks = 0
    for place, (record, line) in enumerate(lines):
        match = None if place in choices else _MARKED.fullmatch(line.strip())
        if match is None:
            if part is not None:
                part.append(line)
            continue
        marks += 1
        if match["q"]:
            pairs.append(_Pair(record, [match["text"]]))
            part = pairs[-1].question
        elif pairs:
            part = pairs[-1].answer
            part.append(match["text"])
    return pairs if 2 * marks >= len(lines) - len(choices) else []


def _choices(lines: Lines) -> set[int]:
    """Places of lines such as "A: red", "B: blue" in this order. The first one looks like an answer, and is none."""
    found = [_LETTERED.fullmatch(line.strip()) for _, line in lines]
    letters = [match["letter"].upper() if match else "" for match in found]
    places: set[int] = set()
    for place, letter in enumerate(letters):
        begins = letter == "A" and letters[place + 1 : place + 2] == ["B"]
        if begins or (place - 1 in places and letter == chr(ord(letters[place - 1]) + 1)):
            places.add(place)
    return places


def _headed(lines: Lines) -> list[_Pair]:
    """Markdown: empty unless most headings are questions."""
    pairs: list[_Pair] = []
    headings = 0
    part: list[str] | None = None
    for record, line in lines:
        match = _HEADING.fullmatch(line.strip())
        if match is None:
            if part is not None:
                part.append(line)
            continue
        headings += 1
        part = None
        if match["text"].endswith(("?", "？", "؟")):
            pairs.append(_Pair(record, [match["text"]]))
            part = pairs[-1].answer
    return pairs if 2 * len(pairs) > headings else []


def _in_turn(table: Table) -> Table | None:
    """Rows that ask and answer in turn, without a mark: every other one ends with a question mark, and no other does.

    Numbers may stand beside them.
    """
    if any(finding.code == "exported_chat" for finding in table.findings):  # who asks there is a name
        return None
    facts = column_facts(table.records, table.columns)
    texts = [fact.name for fact in facts.values() if fact.is_prose]
    if len(texts) != 1 or any(fact.filled and fact.name != texts[0] and not fact.is_code for fact in facts.values()):
        return None
    rows = [(record, cell_text(record.cells.get(texts[0])).strip()) for record in table.records]
    rows = [(record, text) for record, text in rows if text]
    asks = [text.endswith(("?", "？", "؟")) for _, text in rows]
    pairs = list(zip(rows[::2], rows[1::2], strict=False))
    if len(pairs) < _FEWEST_PAIRS or asks != [True, False] * len(pairs):
        return None
    if any(asked.sheet != given.sheet for (asked, _), (given, _) in pairs):
        return None
    said = [question for (_, question), _ in pairs], [answer for _, (_, answer) in pairs]
    questions, answers = map(_unnamed, said)
    without = "" if said == (questions, answers) else ", without the names of who speaks"
    records = [
        replace(record, cells={"question": question, "answer": answer})
        for ((record, _), _), question, answer in zip(pairs, questions, answers, strict=True)
    ]
    message = (
        f"rows ask and answer in turn: {len(records)} questions, each with the row below it as the answer{without}"
    )
    return _replaced(table, records, Finding("note", "pairs_gathered", message, _AS_IT_IS))


def _unnamed(texts: Sequence[str]) -> list[str]:
    """Without who speaks, where that stands in front of each, "Interviewer: Why?", and is always the same."""
    found = [match for text in texts if (match := _NAMED.fullmatch(text))]
    is_one = len(found) == len(texts) and len({match["name"] for match in found}) == 1
    return [match["text"] for match in found] if is_one else list(texts)


def _replaced(table: Table, records: Sequence[Record], finding: Finding) -> Table:
    columns = tuple(records[0].cells)
    return replace(
        table, records=tuple(records), columns=columns, continuous=False, findings=(*table.findings, finding)
    )
