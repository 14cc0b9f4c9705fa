"""The settings of an export. Whether a run can be exported so is checked in export/targets.py."""

from __future__ import annotations

from pydantic import field_validator

from tunesmith.config.section import Section, setting


class ExportConfig(Section):
    """What exports are made as, tried with and sent to (docs/export.md)."""

    quantize: list[str] = setting(
        ["q8_0"],
        "Types of the files for gguf and ollama: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, ...; "
        "for mlx 8bit, 6bit, 4bit.",
    )
    imatrix: bool = setting(
        False, "Weigh the columns of types below 8 bits by how much the run's training rows use them (extra llamacpp)."
    )
    prompts: int = setting(
        200, "Prompts of the run's data to try each export with; 0 tries nothing.", unit="prompts", ge=0
    )
    messages: int = setting(
        0, "Training rows that a Modelfile puts before every conversation, as MESSAGE lines.", unit="rows", ge=0
    )
    server: str | None = setting(
        None, "Address of a llama-server that has the exported file loaded, to try it there instead of in this process."
    )
    create: str | None = setting(None, "Name of the model that a running Ollama makes of the export; unset, none.")
    host: str | None = setting(
        None, "Address of that Ollama; unset, OLLAMA_HOST, else http://127.0.0.1:11434.", min_length=1
    )

    @field_validator("quantize", mode="before")
    @classmethod
    def _as_names(cls, value: object) -> object:
        """Q4_K_M, "q4_k_m,q8_0" and lists of these, as other tools write them."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            return value
        return [name.strip().lower() for item in items for name in item.split(",") if name.strip()]
