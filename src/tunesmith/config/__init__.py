"""Settings: one schema, other people's names for it, and where every value came from."""

from tunesmith.config.aliases import ALIASES
from tunesmith.config.continual import ContinualConfig
from tunesmith.config.describe import commented_yaml, describe
from tunesmith.config.load import dump_config, load_config, recipe_paths
from tunesmith.config.methods import METHODS, Method, is_pattern, parse_layers
from tunesmith.config.phases import Phase, highest_rate
from tunesmith.config.schema import (
    DataConfig,
    EvalConfig,
    GenerateConfig,
    MethodConfig,
    ModelConfig,
    PretrainConfig,
    PromptConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
)

__all__ = [
    "ALIASES",
    "METHODS",
    "ContinualConfig",
    "DataConfig",
    "EvalConfig",
    "GenerateConfig",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "Phase",
    "PretrainConfig",
    "PromptConfig",
    "RunConfig",
    "SplitConfig",
    "TrainConfig",
    "commented_yaml",
    "describe",
    "dump_config",
    "highest_rate",
    "is_pattern",
    "load_config",
    "parse_layers",
    "recipe_paths",
]
