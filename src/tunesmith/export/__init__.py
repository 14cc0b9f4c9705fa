"""Ways out of Tunesmith: what accompanies a model when it is passed on."""

from tunesmith.export.card import CardFacts, License, base_kind, card_text, read_license, write_card

__all__ = ["CardFacts", "License", "base_kind", "card_text", "read_license", "write_card"]
