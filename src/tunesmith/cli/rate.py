"""`tunesmith rate`: people vote on answers in the browser without knowing which model wrote them."""

from __future__ import annotations

import json as json_text
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json
from tunesmith.errors import DataError, SettingsError

if TYPE_CHECKING:
    from tunesmith.rating import PairResult, Results, ScaleResult, Session


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Rules:
    """How a rating is begun. Later calls go on with it as it was begun."""

    scale: Annotated[
        str | None, Parameter(help="Score each answer from 1 to 5 on these criteria: correct,helpful. No pairs then.")
    ] = None
    reference: Annotated[bool, Parameter(help="Show raters the right answer too.")] = False
    rows: Annotated[int | None, Parameter(help="At most so many questions, drawn at random.")] = None
    out: Annotated[str | None, Parameter(help="Folder of the rating; a run has its own, a file one beside it.")] = None


NO_RULES = Rules()
_HIGHEST_PORT = 65_535


def rate(
    source: Annotated[str, Parameter(help="A measured run (tunesmith eval), or a JSONL file of answers.")],
    /,
    *,
    results: Annotated[bool, Parameter(help="Show what the votes say, and end.")] = False,
    export: Annotated[
        str | None, Parameter(help="Write the votes as rows to train on: prompt, chosen, rejected (.jsonl).")
    ] = None,
    rules: Rules = NO_RULES,
    port: Annotated[int | None, Parameter(help="Port of the page; without it, one that is free.")] = None,
    json: Json = False,
) -> None:
    """Let people compare answers blindly, in the browser on this machine.

    Each question is shown with two answers, in random order and without names.
    Votes are kept one by one; stop with Ctrl-C and go on whenever you like.
    The page needs the packages of: pip install 'tunesmith[rate]'

        tunesmith rate faq
        tunesmith rate faq --reference --rows 100
        tunesmith rate answers.jsonl --scale correct,helpful
        tunesmith rate faq --results
        tunesmith rate faq --export preferences.jsonl
    """
    folder, path = _places(source, rules.out)
    if results or export is not None:
        _check_begun(folder, source)
        from tunesmith.cli.terminal import shell
        from tunesmith.rating import open_session

        session = open_session(folder)
        if export is not None:
            _export(session, export, shell("tunesmith", "rate", source))
        if results:
            _show_results(session, json=json)
        return
    if port is not None and not 1 <= port <= _HIGHEST_PORT:
        raise SettingsError(
            f"--port {port}: ports are 1 to {_HIGHEST_PORT}", fix="leave it out, and a free one is taken"
        )
    _serve(_opened(folder, path, rules), source, path, port=port, json=json)


def _places(source: str, out: str | None) -> tuple[Path, Path | None]:
    """Folder of the rating, and the file of answers; None when `source` is the rating itself."""
    from tunesmith.rating import answers_path, is_session
    from tunesmith.runs import Run

    if out is None and is_session(Path(source)):
        return Path(source), None
    path = Path(source)
    if path.is_file():
        return Path(out) if out else path.with_name(f"{path.stem}.rating"), path
    run = Run.open(source)
    folder = Path(out) if out else run.eval_dir / "rating"
    return folder, run.eval_dir / "predictions.jsonl" if is_session(folder) else answers_path(source)


def _check_begun(folder: Path, source: str) -> None:
    from tunesmith.cli.terminal import shell
    from tunesmith.rating import is_session

    if not is_session(folder):
        raise SettingsError(f"nothing of {source} has been rated in {folder}", fix=shell("tunesmith", "rate", source))


def _opened(folder: Path, path: Path | None, rules: Rules) -> Session:
    """The rating in `folder`, begun now if need be."""
    from tunesmith.cli.terminal import tell
    from tunesmith.rating import begin, check_same, has_changed, is_session, open_session, read_items

    if rules.rows is not None and rules.rows < 1:
        raise SettingsError(f"--rows {rules.rows} leaves nothing to rate", fix="--rows 100")
    criteria = _criteria(rules.scale)
    if path is None or is_session(folder):
        session = open_session(folder)
        check_same(session, criteria=criteria, show_reference=rules.reference, rows=rules.rows)
        if path is not None and has_changed(session, path):
            tell(f"{path} has changed since; this goes on with the answers it began with (others: --out FOLDER)")
        return session
    return begin(folder, path, read_items(path), criteria=criteria, show_reference=rules.reference, rows=rules.rows)


