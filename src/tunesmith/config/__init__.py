"""Settings: one schema, other people's names for it, and where every value came from."""

from tunesmith.config.aliases import ALIASES, YES_OR_NO
from tunesmith.config.builtin import BUILTIN_PREFIX, find_builtin
from tunesmith.config.continual import ContinualConfig
from tunesmith.config.data import DataConfig, SplitConfig
from tunesmith.config.datasets import DataSet, task_names
from tunesmith.config.describe import commented_yaml, describe
from tunesmith.config.exporting import ExportConfig
from tunesmith.config.files import YamlLoader, unique_keys
from tunesmith.config.group_rates import rate_factor
from tunesmith.config.load import MAPPINGS, OF_OLDER_RUNS, check_config, dump_config, load_config, recipe_paths
from tunesmith.config.method_config import MethodConfig, quantize_of, unread_settings
from tunesmith.config.methods import METHODS, Method, is_pattern, parse_layers
from tunesmith.config.ollama import ollama_url
from tunesmith.config.phases import Phase, highest_rate
from tunesmith.config.pretraining import PretrainConfig
from tunesmith.config.recipes import Recipe, RecipeValue, list_recipes, read_recipe
from tunesmith.config.schema import (
    EvalConfig,
    GenerateConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "ALIASES",
    "BUILTIN_PREFIX",
    "MAPPINGS",
    "METHODS",
    "OF_OLDER_RUNS",
    "YES_OR_NO",
    "ContinualConfig",
    "DataConfig",
    "DataSet",
    "EvalConfig",
    "ExportConfig",
    "GenerateConfig",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "Phase",
    "PretrainConfig",
    "PromptConfig",
    "Recipe",
    "RecipeValue",
    "RunConfig",
    "SplitConfig",
    "TrainConfig",
    "YamlLoader",
    "check_config",
    "commented_yaml",
    "describe",
    "dump_config",
    "find_builtin",
    "highest_rate",
    "is_pattern",
    "list_recipes",
    "load_config",
    "ollama_url",
    "parse_layers",
    "quantize_of",
    "rate_factor",
    "read_recipe",
    "recipe_paths",
    "task_names",
    "unique_keys",
    "unread_settings",
]
