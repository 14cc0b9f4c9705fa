"""What does each type of GGUF file lose, and does an importance matrix help?

Usage: python -m bench.export [--run FOLDER] [--prompts N]                      see docs/export.md

Exports a run of the built-in model on the sample (that of `make quickstart`; without --run it is trained first) as
every type of TYPES, those below 8 bits also weighed by the run's training rows, and tries each as `tunesmith export`
does. Writes bench/export.json and the table of docs/export.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.export_report import REPORT
from bench.ledger import ROOT, WORK
from tunesmith import api
from tunesmith.config import load_config

TYPES = ("f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
SMALL = ("q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
_KEPT = (
    *("rows", "positions", "prompts", "divergence", "perplexity", "reference_perplexity", "argmax_agreement"),
    *("token_f1", "reference_token_f1", "ended", "reference_ended"),
)


def trained() -> Path:
    """The quickstart run, trained or gone on with where there is none."""
    folder = WORK / "export" / "quickstart"
    if (folder / "manifest.json").exists():
        api.train(api.run_config(str(folder)), resume=str(folder))
    else:
        place = {"data.path": str(ROOT / "examples" / "presscrafters_faq.xlsx"), "output_dir": str(folder)}
        api.train(load_config(recipe="quickstart", overrides=place))
    return folder


def measure(run: Path, types: Sequence[str], *, imatrix: bool, prompts: int) -> list[dict[str, Any]]:
    """A row for each type: size, verdict and numbers. Files stay under build/bench/export/."""

    def tell(what: str, done: int, total: int) -> None:
        if done == total:
            print(what, file=sys.stderr, flush=True)

    made = api.export(
        str(run),
        to=["gguf"],
        out=WORK / "export" / run.name,
        quantize=types,
        imatrix=imatrix,
        prompts=prompts,
        on_progress=tell,
    )
    return [
        {
            "type": str(one.product.file_type),
            "imatrix": one.product.weighed,
            "bytes": one.size_bytes,
            "status": one.verdict.status,
            **{name: one.verdict.numbers[name] for name in _KEPT if name in one.verdict.numbers},
        }
        for one in made.products
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished quickstart run")
    parser.add_argument("--prompts", type=int, default=200, help="prompts of the run's data (200)")
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run = options.run or trained()
    rows = measure(run, TYPES, imatrix=False, prompts=options.prompts)
    rows += measure(run, SMALL, imatrix=True, prompts=options.prompts)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    content = {
        "format": 1,
        "command": "python -m bench.export" + (f" --prompts {options.prompts}" if options.prompts != 200 else ""),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "llama-cpp-python", "gguf")},
        "steps": manifest["training"]["step"],
        "split": manifest["data"]["split"],
        "files": rows,
    }
    REPORT.publish(content)


if __name__ == "__main__":
    main(sys.argv[1:])
