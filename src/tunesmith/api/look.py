"""Looking before loading: at data, and at what a name stands for. Light: no weights, and `inspect` needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.api.arguments import check_config
from tunesmith.config import BUILTIN_PREFIX, RunConfig, find_builtin
from tunesmith.data import Prepared, check_path, encode, prepare
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.runs import Run
from tunesmith.types import Encoded, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.model import LayerGuide


@dataclass(frozen=True, slots=True)
class Preview:
    """One training row as the model will read it: its text in pieces, and whether each is trained on."""

    example: Example
    pieces: tuple[tuple[str, bool], ...]


def check_data_file(path: str) -> None:
    """Tell a wrong path without reading anything.

    Raises:
        DataError: there is nothing at `path`, or a folder.
    """
    check_path(Path(path))


def check_texts(config: RunConfig) -> None:
    """Tell that there is nothing to pre-train on, without reading anything.

    Raises:
        SettingsError: no texts are named.
    """
    if not config.pretrain.documents:
        raise SettingsError("there are no texts to train on", fix="tunesmith pretrain FILES, or set pretrain.documents")


def is_base(reference: str) -> bool:
    """Whether a name stands for a base and not for a run: builtin:nano, a model's folder, a hub id on this machine.

    A run's name comes before a hub id. Nothing is loaded and no network is asked.

    Raises:
        SettingsError: it is neither.
    """
    folder = Path(reference).expanduser()
    if reference.startswith(BUILTIN_PREFIX) or (folder / "config.json").is_file():
        return True
    if (folder / "adapter_config.json").is_file():
        return False
    try:
        Run.open(reference)
    except SettingsError as error:
        if folder.exists() or not is_cached(reference):
            raise SettingsError(
                error.message,
                cause=error.cause,
                fix=f"{error.fix}; or a model: its folder, builtin:nano, or a hub id that is on this machine",
            ) from error
        return True
    return False


def is_cached(hub_id: str) -> bool:
    """Whether a hub model is on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except HFValidationError:
        return False


def check_finished(run: Run) -> None:
    """
    Raises:
        ResourceError: the run has no finished model yet, or none any more.
    """
    if run.model_dir.is_dir():
        return
    status = run.status
    if status == "finished":  # to resume it would change nothing
        raise ResourceError(
            f"{run.name} has lost its model: there is no {run.model_dir}", fix="restore the folder, or train again"
        )
    raise ResourceError(
        f"{run.name} has no finished model",
        cause=f"its status is {status}",
        fix=f"finish it with: {run.resume_command}",
    )


def is_pretrained(run: Run) -> bool:
    """Whether it made a base, on texts instead of rows."""
    return run.manifest.get("kind") == "pretrain"


def inspect(config: RunConfig) -> Prepared:
    """Read, clean and split the data as training would, without a model.

    Raises:
        SettingsError, DataError: as `train`, of what is told without a model.
    """
    check_config(config)
    return prepare(config)


def preview(config: RunConfig, prepared: Prepared, examples: Sequence[Example]) -> list[Preview] | None:
    """Training rows rendered, shortened and tokenized as training will. Rows that do not fit are left out.

    Returns:
        None when the model is not on this machine: nothing is downloaded to look at data.

    Raises:
        ResourceError: the model's folder is not usable. SettingsError: the template cannot be trained on.
    """
    path = config.model.path
    if not path.startswith(BUILTIN_PREFIX) and not Path(path).expanduser().exists():
        return None
    from tunesmith.prompts import check_template

    tokenizer = _tokenizer(path)
    thinking = any("<think>" in example.answer for example in prepared.train)
    template = check_template(config.prompt.template, tokenizer, shape=prepared.report.shape, thinking=thinking)
    previews: list[Preview] = []
    for example in examples:
        rows, _ = encode(
            [example],
            template,
            tokenizer,
            max_length=config.data.max_length,
            truncation=config.data.truncation,
            train_on=config.prompt.train_on,
        )
        previews += [Preview(example, _pieces(row, tokenizer)) for row in rows]
    return previews


def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    if path.startswith(BUILTIN_PREFIX):
        # the class that AutoTokenizer finds for packaged models, without the seconds that importing torch takes
        from transformers import PreTrainedTokenizerFast

        packaged: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(find_builtin(path))
        return packaged
    from transformers import AutoTokenizer

    from tunesmith.model import find_source

    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_source(path).location, trust_remote_code=False)
    return found


def layers(config: RunConfig) -> LayerGuide:
    """What the modules of a model are, and what an adapter by these settings would train. No weights are loaded.

    Raises:
        ResourceError: there is no such model. SettingsError: the settings choose nothing of it.
    """
    from tunesmith.model import layer_guide, load_skeleton

    return layer_guide(load_skeleton(config.model.path, config.model.revision), config.method)


def _pieces(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[str, bool], ...]:
    pairs = zip(row.input_ids.tolist(), row.supervised.tolist(), strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1])
    return tuple((str(tokenizer.decode([token for token, _ in run])), supervised) for supervised, run in runs)
