"""Text from a model: batched answers, streams, sampling."""

from tunesmith.generate.engine import Completion, Engine
from tunesmith.generate.remote import Endpoint

__all__ = ["Completion", "Endpoint", "Engine"]
