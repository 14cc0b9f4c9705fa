"""Rows that training never saw, and a model measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tunesmith.api.look import is_pretrained
from tunesmith.config import RunConfig, load_config
from tunesmith.data import Prepared, encode, prepare, prepare_rows, spread_over_tasks
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import AnswerLog, Measured
from tunesmith.evaluate import ask as ask_model
from tunesmith.runs import Run
from tunesmith.types import Encoded, Example, Progress

if TYPE_CHECKING:
    from tunesmith.api.session import Session

_READING = ("shape", "format", "sheet", "delimiter", "encoding")
# Of the section data, what says which rows are read and on which side they are.
_DIVIDING = (
    *("sets", "validation_path", "format", "sheet", "delimiter", "encoding", "shape", "columns"),
    *("split", "drop_duplicates", "max_rows"),
)


def held_out_examples(run: Run, config: RunConfig) -> list[Example]:
    """The rows of a run that no training step has seen, at most `eval.max_rows` of them.

    Raises:
        DataError: the file changed since training (its test rows might have been trained on), or none are left.
        SettingsError: the run was pre-trained, on texts instead of rows; or its rows are to be divided otherwise now.
    """
    check_tuned(run)
    prepared = prepare(_as_trained(run, config))
    trained_on = run.manifest["data"]["sha256"]
    if prepared.report.sha256 != trained_on and config.data.test_path is None:
        raise DataError(
            f"{' or '.join(config.data.files)} has changed since {run.name} was trained",
            cause=f"its SHA-256 was {trained_on[:12]}, is {prepared.report.sha256[:12]}: rows trained on could be "
            "among the test rows",
            fix="restore the file, or give other rows: --data FILE",
        )
    rows = spread_over_tasks(prepared.test, config.eval.max_rows)
    if not rows:
        raise DataError(
            f"{run.name} has no test rows",
            cause="all rows were trained on: there were too few to keep some, or data.split.test was 0",
            fix="give other rows with --data FILE, or train with more rows",
        )
    return rows


def _as_trained(run: Run, config: RunConfig) -> RunConfig:
    """The settings, with the seed that divided the rows: one that is given now is of the answers.

    Raises:
        SettingsError: others are given of those that divide the rows, which would put rows of the training on the test
            side.
    """
    stored = load_config(stored=run.config_path)
    changed = [f"data.{name}" for name in _DIVIDING if getattr(config.data, name) != getattr(stored.data, name)]
    if changed:
        raise SettingsError(
            f"the test rows of {run.name} are those that its training left out: {', '.join(changed)} cannot change now",
            fix="leave it out, or give other rows with --data FILE",
        )
    return config.replaced("seed", stored.seed, stored.origin("seed"))


def check_tuned(run: Run) -> None:
    """
    Raises:
        SettingsError: the run was pre-trained, on texts instead of rows.
    """
    if is_pretrained(run):
        raise SettingsError(
            f"{run.name} was pre-trained on texts and has no test rows; its bits per byte are in its manifest.json",
            fix=f"compare it on texts or rows of a file: tunesmith compare BASE {run.model_dir} --data FILE",
        )


def rows_of_file(run: Run, config: RunConfig, path: str) -> Prepared:
    """A file of the user, read as the run read its own: on the test side, at most `eval.max_rows` rows.

    What `config` has of `data` and the run has not is about this file: `--data.sheet` beside `--data FILE`.

    Raises:
        DataError: the file cannot be used, or no row of it can be measured on.
    """
    trained = run.manifest["data"]
    is_one = len(config.data.files) == 1  # of several files each has columns of its own
    shape = trained["shape"] if is_one or trained.get("labels") else "auto"
    given = reading_settings(config, load_config(stored=run.config_path))
    columns = trained["columns"] if is_one and "shape" not in given else {}
    found = prepare_rows(config, path, shape=shape, columns=columns, given=given)
    return replace(found, test=found.test[: config.eval.max_rows])


def reading_settings(config: RunConfig, before: RunConfig) -> dict[str, object]:
    """The settings by which a file is read that are others than before; of the columns, those."""
    new, old = config.data, before.data
    given = {name: getattr(new, name) for name in _READING if getattr(new, name) != getattr(old, name)}
    columns = {part: name for part, name in new.columns.items() if old.columns.get(part) != name}
    return {**given, **({"columns": columns} if columns else {})}


def ask_session(
    session: Session,
    examples: Sequence[Example],
    *,
    base: bool,
    on_progress: Progress,
    log: AnswerLog | None = None,
) -> Measured:
    """Likelihood and answers of the tuned model, or of its base, by the settings of the session.

    log: of this model with these settings; what is in it is not computed again.
    """
    who = "the base model" if base else "the tuned model"
    encoded = encoded_for(session, examples)
    context = session.context  # of the base too, of which a soft prompt would take no part
    with session.engine(base=base) as engine:
        return ask_model(
            engine,
            examples,
            encoded,
            config=session.config,
            log=log,
            on_progress=lambda done, total: on_progress(who, done, total),
            labels=session.labels,
            context_tokens=context,
        )


def encoded_for(session: Session, examples: Sequence[Example]) -> list[Encoded]:
    """Token ids of rows to be measured, as long as the model takes them; `row` is the place among the examples."""
    encoded, _ = encode(
        [replace(example, row=place) for place, example in enumerate(examples)],
        session.template,
        session.loaded.tokenizer,
        max_length=session.context,
        train_on=session.config.prompt.train_on,
    )
    return encoded
