"""Ways out of Tunesmith: the model card, other formats, and the proof that they are the trained model."""

from tunesmith.export.card import card_text, write_card
from tunesmith.export.card_facts import CardFacts, License, base_kind, read_license
from tunesmith.export.evidence import Case, Evidence, make_cases
from tunesmith.export.gguf import FILE_TYPES
from tunesmith.export.go_template import Frame, find_frame
from tunesmith.export.hub import CARD, Upload, check_repo, choose_files, push_files
from tunesmith.export.importance import Importance, measure_importance
from tunesmith.export.llama_server import LlamaServer, start_server
from tunesmith.export.llamacpp import LlamaCpp, is_installed
from tunesmith.export.mlx_layouts import LAYOUTS, find_layout
from tunesmith.export.mlx_runner import MlxModel, import_mlx_lm
from tunesmith.export.modelfile import Modelfile, is_writable
from tunesmith.export.ollama import Ollama
from tunesmith.export.refusals import make_modelfile
from tunesmith.export.runner import Answer
from tunesmith.export.targets import (
    MARK,
    MODELFILE,
    TARGETS,
    check_wishes,
    make,
    plan,
    refuse_early,
)
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
