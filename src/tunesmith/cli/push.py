"""`tunesmith push`: a run or one of its exports to the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json

if TYPE_CHECKING:
    from tunesmith.api import Push


def push(
    run: Annotated[str, Parameter(help="A run, by name or folder (last: the newest).")],
    repo: Annotated[str, Parameter(help="Repository, OWNER/NAME.")],
    /,
    *,
    export: Annotated[
        str | None, Parameter(help="An export, by name (gguf-q8_0) or folder; without it, the run's own model.")
    ] = None,
    public: Annotated[bool, Parameter(help="For everybody; without it, private.")] = False,
    update: Annotated[bool, Parameter(help="Commit to a repository that is there already.")] = False,
    force: Annotated[bool, Parameter(help="Also an export that is not verified.")] = False,
    dry_run: Annotated[bool, Parameter(help="Show files, sizes and card, and ask nobody.")] = False,
    json: Json = False,
) -> None:
    """Upload a run's model, or one of its exports, to the Hugging Face Hub.

    The repository is private unless --public is given. Only the files of the model
    go there, with their card: no checkpoints, no data, no settings. A folder that
    holds anything else, or a secret, is refused, and so is an export that is not
    verified. Needs a token that may write: HF_TOKEN, or `hf auth login`.

        tunesmith push faq ada/press-faq --dry-run
        tunesmith push faq ada/press-faq
        tunesmith push faq ada/press-faq-gguf --export gguf-q8_0 --public
    """
    from tunesmith.cli.progress import watch_work
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import show_json

    check_reference(run)
    from tunesmith import api

    with watch_work() as on_progress:
        result = api.push(
            run,
            repo,
            export=export,
            public=public,
            update=update,
            force=force,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    if json:
        show_json(result.to_json())
    else:
        _show(result)


def _show(result: Push) -> None:
    from tunesmith.cli.terminal import facts, plain, show, size_text, table, tell

    who = "private" if result.private else "public"
    if result.url is not None:
        show(facts([(f"{who} repository", result.url), ("files", str(len(result.files)))], title="uploaded"))
        return
    files = table("file", "size", right=("size",))
    for one in result.files:
        files.add_row(one.name, size_text(one.size_bytes))
    total = size_text(sum(one.size_bytes for one in result.files))
    files.add_row("", total)
    show(f"would go to {result.repo} ({who}), from {result.folder}:", "", files, "", f"{'its card':-^40}", "")
    show(plain(result.card))
    tell("nothing was sent and nobody was asked")
