"""Text from a model: batched answers, streams, sampling."""

from tunesmith.generate.engine import Completion, Engine

__all__ = ["Completion", "Engine"]
