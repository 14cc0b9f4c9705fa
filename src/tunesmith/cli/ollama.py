"""`tunesmith ollama`: from a file of settings to a model that Ollama runs, stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tunesmith.cli.overrides import Json, Overrides

if TYPE_CHECKING:
    from tunesmith.api import Stage


def ollama(
    config: Annotated[str, Parameter(help="Settings, YAML or JSON: data.path at least; other tools' names too.")],
    /,
    *,
    json: Json = False,
    overrides: Overrides,
) -> None:
    """From data to a verified model in Ollama, with one file of settings.

    Stages: data, train, eval, merge, gguf, quantise, verify, create. Each says
    what it does; the same command again goes on where it was stopped or killed.
    Types and what Ollama is told are the settings export.*; without
    export.create no Ollama is needed. Any setting is a flag.

        tunesmith ollama faq.json
        tunesmith ollama faq.json --export.quantize q4_k_m --export.create faq
        tunesmith ollama faq.yaml --export.messages 3
    """
    from tunesmith.cli.export import require_sound, show_export
    from tunesmith.cli.progress import watch_evaluation, watch_training, watch_work
    from tunesmith.cli.report import announce
    from tunesmith.cli.terminal import show_json, tell, tell_findings

    tell(f"reading {config} ...")
    from tunesmith import api

    with watch_training() as watch, watch_evaluation() as on_answers, watch_work() as on_work:

        def tell_stage(stage: Stage) -> None:
            on_answers.stop()
            on_work.stop()
            tell(f"{stage.name}: {stage.what}" + (" (done before)" if stage.is_done else ""))

        result = api.to_ollama(
            config,
            overrides={**overrides},
            watch=api.Watch(tell_stage, announce, [watch], on_answers, on_work),
        )
    if json:
        show_json(result.to_json())
    else:
        show_export(result.export)
    tell_findings(result.export.findings)
    require_sound(result.export)
