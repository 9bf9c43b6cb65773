"""Processes of a test's own that need not import torch again, which takes longer than what most of them do.

Both kinds are forked from a process that has imported what takes long and done nothing since. `python` runs a program
as ``python -c`` would, but for torch and NumPy, which are there already; `context` starts processes of multiprocessing
as fresh as spawned ones, and has imported what a training needs as well.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent

_SERVER = """
import json, os, sys, traceback
import numpy, torch

def run(code, arguments, environment, path, folder):
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:], sys.path[:], status = arguments, path, 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    child = os.fork()
    if not child:
        run(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SERVER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What ``python -c code arguments`` would have said; ``environment`` is all of it, and None is this process's."""
    process = _server()
    path = [str(TESTS), str(TESTS.parent), *filter(None, sys.path)]
    with tempfile.TemporaryDirectory() as folder:
        request = [code, arguments, dict(os.environ) if environment is None else environment, path, folder]
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
        except BaseException:  # pytest-timeout's: the next program is not to have this one's answer
            process.kill()
            process.wait()
            _server.cache_clear()
            raise
        out, err = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(["python", "-c", code, *arguments], status, out, err)


_NEEDED = ["torch._dynamo", "torch.distributed", "scipy.stats", "sklearn.datasets", "sklearn.linear_model", "tqdm",
           "spectral_sampler.experiment.runner"]  # fmt: skip


@functools.cache
def context() -> multiprocessing.context.BaseContext:
    """Of "forkserver", and of "spawn" where that is not to be had."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(_NEEDED)
    return made


@contextlib.contextmanager
def quick_comparisons() -> Iterator[None]:
    """The trainings of a comparison run in processes of `context`: spawned ones import for longer than they train."""
    quick = SimpleNamespace(get_context=lambda _: context())
    with mock.patch("spectral_sampler.experiment.runner.multiprocessing", quick):
        yield
