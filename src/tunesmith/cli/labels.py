"""How labels and their scores are shown, by eval, ask and chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.cli.terminal import plain, shorten, show, table, tell

if TYPE_CHECKING:
    from tunesmith.api import Choice, Comparison

_MOST_SHOWN = 20  # labels of which every one is shown; of more, the worst
_WORST = 10
_MISTAKES = 5
_OTHERS = 3
_LONGEST = 60


def choice_line(choice: Choice) -> str:
    """A label and how probable it is among the labels: "card_arrival  0.932"."""
    return f"{plain(choice.label)}  {choice.probability:.3f}"


def tell_others(choice: Choice) -> None:
    """The labels that come next, as a message."""
    others = choice.ranked[1 : 1 + _OTHERS]
    tell("then " + ", ".join(f"{plain(label)} ({probability:.3f})" for label, probability in others))


def show_labels(comparison: Comparison) -> None:
    """What accuracy means here, the scores of each label, and what was taken for what."""
    found: Any = comparison.to_json()["labels"]
    always, unseen = found["always"], found["unseen"]
    show(f"always giving the most frequent label, {plain(always['label'])!r}, is right in {always['accuracy']:.1%}", "")
    if unseen:
        names = ", ".join(repr(plain(name)) for name in list(unseen)[:3]) + (", ..." if len(unseen) > 3 else "")
        rows = sum(unseen.values())
        tell(
            f"warning: {rows} test row{'s have' if rows > 1 else ' has'} a label that training has not seen ({names}): "
            "wrong in all scores, left out of log loss",
            "",
        )
    show(_class_table(found["base"], found["tuned"]), "")
    mistakes = comparison.tuned.by_label.mistakes()[:_MISTAKES] if comparison.tuned.by_label else []
    if mistakes:
        made = table("right label", "label given", "rows", right=("rows",))
        for right, chosen, rows in mistakes:
            made.add_row(shorten(right, _LONGEST), shorten(chosen, _LONGEST), str(rows))
        show("what the tuned model takes for what", "", made, "")


def _class_table(base: dict[str, Any], tuned: dict[str, Any]) -> RenderableType:
    """Scores of the tuned model for each label, the worst first, with the base's F1 beside them."""
    from rich.table import Table

    worst = sorted(tuned, key=lambda label: tuned[label]["f1"])
    shown = worst if len(worst) <= _MOST_SHOWN else worst[:_WORST]
    made = table(
        "label", "rows", "precision", "recall", "F1", "F1 of base", right=("rows", "precision", "recall", "F1")
    )
    for label in shown:
        scores = tuned[label]
        numbers = [f"{100 * scores[name]:.1f}" for name in ("precision", "recall", "f1")]
        before = f"{100 * base[label]['f1']:.1f}" if label in base else ""
        made.add_row(shorten(label, _LONGEST), str(scores["support"]), *numbers, Text(before, style="dim"))
    outer = Table.grid()
    outer.add_row(made)
    if len(shown) < len(worst):
        outer.add_row(Text(f"the worst {len(shown)} of {len(worst)} labels; all are in summary.json", style="dim"))
    return outer