def _criteria(scale: str | None) -> tuple[str, ...]:
    names = [] if scale is None else [name.strip() for name in scale.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise SettingsError(f"--scale {scale} has an empty criterion, or one twice", fix="--scale correct,helpful")
    return tuple(names)


def _serve(session: Session, source: str, path: Path | None, *, port: int | None, json: bool) -> None:
    from tunesmith.cli.terminal import shell, show, show_json, tell
    from tunesmith.rating import serve

    _, damaged = session.votes.read()
    _tell_damaged(session, damaged)
    kind = "scores" if session.criteria else "comparisons"
    tell(f"{len(session.tasks)} {kind} of {len(session.items)} questions, kept in {session.folder}")
    if session.identical:
        tell(f"{len(session.identical)} pairs of answers are identical and not shown")

    def announce(address: str) -> None:
        if json:
            show_json({"schema_version": 1, "address": address, "folder": session.folder})
        else:
            show(f"open  {address}")
        tell("Ctrl-C ends it; every vote is saved at once")

    try:
        serve(session, announce=announce, port=port)
    finally:
        sys.stdout.flush()
        votes, _ = session.votes.read()
        words = shell("tunesmith", "rate", source, *(() if path is None else _out(session, source)), "--results")
        tell(f"{len(votes)} votes in {session.votes.path}; {words}")


def _out(session: Session, source: str) -> tuple[str, ...]:
    """--out as the user has to give it again, if it is not the usual folder."""
    return () if session.folder == _places(source, None)[0] else ("--out", str(session.folder))


def _export(session: Session, target: str, command: str) -> None:
    from tunesmith.cli.terminal import tell
    from tunesmith.rating import preferences
    from tunesmith.runs import atomic_write

    rows = preferences(session)
    if not rows:
        raise DataError("there is no preference to write: no question has a winner yet", fix=f"vote first: {command}")
    atomic_write(target, "".join(json_text.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    tell(f"wrote {len(rows)} preferences to {target}")


def _tell_damaged(session: Session, lines: Sequence[int]) -> None:
    from tunesmith.cli.terminal import tell

    if lines:
        numbers = ", ".join(map(str, lines[:10])) + (" ..." if len(lines) > 10 else "")
        tell(f"{session.votes.path}: damaged, kept and not counted: line {numbers}")


def _show_results(session: Session, *, json: bool) -> None:
    from tunesmith.cli.terminal import show, show_json, tell
    from tunesmith.rating import results

    found = results(session)
    _tell_damaged(session, found.damaged_lines)
    if found.unknown_tasks:
        tell(f"{found.unknown_tasks} votes are about tasks that this rating does not have; they are not counted")
    if json:
        show_json(found.to_json())
        return
    raters = ", ".join(f"{_plain(name)} ({count})" for name, count in found.raters.items()) or "nobody yet"
    show(f"{found.votes} votes on {found.rated_tasks} of {found.tasks} tasks by {raters}")
    if found.pairs:
        _show_pairs(found)
    if found.strengths is not None:
        _show_strengths(found)
    elif len(session.contestants) > 2 and found.pairs:
        show("", "strengths of all models together: not yet, someone (or a group) only won or only lost so far")
    for scale in found.scales:
        _show_scale(scale, session.contestants[0])
    for what, value in found.agreement.items():
        shown = "cannot be computed yet" if math.isnan(value) else f"{value:.2f}"
        about = "" if what == "choice" else f" on {_plain(what)}"
        show("", f"agreement of raters{about}: {shown} ({found.agreement_name}; 1 perfect, 0 chance)")
    if found.left_share.low > 0.5 or found.left_share.high < 0.5:
        show("", f"note: answer A (left) won {found.left_share.value:.0%} of the time, whoever wrote it")


def _show_pairs(found: Results) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import show, table

    made = table(
        *("models", "wins", "losses", "ties", "both bad", "share of wins (95 %)", "decision"),
        right=("wins", "losses", "ties", "both bad"),
        fold=("models", "decision"),
    )
    for pair in found.pairs:
        tally, share = pair.tally, pair.share
        made.add_row(
            Text(f"{_plain(pair.first)} over {_plain(pair.second)}", style="bold"),
            *(str(count) for count in (tally.wins, tally.losses, tally.ties - tally.both_bad, tally.both_bad)),
            f"{share.value:.0%}, {share.low:.0%} to {share.high:.0%}" if tally.decisive else "-",
            _decision(pair),
        )
    show("", made)
    alone = sum(pair.identical for pair in found.pairs)
    if alone:
        show(f"{alone} identical pairs of answers were not shown and are not counted")


def _decision(pair: PairResult) -> str:
    if pair.preferred is not None:
        questions = "1 question" if pair.depends_on == 1 else f"{pair.depends_on} questions"
        return f"{_plain(pair.preferred)} is preferred (hangs on {questions})"
    if pair.needed is None:
        return "not decided, and no decision in sight"
    return f"not decided; about {pair.needed} more {'question' if pair.needed == 1 else 'questions'}"


def _show_strengths(found: Results) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import show, table

    made = table("model", "strength", "95 % interval", right=("strength",), fold=("model",))
    for name, one in sorted((found.strengths or {}).items(), key=lambda pair: -pair[1].value):
        made.add_row(Text(_plain(name), style="bold"), f"{one.value:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}")
    show("", made, "Bradley-Terry, log-odds against an average model")


def _show_scale(scale: ScaleResult, first: str) -> None:
    from rich.text import Text

    from tunesmith.cli.terminal import show, table

    criterion = _plain(scale.criterion)
    change_from = f"change from {_plain(first)}"
    made = table(
        *(criterion, "mean", "95 % interval", change_from, " "),
        right=("mean", change_from),
        fold=(criterion, change_from),
    )
    for name, mean in scale.means.items():
        change = scale.differences.get(name)
        made.add_row(
            Text(_plain(name), style="bold"),
            f"{mean.value:.2f}",
            f"{mean.low:.2f} to {mean.high:.2f}",
            "" if change is None else f"{change.change:+.2f}",
            "" if change is None else change.verdict,
        )
    show("", made)


def _plain(text: str) -> str:
    from tunesmith.cli.terminal import plain

    return plain(text).replace("\n", " ")
