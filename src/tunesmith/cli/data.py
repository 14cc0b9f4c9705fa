"""`tunesmith data inspect`: what was read, how it was understood, what was left out, and how it is divided."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import NO_SOURCES, Json, Overrides, Sources, given
from tunesmith.cli.train import Files, check_data_files, named_files

if TYPE_CHECKING:
    from tunesmith.api import Preview
    from tunesmith.types import Example

_BRACKETS = ("⟦", "⟧")


def inspect(
    *files: Files,
    rows: Annotated[int, Parameter(help="Rows to show as they will be trained on.", show_default=True)] = 3,
    model: Annotated[
        str | None, Parameter(help="Model whose template is used: a local folder, or builtin:nano.")
    ] = None,
    sources: Sources = NO_SOURCES,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Show what is in a file of examples, or in several, and what training would make of it.

    Nothing is trained and nothing is written. Any setting is a flag, as for train.

        tunesmith data inspect faq.xlsx
        tunesmith data inspect faq.xlsx --data.sheet FAQ --rows 5
        tunesmith data inspect faq.xlsx maths.jsonl
        tunesmith data inspect faq.xlsx --json
    """
    from tunesmith.cli.terminal import hanging, show, show_json, tell
    from tunesmith.config import load_config

    settings = given(overrides, **named_files(files), model=model, seed=sources.seed)
    config = load_config(recipe=sources.recipe, file=sources.config, overrides=settings)
    check_data_files(config.data, files)
    from tunesmith import api

    prepared = api.inspect(config)
    if json:
        show_json(prepared.report.to_json())
        return
    show(hanging(prepared.report.to_text()))
    examples = first_of_each_task(prepared.train, max(rows, 0))
    previews = api.preview(config, prepared, examples) if examples else []
    if previews is None:
        tell(f"{config.model.path} is not on this machine, so the rows are shown without its template")
        show_messages(examples)
    else:
        show_previews(previews)


def show_previews(previews: Sequence[Preview]) -> None:
    """Rows as the model will read them; what is trained on is bold, or between brackets where there is no bold."""
    from rich.text import Text

    from tunesmith.cli.streams import live
    from tunesmith.cli.terminal import plain, show

    left, right = ("", "") if live(sys.stdout) else _BRACKETS
    legend = Text("bold", style="bold green") if live(sys.stdout) else Text(f"between {left} and {right}")
    for preview in previews:
        text = Text()
        for piece, supervised in preview.pieces:
            shown = plain(piece)
            text.append(f"{left}{shown}{right}" if supervised else shown, style="bold green" if supervised else "dim")
        heading = Text(f"{_place(preview.example)}, as the model reads it", style="bold")
        show("", heading.append(" (trained on: ", style="not bold").append_text(legend).append(")", style="not bold"))
        text.rstrip()  # the template ends with a new line
        show(text)


def first_of_each_task(examples: Sequence[Example], count: int) -> list[Example]:
    """The first `count` rows of every task, or of all where there is one."""
    shown: dict[str | None, list[Example]] = {}
    for example in examples:
        shown.setdefault(example.task, []).append(example)
    return [example for rows in shown.values() for example in rows[:count]]


def _place(example: Example) -> str:
    from tunesmith.cli.terminal import plain

    names = [*filter(None, (example.task, example.sheet)), f"row {example.row}"]
    return ", ".join(map(plain, names))


def show_messages(examples: Sequence[Example]) -> None:
    """Rows as questions and answers."""
    from rich.text import Text

    from tunesmith.cli.terminal import facts, plain, show

    for example in examples:
        show("", Text(_place(example), style="bold"))
        if example.text is not None:
            show(Text(plain(example.text)))
            continue
        turns = [(message.role, message.text.rstrip()) for message in example.messages]
        show(facts(turns))
