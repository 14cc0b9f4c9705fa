"""Tries each export against the trained model: the two sides, and what they are tried with."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.api.held_out import held_out_examples
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig
from tunesmith.data import encode, prepare
from tunesmith.errors import DataError, ResourceError, SettingsError
from tunesmith.evaluate import EVALUATORS
from tunesmith.export import (
    MODELFILE,
    Answer,
    Case,
    Check,
    Evidence,
    LlamaCpp,
    LlamaServer,
    MlxModel,
    Original,
    Product,
    Trained,
    Verdict,
    Workshop,
    find_layout,
    import_mlx_lm,
    is_installed,
    make_cases,
    start_server,
    verify_file,
    verify_modelfile,
    verify_numbers,
)
from tunesmith.generate import Engine
from tunesmith.model import load_base
from tunesmith.runs import Run
from tunesmith.types import Encoded, Example, Finding, Message, Progress

OnStage = Callable[[str, Product, bool], None]
# Longer answers prove no more: a wrong weight shows in the first tokens.
_ANSWER_TOKENS = 128
_NUMBERS_OF = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def verify_all(
    found: Sequence[tuple[Product, Path, Verdict | None]],
    shop: Workshop,
    run: Run,
    config: RunConfig,
    *,
    on_progress: Progress,
    on_stage: OnStage,
) -> tuple[list[Verdict], list[Finding]]:
    """A verdict for each product, and what there was not to try them with.

    Args:
        found: products, their main files, and what was found out about them before.
        config: `export.prompts` of the run's own data are tried; with 0 nothing is. `export.server` has the file.
    """
    untried = [product for product, _, known in found if known is None]
    why = _why_not(untried, config)
    evidence, session = None, None
    findings: list[Finding] = []
    if any(product not in why for product in untried):
        session = open_session(str(run.path), {"model.dtype": "float32"})
        examples, held_out, findings = _examples(run, session.config, config.export.prompts)
        evidence = _evidence(session, shop.trained, examples, held_out)
        if not evidence.cases:
            why = dict.fromkeys(untried, "the model's context has no room for a prompt and an answer")
    verdicts: list[Verdict] = []
    with contextlib.ExitStack() as stack:
        original: Original | None = None
        for product, path, known in found:
            on_stage("tried", product, known is not None)
            if known is not None or product in why:
                verdicts.append(known or Verdict(reason=why[product]))
                continue
            assert session is not None
            assert evidence is not None
            if original is None:
                runner = _PythonRunner(stack.enter_context(session.engine()), session.config)
                original = Original(runner, evidence, on_progress)
            verdicts.append(_VERIFIERS[product.target](product, path, shop, original, on_progress))
    return verdicts, findings


def _why_not(products: Sequence[Product], config: RunConfig) -> dict[Product, str]:
    """Products that cannot be tried, and why."""
    if not config.export.prompts:
        return dict.fromkeys(products, "it was not asked for")
    missing = None if config.export.server else _missing_llama_cpp()
    why = {product: missing for product in products if missing and product.is_gguf}
    if not missing and not config.export.server and not is_installed():
        why |= {one: "a server of xllamacpp takes no adapter" for one in products if one.target == "gguf-lora"}
    if any(product.is_mlx for product in products) and (missing := _missing_mlx_lm()):
        why |= {product: missing for product in products if product.is_mlx}
    return why


def _missing_mlx_lm() -> str | None:
    try:
        import_mlx_lm()
    except ResourceError as error:
        return f"{error.message}; install it with {error.fix} and export again"
    return None


def _missing_llama_cpp() -> str | None:
    if is_installed() or importlib.util.find_spec("xllamacpp") is not None:
        return None
    return (
        'llama.cpp is not installed; pip install "tunesmith[xllamacpp]" (wheels) or "tunesmith[llamacpp]" (also makes '
        "K-quants), and export again"
    )


def _verify_gguf(product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress) -> Verdict:
    return _verify_model(product, path, shop, original, on_progress, tell=verify_file)


def _verify_ollama(product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress) -> Verdict:
    def tell(file: LlamaCpp | LlamaServer, evidence: Evidence) -> tuple[Check, ...]:
        return verify_modelfile(file, evidence, shop.frame, (path.parent / MODELFILE).read_text(encoding="utf-8"))

    return _verify_model(product, path, shop, original, on_progress, tell=tell)


def _open_file(path: Path, shop: Workshop, context: int) -> LlamaCpp | LlamaServer:
    if shop.server:
        return LlamaServer(shop.server, path)
    return LlamaCpp(path, context=context) if is_installed() else start_server(path, context=context)


def _verify_model(
    product: Product,
    path: Path,
    shop: Workshop,
    original: Original,
    on_progress: Progress,
    *,
    tell: Callable[[LlamaCpp | LlamaServer, Evidence], tuple[Check, ...]],
) -> Verdict:
    try:
        file = _open_file(path, shop, original.evidence.context)
    except ValueError as error:
        return Verdict((Check("loading", False, f"llama.cpp cannot load it: {error}"),))
    except ResourceError as error:  # of a server
        return Verdict(reason=f"{error.message}; {error.fix}, then export again")
    try:
        checks = tell(file, original.evidence)
        more, numbers = verify_numbers(file, original, file_type=str(product.file_type), on_progress=on_progress)
        numbers["tokens_per_second"] = file.tokens_per_second
    finally:
        file.close()
    return Verdict((*checks, *more), numbers)


def _verify_gguf_lora(
    product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress
) -> Verdict:
    if shop.server:
        return Verdict(reason="adapters are not tried through a llama-server; export again without --server")
    try:
        base = shop.float_base()  # with the template of the training
    except SettingsError as error:  # of its tokenizer, which the adapter has not
        why = "; ".join(error.problems) or error.message
        return Verdict(reason=f"the base, beside which it is tried, cannot be written as GGUF here: {why}")
    try:
        file = LlamaCpp(base, context=original.evidence.context, adapter=path)
    except (ValueError, RuntimeError) as error:
        return Verdict((Check("loading", False, f"llama.cpp cannot load it: {error}"),))
    try:
        checks = verify_file(file, original.evidence)
        more, numbers = verify_numbers(file, original, file_type="f32", on_progress=on_progress)
        numbers["tokens_per_second"] = file.tokens_per_second
    finally:
        file.close()
    return Verdict((*checks, *more), numbers)


def _verify_merged(product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress) -> Verdict:
    assert isinstance(original.runner, _PythonRunner)
    folder = _Folder(path, original.runner, shop.trained)
    file_type = _NUMBERS_OF[shop.trained.dtype]
    checks = verify_file(folder, original.evidence)
    more, numbers = verify_numbers(folder, original, file_type=file_type, on_progress=on_progress)
    return Verdict((*checks, *more), numbers)


def _verify_mlx(product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress) -> Verdict:
    file_type = product.file_type or _NUMBERS_OF[shop.trained.dtype]
    return _verify_with_mlx(path, None, file_type, shop, original, on_progress)


def _verify_mlx_lora(
    product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress
) -> Verdict:
    return _verify_with_mlx(shop.mlx_base(path), path, "f32", shop, original, on_progress)


def _verify_with_mlx(
    folder: Path, adapter: Path | None, file_type: str, shop: Workshop, original: Original, on_progress: Progress
) -> Verdict:
    try:
        file = MlxModel(folder, adapter=adapter)
    except ValueError as error:
        beside = "" if adapter is None else " beside its base; the whole model can be exported with --to mlx"
        return Verdict((Check("loading", False, f"mlx-lm cannot load it{beside}: {error}"),))
    wanted = find_layout(shop.trained.config).config(shop.trained.config)
    wrong = [
        f"{name} {file.setting(name)!r}, where the model has {value!r}"
        for name, value in wanted.items()
        if file.setting(name) != value
    ]
    if wrong:  # anything may come of that
        where = "its" if adapter is None else "the base's"
        instead = "" if adapter is None else "; the whole model, exported with --to mlx, says them"
        detail = f"mlx-lm takes from {where} config.json: {'; '.join(wrong)}{instead}"
        return Verdict((Check("configuration", False, detail),))
    settings = Check("configuration", True, f"mlx-lm reads {', '.join(wanted)} as they are")
    checks = (settings, *verify_file(file, original.evidence))
    more, numbers = verify_numbers(file, original, file_type=file_type, on_progress=on_progress)
    numbers["tokens_per_second"] = file.tokens_per_second
    return Verdict((*checks, *more), numbers)


def _verify_adapter(product: Product, path: Path, shop: Workshop, original: Original, on_progress: Progress) -> Verdict:
    files = [file for file in sorted(shop.trained.folder.iterdir()) if file.is_file()]
    wrong = [file.name for file in files if file.read_bytes() != (path / file.name).read_bytes()]
    detail = (
        f"{', '.join(wrong)} differ from the run's" if wrong else f"{len(files)} files are the run's, byte for byte"
    )
    return Verdict((Check("copy", not wrong, detail),))


_VERIFIERS: Mapping[str, Callable[[Product, Path, Workshop, Original, Progress], Verdict]] = {
    "merged": _verify_merged,
    "gguf": _verify_gguf,
    "ollama": _verify_ollama,
    "gguf-lora": _verify_gguf_lora,
    "mlx": _verify_mlx,
    "mlx-lora": _verify_mlx_lora,
    "adapter": _verify_adapter,
}


def _evidence(session: Session, trained: Trained, examples: Sequence[Example], held_out: Sequence[Example]) -> Evidence:
    config, tokenizer, template = session.config, session.loaded.tokenizer, session.template
    limit = min(config.generate.max_new_tokens, _ANSWER_TOKENS)
    # no longer than in training: logits of a whole context of a large vocabulary take gigabytes
    longest = min(session.context, config.data.max_length)
    cases = make_cases(
        [_conversation(example) for example in examples],
        template,
        tokenizer,
        longest=min(session.context - limit, longest),
    )
    rows: list[Encoded] = []
    if held_out:
        rows, _ = encode(held_out, template, tokenizer, max_length=longest, train_on=config.prompt.train_on)
    words = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    return Evidence(
        cases=cases,
        rows=tuple(rows) or tuple(_as_row(case) for case in cases),
        limit=limit,
        tokens=tuple(words.get(token_id) for token_id in range(trained.config.vocab_size)),
        stop_ids=template.stop_ids,
        score=lambda answer, expected: EVALUATORS["token_f1"]([answer], [expected]),
    )


def _examples(run: Run, config: RunConfig, count: int) -> tuple[list[Example], list[Example], list[Finding]]:
    """Rows to ask with, held-out ones first; the held-out ones; what is missing of them.

    Of a file that has changed there are none held out; any text will do to ask with. Of one that is gone there is none.
    """
    findings: list[Finding] = []
    try:
        prepared = prepare(config)
    except DataError as error:
        findings.append(_fewer(error, "without prompts of it"))
        return [], [], findings
    try:
        held_out = held_out_examples(run, config)
    except DataError as error:
        held_out = []
        if run.manifest["data"]["split"].get("test"):
            findings.append(_fewer(error, "without held-out rows"))
    return [*held_out, *prepared.validation, *prepared.train][:count], held_out[:count], findings


def _fewer(error: DataError, how: str) -> Finding:
    message = f"{error.message}: exports were tried {how}, which proves less"
    return Finding("warning", "fewer_prompts", message, fix="restore the file and export again")


def _conversation(example: Example) -> tuple[str, Sequence[Message], str | None]:
    label = f"row {example.row}" if example.sheet is None else f"{example.sheet} row {example.row}"
    if example.text is not None:
        return label, (Message("user", example.text),), None
    return label, example.prompt, example.answer


def _as_row(case: Case) -> Encoded:
    """A prompt to compare logits on where there is no held-out row; nothing of it counts as an answer."""
    return Encoded(np.array(case.ids, dtype=np.int64), np.zeros(len(case.ids), dtype=np.bool_))


class _PythonRunner:
    """A model in Python, as `tunesmith ask` runs it, but greedily."""

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self._engine = engine
        self._config = config

    def on(self, engine: Engine) -> _PythonRunner:
        """Another model run in the same way."""
        return _PythonRunner(engine, self._config)

    positions: int | None = None  # one pass answers for all

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], at: Sequence[int] | None = None) -> NDArray[np.float32]:
        inputs = torch.tensor([list(ids)], device=self._engine.device)
        found: NDArray[np.float32] = self._engine.model(input_ids=inputs).logits[0].float().cpu().numpy()
        return found if at is None else found[list(at)]

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        greedy = {"temperature": 0.0, "repetition_penalty": 1.0, "stop": [], "max_new_tokens": limit}
        completions = self._engine.generate_ids(
            prompts,
            self._config.generate.model_copy(update=greedy),
            batch_size=self._config.eval.batch_size,
            on_progress=on_progress,
        )
        return [Answer(one.token_ids, one.text, one.finish_reason == "stop") for one in completions]


class _Folder:
    """A merged folder as anybody would load it with transformers: its own tokenizer, template and stops."""

    def __init__(self, path: Path, original: _PythonRunner, trained: Trained) -> None:
        loaded = load_base(str(path), dtype="float32")
        self._tokenizer: Any = loaded.tokenizer
        model: Any = loaded.model
        self._stops = set(np.atleast_1d(model.generation_config.eos_token_id).tolist())
        runner = original.on(Engine(loaded.model, loaded.tokenizer, trained.template))
        self.logits, self.answers, self.positions = runner.logits, runner.answers, runner.positions
        words = {token_id: token for token, token_id in self._tokenizer.get_vocab().items()}
        self.tokens = [words.get(token_id, "") for token_id in range(model.config.vocab_size)]

    def ends(self, token_id: int) -> bool:
        return token_id in self._stops

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
