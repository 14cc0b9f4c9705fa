"""Measure what the defaults of `train.epochs` and `method.name` rest on: settings against scores, on real files.

Usage: python -m bench.defaults --data FOLDER [--threads N]

FOLDER holds the open files named in FILES. Each cell of the grid is one `tunesmith train` and one `tunesmith eval` in a
process of their own. A finished cell is kept in bench/defaults.json and not run again, so a stopped program goes on
where it was; delete the file to measure anew (after new weights of the built-in model). The table between the markers
of docs/defaults.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.ledger import ROOT
from bench.pages import DOCS, filled

RESULTS = ROOT / "bench" / "defaults.json"
PAGE = DOCS / "defaults.md"

# name -> file, and the settings that keep a cell within minutes
FILES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sample FAQ": ("presscrafters_faq.xlsx", {}),
    "azure support": ("azure_support_workbook_derived.xlsx", {}),
    "banking77, 600 rows": ("banking77_train.csv", {"data.max_rows": "600"}),
    "sms spam, 400 rows": ("sms_spam_collection.tsv", {"data.max_rows": "400"}),
    "mental health FAQ": ("mental_health_faq.csv", {}),
}
# what every run had before the defaults followed the model
_BEFORE: Mapping[str, str] = {"train.schedule": "linear", "train.weight_decay": "0.01"}
# name -> settings on top of the defaults; none are what somebody gets who sets nothing
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "defaults": {},
    **{
        f"{method}, {passes} passes, linear, decay 0.01": {"method.name": method, "train.epochs": passes, **_BEFORE}
        for method, passes in (("lora", "5"), ("full", "5"), ("full", "10"), ("full", "18"), ("full", "30"))
    },
}
Cell = dict[str, Any]


def grid(files: list[str], settings: list[str]) -> Iterator[tuple[str, str]]:
    """Every cell; files first, so that a comparison is complete early."""
    for file in files:
        for setting in settings:
            yield file, setting


def measure(file: str, settings: str, data: Path, threads: int) -> Cell:
    """One run and its evaluation: passes, steps, seconds, and the scores of base and tuned on the test rows."""
    name, limits = FILES[file]
    path = ROOT / "examples" / name if (ROOT / "examples" / name).exists() else data / name
    chosen = {**limits, **SETTINGS[settings]}
    flags = [word for key, value in chosen.items() for word in (f"--{key}", value)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        trained = _tunesmith("train", str(path), "--output-dir", str(run), *flags, "--json", threads=threads)
        scores = _tunesmith("eval", str(run), "--json", threads=threads)
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    split = manifest["data"]["split"]
    return {
        "file": file,
        "settings": settings,
        "train_rows": split["train"],
        "test_rows": scores["rows"],
        "method": manifest["method"],
        "passes": round(manifest["epochs"], 2),
        "best_step": manifest["training"]["best_step"],
        "steps": trained["steps"],
        "tokens": manifest["training"]["tokens"],
        "seconds": round(trained["seconds"]),
        "validation_loss": round(trained["best_validation_loss"], 4),
        **{f"{who}_{name}": round(scores[who][name], 4) for who in ("base", "tuned") for name in scores[who]},
    }


def _tunesmith(*words: str, threads: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tunesmith", *words]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({done.returncode}):\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def table(cells: list[Cell]) -> str:
    """The results as Markdown, a group of lines per file."""
    lines = [
        "| file | settings | passes (best) | tokens | token F1 | exact match | perplexity |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for file in FILES:
        for settings in SETTINGS:
            for cell in cells:
                if (cell["file"], cell["settings"]) != (file, settings):
                    continue
                best = cell["passes"] * cell["best_step"] / cell["steps"]
                shown = [
                    f"{file} ({cell['train_rows']} rows)",
                    f"{settings} ({cell['method']})" if settings == "defaults" else settings,
                    f"{cell['passes']:g} ({best:.1f})",
                    f"{cell['tokens'] / 1000:.0f} k",
                    f"{cell['tuned_token_f1']:.3f}",
                    f"{cell['tuned_exact_match']:.3f}",
                    f"{cell['tuned_perplexity']:.2f}",
                ]
                lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def write_page(cells: list[Cell]) -> None:
    """Put the table between the markers of docs/defaults.md."""
    PAGE.write_text(filled(PAGE, table(cells)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a run")
    parser.add_argument("--files", nargs="*", default=list(FILES), choices=list(FILES))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    given = parser.parse_args()
    cells: list[Cell] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    for file, settings in grid(given.files, given.settings):
        if any((cell["file"], cell["settings"]) == (file, settings) for cell in cells):
            continue
        cell = measure(file, settings, given.data, given.threads)
        cells.append(cell)
        RESULTS.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
        print(f"{file} | {settings}: token F1 {cell['tuned_token_f1']:.3f} in {cell['seconds']} s", file=sys.stderr)
    if PAGE.exists():
        write_page(cells)


if __name__ == "__main__":
    main()
