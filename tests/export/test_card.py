"""The model card: metadata the Hub's own classes read back, nothing invented, and a Python example that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from tunesmith.export import CardFacts, License, base_kind, card_text, read_license, write_card

# PEFT 0.21 asks a model of transformers 5.23 by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FACTS = CardFacts(
    name="faq-2",
    base="org/small-model",
    base_kind="hub",
    base_revision="0123456789abcdef",
    method="lora",
    method_settings={"r": 16, "alpha": 32.0, "target_modules": "all"},
    steps=120,
    epochs=4.5,
    seed=42,
    learning_rate=2e-4,
    best_validation_loss=1.23456,
    data_files=(("faq.xlsx", "a" * 64), ("extra.csv", "b" * 64)),
    rows={"train": 80, "validation": 10, "test": 10},
    template="chat",
    stop_ids=(3, 1),
    base_metrics={"perplexity": 31.5, "token_f1": 0.125, "rougeL": 0.2},
    tuned_metrics={"perplexity": 3.25, "token_f1": 0.75, "rougeL": 0.61237},
    test_rows=10,
    license=License(("apache-2.0",)),
    language="de",
    hardware="2 CPU cores",
    training_seconds=61.6,
    version="0.1.0",
)


def metadata(facts):
    return ModelCard(card_text(facts)).data.to_dict()


def code(text, language):
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]


def test_the_hub_classes_read_back_every_field():
    found = metadata(FACTS)
    results = found.pop("model-index")
    assert found == {
        "base_model": "org/small-model",
        "base_model_relation": "adapter",
        "language": "de",
        "library_name": "peft",
        "license": "apache-2.0",
        "metrics": ["perplexity", "f1", "rouge"],
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", "lora"],
    }
    assert results == [
        {
            "name": "faq-2",
            "results": [
                {
                    "task": {"type": "text-generation", "name": "Text generation"},
                    "dataset": {"name": "held-out rows of faq.xlsx, extra.csv", "type": "private", "split": "test"},
                    "metrics": [
                        {"type": "perplexity", "value": 3.25, "name": "Perplexity (lower is better)"},
                        {"type": "f1", "value": 0.75, "name": "Token F1"},
                        {"type": "rouge", "value": 0.6124, "name": "ROUGE-L"},
                    ],
                }
            ],
        }
    ]


def test_round_trip_through_the_hub_classes_changes_no_byte():
    assert str(ModelCard(card_text(FACTS))) == card_text(FACTS)


def test_full_fine_tuning():
    found = metadata(replace(FACTS, method="full", method_settings={}))
    assert found["base_model_relation"] == "finetune"
    assert found["library_name"] == "transformers"
    assert found["tags"] == ["tunesmith", "full-fine-tuning"]


WHOLE = {"base_model_relation": "finetune", "license": "apache-2.0", "base_model": "org/small-model"}
BESIDE = {**WHOLE, "base_model_relation": "adapter"}


@pytest.mark.parametrize(
    ("form", "file_type", "expected", "tags", "said", "command"),
    [
        ("merged", None, {**WHOLE, "library_name": "transformers"}, [], "is added to the weights", "tunesmith ask ."),
        (
            "gguf",
            "q8_0",
            {**WHOLE, "library_name": None},
            ["gguf", "llama.cpp"],
            "`faq-2.gguf` holds weights, vocabulary and template. Numbers: `q8_0`.",
            "llama-server -m faq-2.gguf --jinja",
        ),
        (
            "ollama",
            "f16",
            {**WHOLE, "library_name": None},
            ["gguf", "llama.cpp", "ollama"],
            "`Modelfile` the prompt template",
            "ollama create faq-2\nollama run faq-2",
        ),
        (
            "gguf-lora",
            None,
            {**BESIDE, "library_name": None},
            ["gguf", "llama.cpp"],
            "is used beside a GGUF file of the base",
            "llama-server -m base.gguf --lora faq-2.gguf --jinja",
        ),
        (
            "mlx",
            "4bit",
            {**WHOLE, "library_name": "mlx"},
            ["mlx"],
            "Numbers: `4bit`.",
            "mlx_lm.generate --model . --system-prompt 'Be brief.' --prompt \"Your question\"",
        ),
        ("mlx", None, {**WHOLE, "library_name": "mlx"}, ["mlx"], "Numbers: those of the run.", "mlx_lm.generate"),
        (
            "mlx-lora",
            None,
            {**BESIDE, "library_name": "mlx"},
            ["mlx"],
            "used beside the base",
            "mlx_lm.generate --model org/small-model --adapter-path . --system-prompt",
        ),
    ],
)
def test_every_form_says_what_it_is(form, file_type, expected, tags, said, command):
    file = "faq-2.gguf" if form in ("gguf", "ollama", "gguf-lora") else None
    facts = replace(FACTS, form=form, file_type=file_type, file=file, system="Be brief.")
    text, found = card_text(facts), metadata(facts)
    assert {key: found.get(key) for key in expected} == expected
    assert found["tags"] == ["tunesmith", "lora", *tags]
    assert said in text
    assert command in code(text, "bash")
    # scores were measured on the trained model; a file with fewer bits is not it
    assert ("model-index" in found) is (file_type not in ("q8_0", "4bit"))
    assert "Measured with the trained model in Python; `verification.json`" in text
    assert f"| Data `faq.xlsx` | SHA-256 `{'a' * 64}` |" in text
    assert str(ModelCard(text)) == text


def test_where_a_base_speaks_otherwise_the_tokenizer_is_copied():
    facts = replace(FACTS, form="mlx-lora", own_tokenizer=True)
    commands = code(card_text(facts), "bash").splitlines()
    assert commands[0] == "mlx_lm.convert --hf-path org/small-model --mlx-path base"
    assert commands[1] == "cp tokenizer* *.jinja generation_config.json base/"
    assert commands[2].startswith("mlx_lm.generate --model base --adapter-path . ")
    beside = card_text(replace(facts, form="gguf-lora", file="faq-2.gguf"))
    assert "--lora faq-2.gguf --jinja --chat-template-file chat_template.jinja\n" in code(beside, "bash")
    assert "takes the place of the base's" in beside
    built_in = code(card_text(replace(facts, base="builtin:nano", base_kind="builtin", own_tokenizer=False)), "bash")
    where = re.search(r'\$\((python -c "(.*)")\)', built_in)[2]
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    assert os.path.isfile(os.path.join(found, "config.json"))


@pytest.mark.parametrize(
    ("base", "kind", "said"),
    [
        ("builtin:nano", "builtin", "built-in model `nano`"),
        ("/home/someone/secret/my-base/", "local", "`my-base`"),
        ("C:\\Users\\someone\\secret\\my-base", "local", "`my-base`"),
    ],
)
def test_a_base_that_is_not_on_the_hub_is_named_in_the_text_alone(base, kind, said):
    facts = replace(FACTS, base=base, base_kind=kind, base_revision=None)
    text = card_text(facts)
    assert "base_model" not in metadata(facts)
    assert "base_model_relation" not in metadata(facts)
    assert said in text
    assert "someone" not in text
    assert "secret" not in text


def test_nothing_is_invented():
    bare = replace(
        FACTS,
        base_metrics={},
        tuned_metrics={},
        license=None,
        language=None,
        base_revision=None,
        best_validation_loss=None,
        learning_rate=None,
        hardware=None,
        training_seconds=None,
    )
    assert set(metadata(bare)) == {"base_model", "base_model_relation", "library_name", "pipeline_tag", "tags"}
    text = card_text(bare)
    assert "Licence: unknown: check the base model" in text
    assert "Not measured." in text
    assert "None" not in text
    for label in ("Best validation loss", "Learning rate", "Hardware", "Training time", "Base revision"):
        assert label in card_text(FACTS)
        assert label not in text


def test_how_it_was_made():
    text = card_text(FACTS)
    for line in (
        "| Base model | [org/small-model](https://huggingface.co/org/small-model) |",
        "| Base revision | `0123456789abcdef` |",
        "| Method | LoRA (r 16, alpha 32.0, target_modules all) |",
        "| Steps | 120 (4.5 epochs) |",
        "| Seed | 42 |",
        "| Rows | 80 train, 10 validation, 10 test |",
        f"| Data `faq.xlsx` | SHA-256 `{'a' * 64}` |",
        f"| Data `extra.csv` | SHA-256 `{'b' * 64}` |",
        "| Best validation loss | 1.2346 nats per token |",
        "| Learning rate | 0.0002 |",
        "| Training time | 62 seconds |",
    ):
        assert line in text.splitlines()
    assert "| Best validation loss | 0.0000 nats per token |" in card_text(replace(FACTS, best_validation_loss=0.0))


def test_base_and_tuned_side_by_side():
    lines = card_text(FACTS).splitlines()
    assert "| Perplexity (lower is better) | 31.50 | 3.25 | -28.25 |" in lines
    assert "| Token F1 | 0.125 | 0.750 | +0.625 |" in lines
    assert "On 10 rows that were never trained on; shares run from 0 to 1, perplexity from 1 up." in lines
    assert "- 10 test rows are few: small differences may be chance." in lines
    assert "are few" not in card_text(replace(FACTS, test_rows=100))
    assert "| Token F1 |  | 0.750 |  |" in card_text(replace(FACTS, base_metrics={})).splitlines()


@pytest.mark.parametrize(("value", "shown", "change"), [(float("inf"), "inf", "+inf"), (None, "", "")])
def test_a_number_that_is_none_stays_out_of_the_metadata(value, shown, change):
    facts = replace(FACTS, tuned_metrics={"perplexity": value, "token_f1": 0.5})
    (result,) = metadata(facts)["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["f1"]
    assert metadata(facts)["metrics"] == ["f1"]
    assert f"| Perplexity (lower is better) | 31.50 | {shown} | {change} |" in card_text(facts).splitlines()


def test_the_same_facts_give_the_same_bytes(tmp_path):
    first = write_card(tmp_path / "one", FACTS).read_bytes()
    assert write_card(tmp_path / "two", replace(FACTS)).read_bytes() == first
    (tmp_path / "one" / "README.md").write_text("what PEFT left there")
    assert write_card(tmp_path / "one", FACTS).read_bytes() == first
    assert write_card(tmp_path / "one", replace(FACTS, seed=43)).read_bytes() != first
    assert first.decode() == card_text(FACTS)
    assert ModelCard.load(tmp_path / "two" / "README.md").data.license == "apache-2.0"


def test_hostile_names_break_neither_the_metadata_nor_the_tables():
    name = "a|b `c`\n---\nlicense: mit: {x}.xlsx"
    facts = replace(FACTS, data_files=((name, "c" * 64),), license=None, hardware="x | y")
    text = card_text(facts)
    found = metadata(facts)
    assert "license" not in found
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == f"held-out rows of {name}"
    (line,) = [line for line in text.splitlines() if line.startswith("| Data ")]
    assert line == f"| Data `` a\\|b `c` --- license: mit: {{x}}.xlsx `` | SHA-256 `{'c' * 64}` |"
    assert "| Hardware | x \\| y |" in text.splitlines()


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit", License(("mit",))),
        ("license: [mit, apache-2.0]", License(("mit", "apache-2.0"))),
        (
            "license: other\nlicense_name: house\nlicense_link: LICENSE",
            License(("other",), "house", "https://huggingface.co/org/base/blob/main/LICENSE"),
        ),
        (
            "license: other\nlicense_name: house\nlicense_link: https://example.org/l",
            License(("other",), "house", "https://example.org/l"),
        ),
        ("language: en", None),
        ("license: unknown", None),
        ("license:", None),
        ("license: {a: 1}", None),
        ("license: [", None),
        ("- a list", None),
    ],
)
def test_licence_of_the_base(tmp_path, front, expected):
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# Base\n")
    assert read_license(tmp_path, hub_id="org/base") == expected
    if expected and expected.identifiers == ("other",) and "LICENSE" in front:
        assert read_license(tmp_path).link is None  # a link into a folder that is not passed on leads nowhere
    if expected:
        found = metadata(replace(FACTS, license=expected))
        assert found["license"] in (expected.identifiers[0], list(expected.identifiers))
        assert found.get("license_name") == expected.name
        assert found.get("license_link") == expected.link


@pytest.mark.parametrize("content", [None, b"", b"# no metadata", b"---\nlicense: \xff\n---\n"])
def test_licence_of_a_base_that_declares_none(tmp_path, content):
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    assert read_license(tmp_path) is None
    assert read_license("org/not-here") is None


def test_base_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert base_kind("builtin:nano") == "builtin"
    assert base_kind("org/model-1.5_b") == base_kind("gpt2") == "hub"
    assert base_kind("models/mine") == base_kind("./models/mine") == base_kind(str(tmp_path)) == "local"
    assert base_kind("models/mine/gone") == base_kind("/gone/model") == base_kind("../gone") == "local"


# The Python example, run as a reader would run it.


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_model_dir):
    """A LoRA adapter with weights that matter, saved with its tokenizer beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, base = tmp_path_factory.mktemp("adapter"), tiny_model_dir("llama")
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def run_example(facts, folder):
    source = code(card_text(facts), "python")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def answer(model_folder, adapter_folder, prompt, *, stop_ids):
    """Greedy decoding written out: one forward pass over everything for each token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    if adapter_folder:
        model = PeftModel.from_pretrained(model, adapter_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        while len(ids) - start < 128:
            ids.append(int(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in stop_ids:
                break
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip(), ids[start:]


def test_the_example_answers_with_the_adapter_and_the_template(adapter, tiny_model_dir):
    base = tiny_model_dir("llama")
    prompt = (
        "<|im_start|>system\nBe 'brief'\nand \"kind\".<|im_end|>\n"
        "<|im_start|>user\nYour question<|im_end|>\n<|im_start|>assistant\n"
    )
    _, untouched = answer(base, adapter, prompt, stop_ids=())
    stop = untouched[20]  # a token this random model does write
    expected, _ = answer(base, adapter, prompt, stop_ids=(399, stop))
    without, _ = answer(base, None, prompt, stop_ids=(399, stop))
    assert expected
    assert expected != without
    facts = replace(
        FACTS,
        base=str(base),
        base_kind="local",
        base_revision=None,
        system="Be 'brief'\nand \"kind\".",
        stop_ids=(399, stop),
    )
    assert run_example(facts, adapter) == expected


@pytest.mark.slow
def test_the_example_of_a_fully_tuned_model(tiny_model_dir):
    folder = tiny_model_dir("qwen2")
    expected, _ = answer(folder, None, "Beginning of a text", stop_ids=(1,))
    assert expected
    assert run_example(replace(FACTS, method="full", conversational=False, stop_ids=(1,)), folder) == expected


@pytest.mark.slow
def test_the_example_with_a_base_from_the_hub(adapter, tiny_model_dir, tmp_path, monkeypatch):
    """A hub cache made by hand stands in for the download."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_model_dir("llama"), tmp_path / "models--org--small-model" / "snapshots" / revision)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    prompt = "<|im_start|>user\nYour question<|im_end|>\n<|im_start|>assistant\n"
    expected, _ = answer(tiny_model_dir("llama"), adapter, prompt, stop_ids=FACTS.stop_ids)
    assert expected
    assert run_example(replace(FACTS, base_revision=revision), adapter) == expected


