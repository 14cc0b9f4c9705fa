"""`tunesmith data inspect`: what was read, how it was understood, what was left out, and how it is divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import NO_SOURCES, Json, Overrides, Sources, given

if TYPE_CHECKING:
    from tunesmith.types import Example


def inspect(
    file: Annotated[str | None, Parameter(help="Examples: xlsx, csv, tsv, json, jsonl, parquet or txt.")] = None,
    /,
    *,
    rows: Annotated[int, Parameter(help="Rows to show as they will be trained on.", show_default=True)] = 3,
    model: Annotated[
        str | None, Parameter(help="Model whose template is used: a local folder, or builtin:nano.")
    ] = None,
    sources: Sources = NO_SOURCES,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """Show what is in a file of examples, and what training would make of it.

    Nothing is trained and nothing is written. Any setting is a flag, as for train.

        tunesmith data inspect faq.xlsx
        tunesmith data inspect faq.xlsx --data.sheet FAQ --rows 5
        tunesmith data inspect faq.xlsx --json
    """
    from tunesmith.cli.terminal import hanging, show, show_json
    from tunesmith.cli.train import check_data_path
    from tunesmith.config import load_config

    settings = given(overrides, data__path=file, model=model, seed=sources.seed)
    config = load_config(recipe=sources.recipe, file=sources.config, overrides=settings)
    check_data_path(config.data.path, file)
    from tunesmith import api

    prepared = api.inspect(config)
    if json:
        show_json(prepared.report.to_json())
        return
    show(hanging(prepared.report.to_text()))
    show_rows(prepared.train[: max(rows, 0)])


def show_rows(examples: Sequence[Example]) -> None:
    """The messages of a few training rows."""
    from rich.text import Text

    from tunesmith.cli.terminal import facts, plain, show

    for example in examples:
        place = f"row {example.row}" if example.sheet is None else f"{plain(example.sheet)}, row {example.row}"
        show("", Text(f"{place}, as it will be trained on", style="bold"))
        if example.text is not None:
            show(Text(plain(example.text)))
            continue
        turns = [(message.role, f"{message.content}\n{message.context or ''}".rstrip()) for message in example.messages]
        show(facts(turns))
