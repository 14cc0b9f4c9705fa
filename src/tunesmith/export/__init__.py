"""Ways out of Tunesmith: the model card, other formats, and the proof that they are the trained model.

A name is imported when it is first used: pushing a folder to the Hub needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.export.card import card_text, write_card
    from tunesmith.export.card_facts import CardFacts, License, base_kind, read_license
    from tunesmith.export.evidence import Case, Evidence, make_cases
    from tunesmith.export.gguf import FILE_TYPES
    from tunesmith.export.go_template import Frame, find_frame
    from tunesmith.export.hub import Upload, check_repo, choose_files, push_files
    from tunesmith.export.importance import Importance, measure_importance
    from tunesmith.export.llama_server import LlamaServer, start_server
    from tunesmith.export.llamacpp import LlamaCpp, is_installed
    from tunesmith.export.mlx_layouts import LAYOUTS, find_layout
    from tunesmith.export.mlx_runner import MlxModel, import_mlx_lm
    from tunesmith.export.modelfile import Modelfile, is_writable
    from tunesmith.export.names import CARD, MARK, MODELFILE
    from tunesmith.export.ollama import Ollama
    from tunesmith.export.refusals import make_modelfile
    from tunesmith.export.runner import Answer
    from tunesmith.export.targets import TARGETS, check_wishes, make, plan, refuse_early
    from tunesmith.export.verify import (
        Check,
        Original,
        Verdict,
        read_verdict,
        verify_file,
        verify_modelfile,
        verify_numbers,
    )
    from tunesmith.export.workshop import Product, Trained, Workshop, open_workshop

__all__ = [
    "CARD",
    "FILE_TYPES",
    "LAYOUTS",
    "MARK",
    "MODELFILE",
    "TARGETS",
    "Answer",
    "CardFacts",
    "Case",
    "Check",
    "Evidence",
    "Frame",
    "Importance",
    "License",
    "LlamaCpp",
    "LlamaServer",
    "MlxModel",
    "Modelfile",
    "Ollama",
    "Original",
    "Product",
    "Trained",
    "Upload",
    "Verdict",
    "Workshop",
    "base_kind",
    "card_text",
    "check_repo",
    "check_wishes",
    "choose_files",
    "find_frame",
    "find_layout",
    "import_mlx_lm",
    "is_installed",
    "is_writable",
    "make",
    "make_cases",
    "make_modelfile",
    "measure_importance",
    "open_workshop",
    "plan",
    "push_files",
    "read_license",
    "read_verdict",
    "refuse_early",
    "start_server",
    "verify_file",
    "verify_modelfile",
    "verify_numbers",
    "write_card",
]

_HOME = {
    **dict.fromkeys(("card_text", "write_card"), "card"),
    **dict.fromkeys(("CardFacts", "License", "base_kind", "read_license"), "card_facts"),
    **dict.fromkeys(("Case", "Evidence", "make_cases"), "evidence"),
    "FILE_TYPES": "gguf",
    **dict.fromkeys(("Frame", "find_frame"), "go_template"),
    **dict.fromkeys(("Upload", "check_repo", "choose_files", "push_files"), "hub"),
    **dict.fromkeys(("Importance", "measure_importance"), "importance"),
    **dict.fromkeys(("LlamaServer", "start_server"), "llama_server"),
    **dict.fromkeys(("LlamaCpp", "is_installed"), "llamacpp"),
    **dict.fromkeys(("LAYOUTS", "find_layout"), "mlx_layouts"),
    **dict.fromkeys(("MlxModel", "import_mlx_lm"), "mlx_runner"),
    **dict.fromkeys(("Modelfile", "is_writable"), "modelfile"),
    **dict.fromkeys(("CARD", "MARK", "MODELFILE"), "names"),
    "Ollama": "ollama",
    "make_modelfile": "refusals",
    "Answer": "runner",
    **dict.fromkeys(("TARGETS", "check_wishes", "make", "plan", "refuse_early"), "targets"),
    **dict.fromkeys(
        ("Check", "Original", "Verdict", "read_verdict", "verify_file", "verify_modelfile", "verify_numbers"), "verify"
    ),
    **dict.fromkeys(("Product", "Trained", "Workshop", "open_workshop"), "workshop"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