def test_the_example_with_the_built_in_model_points_into_the_package():
    source = code(card_text(replace(FACTS, base="builtin:nano", base_kind="builtin", base_revision=None)), "python")
    where = next(line for line in source.splitlines() if line.startswith("base ="))
    space: dict[str, object] = {}
    exec(f"from importlib.resources import files\n{where}", space)
    import tunesmith

    assert str(space["base"]) == os.path.join(os.path.dirname(tunesmith.__file__), "model", "builtin", "nano")
    compile(source, "card", "exec")


def test_the_example_asks_the_hub_for_its_own_revisions_alone():
    assert "base, revision='0123456789abcdef')" in code(card_text(FACTS), "python")
    for revision in (None, "sha256:0123"):
        assert "revision" not in code(card_text(replace(FACTS, base_revision=revision)), "python")


def test_the_commands_for_tunesmith_itself():
    assert code(card_text(FACTS), "bash") == 'tunesmith ask . "Your question"\ntunesmith chat .\n'


@pytest.mark.parametrize(
    ("name", "for_ollama"),
    [("faq-2", "faq-2"), ("Häufige Fragen", "h-ufige-fragen"), ("_v1.2", "v1.2"), ("質問", "model")],
    ids=["plain", "umlaut", "dots", "no-latin"],
)
def test_the_name_for_ollama_is_one_that_it_takes(name: str, for_ollama: str) -> None:
    commands = code(card_text(replace(FACTS, name=name, form="ollama", file="x.gguf", file_type="q8_0")), "bash")
    assert commands == f"ollama create {for_ollama}\nollama run {for_ollama}\n"
