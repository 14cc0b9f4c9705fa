"""The settings of pre-training."""

from __future__ import annotations

from tunesmith.config.section import Section, setting


class PretrainConfig(Section):
    """Pre-training (`tunesmith pretrain`): the texts, and the shape of a new model or the one to go on from."""

    documents: list[str] = setting([], "Text files or patterns: txt, or jsonl(.gz) with a text field.")
    qa: list[str] = setting([], "Question/answer files or patterns, in any format of train, rendered as chat.")
    qa_repeats: int = setting(1, "Times each question/answer pair is seen in an epoch.", ge=1)
    base: str | None = setting(None, "Model to go on from with its own vocabulary and shape; unset, a new one is made.")
    epochs_before: float = setting(0.0, "Epochs over these texts that base has had: their order goes on there.", ge=0)
    holdout: float = setting(0.01, "Share of documents never trained on, to measure bits per byte.", gt=0, lt=0.5)
    vocab_size: int = setting(8192, "Size of the byte-level BPE vocabulary.", unit="tokens", ge=300)
    context: int = setting(1024, "Longest sequence the model is trained on.", unit="tokens", ge=16)
    hidden_size: int = setting(512, "Width of the model.", ge=16)
    intermediate_size: int = setting(1024, "Width of the MLP.", ge=16)
    layers: int = setting(5, "Transformer layers.", ge=1)
    heads: int = setting(8, "Attention heads; hidden_size must be a multiple.", ge=1)
    kv_heads: int = setting(2, "Key/value heads (grouped-query attention); heads must be a multiple.", ge=1)

    def unread_beside_base(self) -> list[str]:
        """Settings that ask for a new model in one that goes on from `base`, and the other way round."""
        unread = ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads")
        names = ("epochs_before",) if self.base is None else unread
        return [f"pretrain.{name}" for name in names if getattr(self, name) != type(self).model_fields[name].default]

    def check_together(self) -> None:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}, "
                f"and heads of kv_heads {self.kv_heads}"
            )
