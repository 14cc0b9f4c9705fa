"""The Python API: the verbs behind the command line, and `ModelFinetuner` for scripts.

A name is imported when it is first used: looking at data needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api.contest import CaseResult, Compared, compare, evaluate_cases
    from tunesmith.api.curve import Curve, schedule_curve
    from tunesmith.api.evaluator import EvaluationMetric, EvaluationReport, MetricType, ModelEvaluator
    from tunesmith.api.exporter import Export, Exported, export
    from tunesmith.api.finetuner import FinetuningConfig, ModelFinetuner
    from tunesmith.api.leaks import Leak, LeakReport
    from tunesmith.api.look import Preview, check_data_file, check_texts, inspect, is_base, layers, preview
    from tunesmith.api.measuring import Comparison, evaluate
    from tunesmith.api.panel import Panel, Reply, open_panel
    from tunesmith.api.pipeline import Pipeline, Stage, Watch, to_ollama
    from tunesmith.api.pusher import Push, push
    from tunesmith.api.scheduler import AdvancedLRScheduler, create_mlx_compatible_scheduler
    from tunesmith.api.session import Session, open_session
    from tunesmith.api.verbs import pretrain, run_config, train
    from tunesmith.evaluate import SuiteComparison
    from tunesmith.generate import Choice, Completion
    from tunesmith.model import Layer, LayerGuide

__all__ = [
    "AdvancedLRScheduler",
    "CaseResult",
    "Choice",
    "Compared",
    "Comparison",
    "Completion",
    "Curve",
    "EvaluationMetric",
    "EvaluationReport",
    "Export",
    "Exported",
    "FinetuningConfig",
    "Layer",
    "LayerGuide",
    "Leak",
    "LeakReport",
    "MetricType",
    "ModelEvaluator",
    "ModelFinetuner",
    "Panel",
    "Pipeline",
    "Preview",
    "Push",
    "Reply",
    "Session",
    "Stage",
    "SuiteComparison",
    "Watch",
    "check_data_file",
    "check_texts",
    "compare",
    "create_mlx_compatible_scheduler",
    "evaluate",
    "evaluate_cases",
    "export",
    "inspect",
    "is_base",
    "layers",
    "open_panel",
    "open_session",
    "pretrain",
    "preview",
    "push",
    "run_config",
    "schedule_curve",
    "to_ollama",
    "train",
]


_HOME = {
    **dict.fromkeys(("CaseResult", "Compared", "compare", "evaluate_cases"), "contest"),
    **dict.fromkeys(("Curve", "schedule_curve"), "curve"),
    **dict.fromkeys(("EvaluationMetric", "EvaluationReport", "MetricType", "ModelEvaluator"), "evaluator"),
    **dict.fromkeys(("Export", "Exported", "export"), "exporter"),
    **dict.fromkeys(("FinetuningConfig", "ModelFinetuner"), "finetuner"),
    **dict.fromkeys(("Leak", "LeakReport"), "leaks"),
    **dict.fromkeys(("Preview", "check_data_file", "check_texts", "inspect", "is_base", "layers", "preview"), "look"),
    **dict.fromkeys(("Push", "push"), "pusher"),
    **dict.fromkeys(("Panel", "Reply", "open_panel"), "panel"),
    **dict.fromkeys(("Pipeline", "Stage", "Watch", "to_ollama"), "pipeline"),
    **dict.fromkeys(("AdvancedLRScheduler", "create_mlx_compatible_scheduler"), "scheduler"),
    **dict.fromkeys(("Session", "open_session"), "session"),
    **dict.fromkeys(("Comparison", "evaluate"), "measuring"),
    **dict.fromkeys(("pretrain", "run_config", "train"), "verbs"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    # what functions here answer with
    if name in ("Layer", "LayerGuide"):
        from tunesmith import model

        return getattr(model, name)
    if name in ("Choice", "Completion"):  # what Session.choose() and stream() answer with
        from tunesmith import generate

        return getattr(generate, name)
    if name == "SuiteComparison":
        from tunesmith import evaluate

        return evaluate.SuiteComparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
