"""One measurement in a process of its own: `python -m bench.worker '{"kind": "speed", ...}' MODEL_FOLDER OUTPUT`.

Memory is the peak of this process (getrusage). A process starts with the peak of the one that started it, so
`bench.train` imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.job import CONTENDERS, SIZES, Job

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "flash_attn", "liger_kernel")
# Square matrices, as large as a step's own products on this kind of device; the best of several repeats is the ceiling.
_CEILING_SIDE = {"cpu": 2048, "cuda": 8192}
_CEILING_SECONDS = 1.0


def main(arguments: list[str]) -> None:
    job, folder, output = Job(**json.loads(arguments[0])), Path(arguments[1]), Path(arguments[2])
    if job.kind == "machine":
        result = measure_machine()
    elif job.kind == "model":
        from bench.workload import save_model

        result = {"facts": save_model(job.size, folder)}
    else:
        result = measure_training(job, folder)
    output.write_text(json.dumps(result), encoding="utf-8")


def measure_training(job: Job, folder: Path) -> dict[str, Any]:
    """Train as the job says. Seconds, tokens and losses per step; bytes; and the work in the rows."""
    started = time.perf_counter()
    from bench.watch import Watch, peak_bytes
    from bench.workload import rows_of

    cuda = SIZES[job.size].device == "cuda"
    watch = Watch(synchronize=cuda)
    trainer = CONTENDERS[job.contender].trainer
    if trainer == "ours":
        from bench.ours import train_ours as train
    elif trainer == "script":
        from bench.peers import train_script as train
    else:
        from bench.peers import train_trl as train
    train(job, folder, watch)
    rows = rows_of(job)
    result = {
        "step_seconds": watch.step_seconds,
        "step_tokens": watch.step_tokens,
        "losses": watch.losses,
        "total_seconds": time.perf_counter() - started,
        "peak_bytes": peak_bytes(),
        "trainable": watch.trainable,
        "compute": watch.compute,
        "notes": watch.notes,
        "rows": len(rows),
        "tokens": sum(map(len, rows)),
        "targets": sum(row.target_tokens for row in rows),
        "squared_tokens": sum(len(row) ** 2 for row in rows),
    }
    if cuda:
        import torch

        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def measure_machine() -> dict[str, Any]:
    """What the machine is, and how fast it multiplies matrices, in floating-point operations per second."""
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in _PACKAGES if find_spec(name)},
        "flops_per_second": {
            device: {name: _product_rate(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
            for device in devices
        },
    }


def _product_rate(device: str, dtype: Any) -> float:
    """Best rate of n*n by n*n products, 2 n^3 operations each, repeated for _CEILING_SECONDS."""
    import torch

    side = _CEILING_SIDE[device]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    best, deadline = 0.0, time.perf_counter() + _CEILING_SECONDS
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.mm(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str:
    return metadata.version(name.replace("_", "-")).removesuffix("+cpu")


if __name__ == "__main__":
    main(sys.argv[1:])
