"""`tunesmith export`: a run in other formats, each tried against the trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.overrides import Json

if TYPE_CHECKING:
    from tunesmith.api import Export

_NUMBERS = {
    "divergence": ".1e",
    "perplexity": ".3f",
    "argmax_agreement": ".1%",
    "token_f1": ".3f",
    "ended": ".0%",
    "tokens_per_second": ",.0f",
}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Make:
    """What GGUF files and Modelfiles are made as. What is not given is the run's setting."""

    quantize: Annotated[
        str | None,
        Parameter(
            help="Types, with commas; of gguf and ollama (q8_0) f32, f16, bf16, q6_k, q5_k_m, q4_k_m, ...; of mlx (as "
            "the run computed) 8bit, 6bit, 4bit."
        ),
    ] = None
    imatrix: Annotated[
        bool, Parameter(help="Weigh columns of types below 8 bits by how much the training rows use them.")
    ] = False
    messages: Annotated[
        int | None, Parameter(help="With ollama: training rows to put before every conversation (0).")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Hand:
    """Where exports are tried and handed over."""

    verify: Annotated[
        int | None, Parameter(help="Prompts of the run's data to try each export with (200); 0 tries nothing.")
    ] = None
    server: Annotated[
        str | None, Parameter(help="Try the file that the llama-server at this address has loaded; make it if missing.")
    ] = None
    create: Annotated[
        str | None, Parameter(help="With ollama: have a running Ollama make a model of this name; it replaces one.")
    ] = None
    host: Annotated[
        str | None, Parameter(help="Address of that Ollama; without it OLLAMA_HOST, else http://127.0.0.1:11434.")
    ] = None


_MAKE, _HAND = Make(), Hand()


def export(
    run: Annotated[str, Parameter(help="A run, by name or folder (last: the newest).")],
    /,
    *,
    to: Annotated[
        str, Parameter(help="Any of merged, gguf, ollama, mlx, gguf-lora, mlx-lora, adapter; several with commas.")
    ],
    out: Annotated[str | None, Parameter(help="Folder of the exports; without it, exports/ of the run.")] = None,
    make: Make = _MAKE,
    hand: Hand = _HAND,
    json: Json = False,
) -> None:
    """Write a run in other formats, and prove that each is the trained model.

    Every export is tried against the model in Python: tokens of prompts, stop
    tokens, logits, answers. One that differs stays, is marked in its
    verification.json, and the exit code is 100. GGUF needs the extra gguf; trying
    it, and K-quants (q4_k_m, ...), need the extra llamacpp. Trying mlx, and fewer
    bits for it, need the extra mlx.

        tunesmith export faq --to gguf
        tunesmith export faq --to gguf,merged --quantize q8_0,q4_k_m --imatrix
        tunesmith export faq --to gguf-lora --out exports
        tunesmith export faq --to ollama --create faq
        tunesmith export faq --to mlx --quantize 4bit
    """
    from tunesmith.cli.progress import watch_work
    from tunesmith.cli.report import check_reference
    from tunesmith.cli.terminal import show_json, tell, tell_findings

    wishes: dict[str, Any] = {
        "quantize": None if make.quantize is None else _names(make.quantize),
        "imatrix": make.imatrix or None,
        "messages": make.messages,
        "prompts": hand.verify,
        "server": hand.server,
        "create": hand.create,
        "host": hand.host,
    }
    check_reference(run)
    tell(f"exporting {run} ...")
    from tunesmith import api

    with watch_work() as on_progress:
        result = api.export(
            run,
            to=_names(to),
            out=out,
            on_progress=on_progress,
            **{name: value for name, value in wishes.items() if value is not None},
        )
    if json:
        show_json(result.to_json())
    else:
        show_export(result)
    tell_findings(result.findings)
    require_sound(result)


def require_sound(result: Export) -> None:
    """Exit code 100 where an export is not the trained model.

    Raises:
        GateFailed: names the exports and their failed checks.
    """
    from tunesmith.errors import GateFailed

    if result.failed:
        names = ", ".join(one.product.name for one in result.failed)
        raise GateFailed(
            f"not the trained model: {names}",
            cause="; ".join(f"{check.name}: {check.detail}" for one in result.failed for check in one.verdict.faults),
            fix="do not use it; verification.json beside it has every check",
        )


def show_export(result: Export) -> None:
    """A table of what was made, and what to know of each."""
    from rich.text import Text

    from tunesmith.cli.terminal import facts, plain, show, size_text, table

    made = table(
        *("export", "size", "verdict", "divergence", "perplexity", "same token", "token F1", "ended", "tokens/s"),
        right=("size", "divergence", "perplexity", "same token", "token F1", "ended", "tokens/s"),
    )
    styles = {"verified": "green", "failed": "bold red", "unverified": "yellow"}
    for one in result.products:
        numbers = one.verdict.numbers
        status = Text(one.verdict.status, style=styles[one.verdict.status])
        cells = [format(numbers[name], style) if name in numbers else "" for name, style in _NUMBERS.items()]
        made.add_row(one.product.name, size_text(one.size_bytes), status, *cells)
    show("", made, "")
    tried = [one.verdict.numbers for one in result.products if "reference_ended" in one.verdict.numbers]
    if tried:
        show(_reference_text(tried[0]), "")
    if result.recommended is not None:
        show(f"recommended: {result.recommended}, {result.RULE}", "")
    for one in result.products:
        for check in one.verdict.faults:
            show(Text(f"{one.product.name}: {check.name}: {plain(check.detail)}", style="red"))
        if one.verdict.reason is not None:
            show(f"{one.product.name} is unverified: {plain(one.verdict.reason)}")
    report = [("size against quality", str(path)) for path in result.reports]
    show(facts([*((one.product.name, str(one.path)) for one in result.products), *report], title="files"))
    for name in result.created:
        show(f"Ollama has it: ollama run {name}")


def _reference_text(numbers: Mapping[str, float]) -> str:
    parts = [f"{numbers['prompts']:.0f} prompts"]
    if "reference_perplexity" in numbers:
        parts.append(f"perplexity {numbers['reference_perplexity']:.3f} on {numbers['rows']:.0f} held-out rows")
    if "reference_token_f1" in numbers:
        parts.append(f"token F1 {numbers['reference_token_f1']:.3f}")
    parts.append(f"{numbers['reference_ended']:.0%} of the answers ended by themselves")
    return f"the trained model in Python: {', '.join(parts)}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
