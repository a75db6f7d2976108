"""What `fastgw run` does to its own process."""

import subprocess
import sys

from source_graph import ROOT

TELL = """
import ctypes, os, resource
from fastgw.cli import process
process._forbid_dumps()

def tell():
    print(ctypes.CDLL(None).prctl(3), *resource.getrlimit(resource.RLIMIT_CORE), flush=True)

tell()
if os.fork() == 0:
    tell()
    os._exit(0)
os.wait()
"""


def test_nobody_dumps_or_traces_the_process_or_what_it_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELL], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["0 0 0", "0 0 0"]
    assert done.stderr == ""
