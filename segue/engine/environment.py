"""Where did a run happen, and what does it use? `environment.json` for later reference; peak memory for the log."""

import json
import os
import platform
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from segue.engine.distributed.layout import Layout
from segue.engine.state.checkpoint import write_text

try:
    import resource
except ModuleNotFoundError:  # Windows: memory use of a process is not measured there
    resource = None  # type: ignore[assignment]

ENVIRONMENT, DIFFERENCE = "environment.json", "git.diff"
# Peak FLOP/s of dense matrix products by GPU name (the first match counts): float16 and bfloat16 (accumulated in
# float32), tf32, float32. NVIDIA's figures; not every one was checked against a data sheet.
_PEAKS = {
    "H100 PCIe": (756e12, 378e12, 51e12),
    "H100 NVL": (835e12, 418e12, 60e12),
    "H100": (989e12, 494e12, 67e12),
    "H200": (989e12, 494e12, 67e12),
    "A100": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12),
    "L4": (121e12, 60e12, 30.3e12),
    "RTX 4090": (165e12, 82.6e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12, 35.6e12),
    "V100": (125e12, 15.7e12, 15.7e12),
    "T4": (65e12, 8.1e12, 8.1e12),
}
_PACKAGES = ("segue", "torch", "numpy", "tokenizers", "safetensors")


def write(run: Path, device: torch.device, layout: Layout) -> None:
    """Writes `environment.json` to a run directory, and `git.diff` if the working directory has uncommitted changes."""
    cuda = device.type == "cuda"
    found = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cuda": torch.version.cuda if cuda else None,
        "cores": os.cpu_count(),
        "ranks": layout.size,
        "layout": layout._asdict(),
        "git_commit": _git("rev-parse", "HEAD").decode().strip() or None,
    }
    write_text(run / ENVIRONMENT, json.dumps(found, indent=1) + "\n")
    difference = _git("diff", "HEAD", "--no-color", "--no-ext-diff")
    if difference:
        (run / DIFFERENCE).write_bytes(difference)  # bytes: the files may be in any encoding
    else:
        (run / DIFFERENCE).unlink(missing_ok=True)


@cache
def _versions() -> dict[str, str]:
    """Of packages, by name: the same as long as the process lasts, and torch's metadata are long."""
    return {name: metadata.version(name) for name in _PACKAGES}


def forget_peak_memory(device: torch.device) -> None:
    """Resets what `peak_memory_gb` measures, where the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_gb(device: torch.device) -> float | None:
    """Peak memory of this process so far, in 10^9 bytes: GPU memory for a CUDA device, else main memory.

    None where it cannot be measured.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    with suppress(OSError):
        # Linux. getrusage below would include the peak of a program that replaced itself by this one (exec).
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux kibibytes


def peak_operations(device: torch.device, precision: str, matmul: str) -> float | None:
    """Peak FLOP/s of the device in this number format; None if unknown."""
    if device.type != "cuda":
        return None
    words = f" {torch.cuda.get_device_name(device).replace('-', ' ')} "
    place = 0 if precision != "float32" else 1 if matmul == "tf32" else 2
    return next((peaks[place] for part, peaks in _PEAKS.items() if f" {part} " in words), None)


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
