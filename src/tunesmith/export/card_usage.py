"""How to use the files of a model card, program by program: commands and snippets that run as they are.

A function of `CardFacts` alone, as the card is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from tunesmith.export.card_facts import CardFacts, file_name

TEMPLATE = "chat_template.jinja"  # beside an adapter for llama.cpp whose base has another


def usage(facts: CardFacts) -> str:
    """The section "How to use it"."""
    return _USAGE.get(facts.form, _with_python)(facts)


def _with_python(facts: CardFacts) -> str:
    ask = 'tunesmith ask . "Your question"' if facts.conversational else 'tunesmith ask . "Beginning of a text"'
    return (
        f"In the folder of this file:\n\n```bash\n{ask}\ntunesmith chat .\n```\n\n"
        f"Without Tunesmith, the template comes with the tokenizer:\n\n```python\n{_snippet(facts)}\n```"
    )


def _snippet(facts: CardFacts) -> str:
    loading, imports = _loading(facts)
    if facts.conversational:
        system = [f'    {{"role": "system", "content": {facts.system!r}}},'] if facts.system else []
        asking = [
            "messages = [",
            *system,
            '    {"role": "user", "content": "Your question"},',
            "]",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        asking = ['inputs = tokenizer("Beginning of a text", return_tensors="pt")']
    lines = [
        *imports,
        "",
        'folder = "."  # the folder of this file',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *loading,
        *asking,
        "output = model.generate(",
        "    **inputs, max_new_tokens=128, do_sample=False,",
        f"    eos_token_id={list(facts.stop_ids)}, pad_token_id=tokenizer.pad_token_id,",
        ")",
        'answer = output[0, inputs["input_ids"].shape[1]:]',
        "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
    ]
    return "\n".join(lines)


def _loading(facts: CardFacts) -> tuple[list[str], list[str]]:
    """Lines that load the model, and the imports they need."""
    transformers = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if not facts.is_adapter:
        return ["model = AutoModelForCausalLM.from_pretrained(folder)"], [transformers]
    apply = [
        "model = AutoModelForCausalLM.from_pretrained(base)",
        "model = PeftModel.from_pretrained(model, folder)",
    ]
    if facts.base_kind == "builtin":
        name = facts.base.removeprefix("builtin:")
        where = f'base = files("tunesmith") / "model" / "builtin" / {name!r}'
        imports = ["from importlib.resources import files", "", "from peft import PeftModel", transformers]
        return [where, *apply], imports
    if facts.base_kind == "local":
        where = "base = PeftConfig.from_pretrained(folder).base_model_name_or_path  # where the base model was"
        return [where, *apply], ["from peft import PeftConfig, PeftModel", transformers]
    if facts.base_revision and not facts.base_revision.startswith("sha256"):  # only the Hub's own revisions
        apply[0] = f"model = AutoModelForCausalLM.from_pretrained(base, revision={facts.base_revision!r})"
    return [f"base = {facts.base!r}", *apply], ["from peft import PeftModel", transformers]


def _with_llama_cpp(facts: CardFacts) -> str:
    return (
        f"In the folder of this file, with llama.cpp:\n\n```bash\nllama-server -m {_file(facts)} --jinja\n```\n\n"
        "LM Studio and other programs that are built on llama.cpp open the file itself."
    )


def _with_ollama(facts: CardFacts) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", facts.name.lower()).strip("._-") or "model"  # what Ollama takes for a name
    return f"In the folder of this file:\n\n```bash\nollama create {name}\nollama run {name}\n```"


def _with_llama_cpp_and_base(facts: CardFacts) -> str:
    command = f"llama-server -m base.gguf --lora {_file(facts)} --jinja"
    template = "The prompt template is the one in the base's file."
    if facts.own_tokenizer:
        command += f" --chat-template-file {TEMPLATE}"
        template = (
            "The prompts or stops of the base are others than this was trained with, so the template beside this file "
            "takes the place of the base's. Should an answer not end, send what that template writes after an answer "
            "as `stop`."
        )
    where = "In the folder of this file, with llama.cpp and a GGUF file of the base"
    return f"{where}:\n\n```bash\n{command}\n```\n\n{template}"


def _with_mlx(facts: CardFacts) -> str:
    snippet = [
        "from mlx_lm import generate, load",
        "",
        'model, tokenizer = load(".")  # the folder of this file',
        *_mlx_prompt(facts),
        "print(generate(model, tokenizer, prompt, max_tokens=128).strip())",
    ]
    return (
        f"In the folder of this file, with mlx-lm (`pip install mlx-lm`):\n\n```bash\n{_mlx_command('.', facts)}\n```"
        "\n\n```python\n" + "\n".join(snippet) + "\n```"
    )


def _with_mlx_and_base(facts: CardFacts) -> str:
    base = facts.base if facts.base_kind == "hub" else file_name(facts.base.removeprefix("builtin:"))
    text = "In the folder of this file, with mlx-lm (`pip install mlx-lm`)"
    if facts.base_kind == "builtin":
        where = "from importlib.resources import files; print(files('tunesmith') / 'model' / 'builtin' / "
        command = f'base=$(python -c "{where}{base!r})")\n' + _mlx_command('"$base"', facts, adapter=True)
        return f"{text} and Tunesmith, which has the base:\n\n```bash\n{command}\n```"
    if not facts.own_tokenizer:
        return f"{text}:\n\n```bash\n{_mlx_command(shlex.quote(base), facts, adapter=True)}\n```"
    files = "tokenizer* *.jinja generation_config.json"
    fetch = f"mlx_lm.convert --hf-path {shlex.quote(base)} --mlx-path base"
    command = f"{fetch}\ncp {files} base/\n{_mlx_command('base', facts, adapter=True)}"
    return (
        f"{text}. It takes prompts and stop tokens from the base, whose are others than this was trained with: so the "
        f"tokenizer files beside this one are copied over those of the base.\n\n```bash\n{command}\n```"
    )


def _mlx_command(model: str, facts: CardFacts, *, adapter: bool = False) -> str:
    system = f" --system-prompt {shlex.quote(facts.system)}" if facts.system and facts.conversational else ""
    beside = " --adapter-path ." if adapter else ""
    prompt = (
        '--prompt "Your question"' if facts.conversational else '--ignore-chat-template --prompt "Beginning of a text"'
    )
    return f"mlx_lm.generate --model {model}{beside}{system} {prompt}"


def _mlx_prompt(facts: CardFacts) -> list[str]:
    if not facts.conversational:
        return ['prompt = "Beginning of a text"']
    system = [f'    {{"role": "system", "content": {facts.system!r}}},'] if facts.system else []
    return [
        "messages = [",
        *system,
        '    {"role": "user", "content": "Your question"},',
        "]",
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)",
    ]


def _file(facts: CardFacts) -> str:
    return shlex.quote(facts.file or "")


_USAGE: Mapping[str, Callable[[CardFacts], str]] = {
    "gguf": _with_llama_cpp,
    "ollama": _with_ollama,
    "gguf-lora": _with_llama_cpp_and_base,
    "mlx": _with_mlx,
    "mlx-lora": _with_mlx_and_base,
}
