"""What tensors free stays with the process, for the next step."""

import json
import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import json, resource, numpy  # whose arrays are from malloc, as torch's tensors; torch takes seconds to import
from segue.engine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(10):
        tensors = [numpy.ones(500_000 + 50_000 * each, numpy.float32) for each in range(20)]  # 2 to 6 MB
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
faults()
print(json.dumps([before, faults()]))
"""


def faults(**environment: str) -> list[int]:
    """Pages that 10 steps were given, before and after."""
    command = [sys.executable, "-c", STEPS]
    process = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(process.stdout)
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    # As glibc begins; later its limits depend on what was freed before.
    before, after = faults(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")
    assert before > 10_000  # 80 MB a step are 20,000 pages of 4 KiB
    assert after < before / 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_the_users_malloc_setting_wins() -> None:
    before, after = faults(MALLOC_TRIM_THRESHOLD_="100000")
    assert after > before / 2 > 5_000
