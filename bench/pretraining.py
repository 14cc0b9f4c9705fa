"""At which rate should a base read on? The built-in model, two open texts, measured in bits per byte before and after.

Usage: python -m bench.pretraining --data FOLDER [--texts ...] [--rows 16 4] [--rates ...] [--threads N]

A run reads its text once, as `tunesmith pretrain FILES --pretrain.base builtin:nano` does; only the rate and the rows a
step differ, and a tenth of the documents is held out. A finished run is a line in build/bench/pretraining.jsonl:
started again, the program goes on where it was stopped. Writes bench/pretraining.json and the table of
docs/pretraining.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.ledger import PACKAGE, WORK, Found, Ledger, code_digest
from bench.pretraining_report import REPORT
from tunesmith import api
from tunesmith.config import load_config

# text -> file of the open ones; of each so much is read, in documents of about so much where it is a single one
TEXTS: Mapping[str, str] = {"web pages": "llamafactory_c4_demo.jsonl", "Shakespeare": "tinyshakespeare.txt"}
TEXT_BYTES = 180_000
DOCUMENT_BYTES = 4_000
RATES = (2e-3, 5e-4, 2e-4, 1e-4)
ROWS = (16, 4)  # blocks of 1,024 tokens a step: the default, and a fourth of it
HOLDOUT = 0.1  # of so little text, the default of 0.01 would be a document or two


def documents(path: Path) -> list[str]:
    """The first `TEXT_BYTES` of a file: texts of its lines, or paragraphs put together to documents."""
    if path.suffix == ".jsonl":
        texts: Iterator[str] = (json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines())
    else:
        texts = _joined(path.read_text(encoding="utf-8").split("\n\n"))
    chosen, read = [], 0
    for text in texts:
        if read >= TEXT_BYTES:
            break
        chosen.append(text)
        read += len(text.encode())
    return chosen


def _joined(paragraphs: Sequence[str]) -> Iterator[str]:
    document = ""
    for paragraph in paragraphs:
        document += paragraph + "\n\n"
        if len(document.encode()) >= DOCUMENT_BYTES:
            yield document
            document = ""


def jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What `measure` is to measure, the default rows first."""
    for rows in options.rows:
        for rate in options.rates:
            for text in options.texts:
                yield {"text": text, "rows": rows, "rate": rate}


def measure(job: Mapping[str, Any], data: Path) -> Found:
    """Read a text once as the job says: bits per byte of its held-out documents before and after."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "texts.jsonl"
        lines = [json.dumps({"text": text}) for text in documents(data / TEXTS[job["text"]])]
        file.write_text("\n".join(lines), encoding="utf-8")
        batch = min(4, job["rows"])
        config = load_config(
            overrides={
                "pretrain.documents": [str(file)],
                "pretrain.base": "builtin:nano",
                "pretrain.holdout": HOLDOUT,
                "train.batch_size": batch,
                "train.gradient_accumulation_steps": job["rows"] // batch,
                "train.learning_rate": job["rate"],
                "output_dir": str(Path(folder) / "run"),
            }
        )
        result = api.pretrain(config)
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "held_out_bytes": result.held_out_bytes,
        "before": result.base_bits_per_byte,
        "after": result.bits_per_byte,
    }


def measured(job: dict[str, Any], data: Path, ledger: Ledger) -> dict[str, Any]:
    """The line of the results for a job, measured now or before."""
    found = ledger.find(job) or ledger.add(job, measure(job, data))
    change = f"{found['before']:.4f} -> {found['after']:.4f} bits per byte"
    print(f"{job['text']}, {job['rows']} rows a step, rate {job['rate']:g}: {change}", file=sys.stderr, flush=True)
    return {**job, **found}


def main(arguments: Sequence[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), choices=TEXTS)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="blocks of a step")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--threads", type=int, default=2, help="threads of a run (2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    code = code_digest(*PACKAGE, "bench/pretraining.py", "src/tunesmith/**/*.safetensors")
    ledger = Ledger(WORK / "pretraining.jsonl", code)
    runs = [measured(job, options.data, ledger) for job in jobs(options)]
    words = ["FOLDER" if word == str(options.data) else word for word in arguments]
    content = {
        "format": 1,
        "command": f"python -m bench.pretraining {shlex.join(words)}",
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "files": {text: TEXTS[text] for text in options.texts},
        "runs": runs,
    }
    REPORT.publish(content)


if __name__ == "__main__":
    main(sys.argv[1:])
