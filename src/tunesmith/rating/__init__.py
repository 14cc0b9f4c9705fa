"""Blind human evaluation: people vote on answers in the browser without knowing which model wrote them."""

from tunesmith.rating.items import Item, answers_path, read_items
from tunesmith.rating.results import PairResult, Results, ScaleResult, preferences, results
from tunesmith.rating.server import serve
from tunesmith.rating.session import Session, begin, check_same, has_changed, is_session, open_session

__all__ = [
    "Item",
    "PairResult",
    "Results",
    "ScaleResult",
    "Session",
    "answers_path",
    "begin",
    "check_same",
    "has_changed",
    "is_session",
    "open_session",
    "preferences",
    "read_items",
    "results",
    "serve",
]
