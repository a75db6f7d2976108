"""Builds the hot path: the modules named in COMPILED.  Everything else is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

COMPILED = (
    "fastgw/_clock.pyx",
    "fastgw/_shm.pyx",
    "fastgw/_node.pyx",
    "fastgw/_core.pyx",
    "fastgw/balancing/deadlines.py",
    "fastgw/balancing/models.py",
    "fastgw/balancing/retry.py",
    "fastgw/balancing/upstream.py",
    "fastgw/routing.py",
    "fastgw/llm/adapter.py",
    "fastgw/llm/body.py",
    "fastgw/llm/sse.py",
    "fastgw/llm/usage.py",
    "fastgw/wire/target.pyx",
    "fastgw/wire/head.pyx",
    "fastgw/wire/framing.pyx",
    "fastgw/wire/outlet.pyx",
    "fastgw/wire/events.py",
    "fastgw/wire/client_connection.py",
    "fastgw/wire/node_connection.py",
    "fastgw/wire/pool.py",
    "fastgw/wire/tls.py",
    "fastgw/proxy/answering.py",
    "fastgw/proxy/choosing.py",
    "fastgw/proxy/sending.py",
    "fastgw/proxy/exchange.py",
    "fastgw/proxy/exchanges.py",
    "fastgw/proxy/held_body.py",
    "fastgw/proxy/phases.py",
    "fastgw/proxy/plan.py",
    "fastgw/proxy/relay.py",
    "fastgw/metrics.py",
)
DEBUG = bool(os.environ.get("FASTGW_DEBUG"))  # every check on, lines traced for coverage
# What gcc is to watch at run time, such as "address,undefined": tests/memcheck
SANITIZERS = os.environ.get("FASTGW_SANITIZERS", "")
# The Makefile registers the package and its command first, then builds in place what has changed.
METADATA_ONLY = bool(os.environ.get("FASTGW_METADATA_ONLY"))

DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # hints belong to mypy; C types come from the .pxd
    "binding": True,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "nonecheck": DEBUG,
    "linetrace": DEBUG,
}

# -O1: what is watched is what the source says, not what an optimizer has proved away.
WATCHED = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                source.rsplit(".", 1)[0].replace("/", "."),
                [source],
                define_macros=[("CYTHON_TRACE", "1")] if DEBUG else [],
                extra_compile_args=WATCHED if SANITIZERS else ["-O0", "-g"] if DEBUG else ["-O3"],
                extra_link_args=[f"-fsanitize={SANITIZERS}"] if SANITIZERS else [],
            )
            for source in (() if METADATA_ONLY else COMPILED)
        ],
        compiler_directives=DIRECTIVES,
    ),
)
