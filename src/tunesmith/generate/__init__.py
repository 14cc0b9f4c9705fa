"""Text from a model: batched answers, streams, sampling; and one label of a given set."""

from tunesmith.generate.choose import Choice, choose, label_ids
from tunesmith.generate.engine import Completion, Engine
from tunesmith.generate.remote import OLLAMA, Endpoint

__all__ = ["OLLAMA", "Choice", "Completion", "Endpoint", "Engine", "choose", "label_ids"]
