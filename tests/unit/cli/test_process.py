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


# A process of the same user that is no administrator looks at another, before and after.
LOOK = """
import ctypes, os
from fastgw.cli import process
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a change of the user has taken it away
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(to_child[1])
    os.read(to_child[0], 1)
    process._forbid_dumps()
    os.write(to_parent[1], b".")
    os.read(to_child[0], 1)
    os._exit(0)

def look():
    seen = []
    for name in ("environ", "maps", "mem", "stat", "statm", "cmdline", "status", "limits"):
        try:
            os.close(os.open(f"/proc/{child}/{name}", os.O_RDONLY))
            seen.append(name)
        except PermissionError:
            pass
    try:
        os.listdir(f"/proc/{child}/fd")
        seen.append("fd")
    except PermissionError:
        pass
    print(*seen, flush=True)

look()
os.write(to_child[1], b".")
os.read(to_parent[0], 1)
look()
os.close(to_child[1])
os.wait()
"""


def test_others_of_the_same_user_see_what_it_uses_and_not_what_it_knows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    open_to_all = {"stat", "statm", "cmdline", "status", "limits"}
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert after == open_to_all
    assert before > open_to_all | {"environ", "fd"}


def test_nobody_dumps_or_traces_the_process_or_what_it_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELL], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["0 0 0", "0 0 0"]
    assert done.stderr == ""
