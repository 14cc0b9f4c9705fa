"""`tunesmith methods`: what can be trained, and what can be done with the result."""

from __future__ import annotations

from dataclasses import asdict

from tunesmith.cli.overrides import Json


def methods(*, json: Json = False) -> None:
    """List the methods of training and what can be done with the result of each.

    Choose one with --method NAME; unset, the size of the model decides.

        tunesmith methods
        tunesmith train faq.xlsx --method dora
    """
    from rich.text import Text

    from tunesmith.cli.terminal import show, show_json, table
    from tunesmith.config import METHODS

    if json:
        found = [{"name": name, **asdict(method)} for name, method in METHODS.items()]
        show_json({"schema_version": 1, "methods": found})
        return
    made = table("method", "what it is", "merges", "4-bit base", "GGUF", "rate, small to large", fold=("what it is",))
    for name, method in METHODS.items():
        made.add_row(
            Text(name, style="bold"),
            Text(method.sentence),
            _yes(method.mergeable),
            _yes(method.quantisable),
            {"whole": "whole model", "adapter": "also adapter", "none": "no"}[method.gguf],
            " to ".join(dict.fromkeys(f"{rate:g}" for rate in (method.rates[0][1], method.rates[-1][1]))),
        )
    show(made, "")
    able = {name for name, method in METHODS.items() if method.gradient_checkpointing and method.packable}
    others = ", ".join(name for name in METHODS if name not in able)
    show(f"all but {others} work with gradient checkpointing and packed rows; qlora needs the extra qlora")
    show("where adapters in the layers go: tunesmith layers MODEL")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
