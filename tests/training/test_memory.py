import platform
import subprocess
import sys

import pytest

# Memory pages that the system hands out while three tensors of 12 MB come and go ten times.
PROGRAM = """
import resource, sys, torch
from ddetr_edu.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    tensors = [torch.ones(3 * 2**20) for _ in range(3)]

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    def pages(how: str) -> int:
        run = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    assert 10 * pages("kept") < pages("not kept")
