"""The settings of a model from scratch."""

from __future__ import annotations

from pydantic import model_validator

from tunesmith.config.section import Section, setting


class PretrainConfig(Section):
    """A model from scratch (`tunesmith pretrain`): its texts, its vocabulary and its shape."""

    documents: list[str] = setting([], "Text files or patterns: txt, or jsonl(.gz) with a text field.")
    qa: list[str] = setting([], "Question/answer files or patterns: jsonl(.gz), rendered as chat.")
    qa_repeats: int = setting(1, "Times each question/answer pair is seen in an epoch.", ge=1)
    holdout: float = setting(0.01, "Share of documents never trained on, to measure bits per byte.", gt=0, lt=0.5)
    vocab_size: int = setting(8192, "Size of the byte-level BPE vocabulary.", unit="tokens", ge=300)
    context: int = setting(1024, "Longest sequence the model is trained on.", unit="tokens", ge=16)
    hidden_size: int = setting(512, "Width of the model.", ge=16)
    intermediate_size: int = setting(1024, "Width of the MLP.", ge=16)
    layers: int = setting(5, "Transformer layers.", ge=1)
    heads: int = setting(8, "Attention heads; hidden_size must be a multiple.", ge=1)
    kv_heads: int = setting(2, "Key/value heads (grouped-query attention); heads must be a multiple.", ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> PretrainConfig:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}, "
                f"and heads of kv_heads {self.kv_heads}"
            )
        return self
