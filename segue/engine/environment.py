"""Where did a run happen, and what does it use? Written down for whoever asks later; memory for the log."""

import json
import os
import platform
import resource
import socket
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch

from segue.engine.checkpoint import write_text
from segue.engine.layout import Layout

ENVIRONMENT, DIFFERENCE = "environment.json", "git.diff"
_PACKAGES = ("segue", "torch", "numpy", "tokenizers", "safetensors")


def write(run: Path, device: torch.device, layout: Layout) -> None:
    """`environment.json`, and `git.diff` where the working directory is a repository with changes, in a run."""
    cuda = device.type == "cuda"
    found = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cuda": torch.version.cuda if cuda else None,
        "cores": os.cpu_count(),
        "ranks": layout.size,
        "layout": layout._asdict(),
        "git_commit": _git("rev-parse", "HEAD"),
    }
    write_text(run / ENVIRONMENT, json.dumps(found, indent=1) + "\n")
    difference = _git("diff", "HEAD")
    if difference:
        write_text(run / DIFFERENCE, difference + "\n")
    else:
        (run / DIFFERENCE).unlink(missing_ok=True)


def peak_memory_gb(device: torch.device) -> float:
    """The most that this process has held so far, in 10^9 bytes: on a GPU of its memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux kibibytes


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
