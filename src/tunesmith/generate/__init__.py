"""Text from a model: batched answers, streams, sampling; and one label of a given set.

A name is imported when it is first used: a model behind an address needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.generate.choice import Choice
    from tunesmith.generate.engine import Completion, Engine
    from tunesmith.generate.labels import choose, label_ids
    from tunesmith.generate.remote import OLLAMA, Endpoint

__all__ = ["OLLAMA", "Choice", "Completion", "Endpoint", "Engine", "choose", "label_ids"]

_HOME = {
    **dict.fromkeys(("Choice",), "choice"),
    **dict.fromkeys(("Completion", "Engine"), "engine"),
    **dict.fromkeys(("choose", "label_ids"), "labels"),
    **dict.fromkeys(("OLLAMA", "Endpoint"), "remote"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
