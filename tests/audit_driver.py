"""Run as a program by tests/reliability/test_security.py: what the package does, as Python audits it.

    python audit_driver.py STORE     prints one line of JSON: phase → {"events": how many, kind: what was seen of it}

The last phases do on purpose, in the package's name, what each kind is there to see.
"""

import collections
import ctypes
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch

STORE = str(Path(sys.argv[1]).resolve())
PACKAGE = str(Path(__file__).resolve().parent.parent / "spectral_sampler")
SITE = str(Path(torch.__file__).parent.parent)
CODE = (PACKAGE, SITE, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())
MACHINE = ("/proc/", "/sys/", "/dev/null", "/etc/ld.so", "/lib", "/usr/lib", "/usr/share/zoneinfo")
PROCESS = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "pty.")
NETWORK = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "imaplib.", "poplib.", "telnetlib.")
# fmt: off
NAMES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown",
         "os.truncate", "os.utime", "os.setxattr", "shutil.", "tempfile.")
# fmt: on
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
seen = collections.defaultdict(lambda: collections.defaultdict(list))
phase = None


def _frames():
    frame = sys._getframe(2)
    while frame:
        yield frame.f_code.co_filename
        frame = frame.f_back


def _code():
    """Whether text or bytes are run by the package itself, or by anything else but an import."""
    files = [file for file in _frames() if file != __file__]
    importing = any(file.startswith("<frozen importlib") for file in files)
    return (files and files[0].startswith(PACKAGE)) or not importing


def _kind(event, arguments):
    if event == "pickle.find_class":
        return "unpickled"
    if event in ("exec", "compile", "marshal.loads", "code.__new__"):
        return "code" if _code() else None
    if event.startswith(PROCESS):
        return "process"
    if event.startswith(NETWORK):
        return "network"
    if event.startswith("ctypes."):
        return "library"
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int):
            return None
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - follows no link, and asks the system nothing
        inside = path == STORE or path.startswith(STORE + os.sep)
        if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & WRITING:
            return "written inside" if inside else "written"
        return None if inside or path.startswith((*CODE, *MACHINE)) else "read elsewhere"
    if event.startswith(NAMES):
        named = arguments and isinstance(arguments[0], (str, bytes))
        inside = named and os.fsdecode(arguments[0]).startswith(STORE + os.sep)
        return "written inside" if inside else "written"
    return None


def hook(event, arguments):
    if phase is None:
        return
    seen[phase]["events"] = seen[phase].get("events", 0) + 1
    if kind := _kind(event, arguments):
        seen[phase][kind].append(f"{event} {arguments!r}"[:200])


def unpickler(function):
    def called(*arguments, **options):
        if phase is not None:
            seen[phase]["unpickled"].append(function.__qualname__)
        return function(*arguments, **options)

    return called


def planted():
    """One fault of each kind, as if the package did it."""
    place = Path(tempfile.gettempdir(), f"spectral-sampler-{os.getpid()}")
    yield "unpickled", "pickle.loads(data)", {"pickle": pickle, "data": pickle.dumps(Path())}
    yield "code", "eval('1 + 1')", {}
    yield "process", "subprocess.run(['true'])", {"subprocess": subprocess}
    yield "network", "socket.socket().close()", {"socket": socket}
    yield "library", "ctypes.CDLL(None)", {"ctypes": ctypes}
    yield "written", "open(place, 'w').close()", {"place": place}
    yield "read elsewhere", "open(place).close()", {"place": place}
    yield "written", "os.remove(place)", {"os": os, "place": str(place)}


sys.dont_write_bytecode = True
for name in ("load", "loads", "Unpickler"):
    setattr(pickle, name, unpickler(getattr(pickle, name)))
torch.load = unpickler(torch.load)
sys.addaudithook(hook)

phase = "import spectral_sampler"
import spectral_sampler  # noqa: E402

for name in spectral_sampler.__all__:
    getattr(spectral_sampler, name)
phase = None
from spectral_sampler.cli import main  # noqa: E402
from spectral_sampler.store import ReferenceStore  # noqa: E402

phase = "ReferenceStore.open"
for verify in (None, True, False):
    store = ReferenceStore.open(STORE, verify=verify)
phase = "sampling"
for selection in (spectral_sampler.GSTDS(), spectral_sampler.SALN(), spectral_sampler.Uniform()):
    sampler = spectral_sampler.SpectralBatchSampler(
        store, candidate_batch_size=64, keep_ratio=0.25, selection=selection
    )
    for _ in range(2):
        list(sampler)
    sampler.load_state_dict(json.loads(json.dumps(sampler.state_dict(batches_consumed=1))))
for words in (
    ["inspect", STORE],
    ["verify", STORE],
    ["inspect", STORE, "--json"],
    ["simulate", STORE],
    ["inspect", STORE, "--suspects", "3"],
):
    phase = "spectral-sampler " + " ".join("STORE" if word == STORE else word for word in words)
    with redirect_stdout(io.StringIO()):
        status = main(words)
    phase = None
    assert status == 0, words
for kind, text, names in planted():
    run = compile(text, f"{PACKAGE}/planted.py", "eval")
    function = type(planted)(run, {**names, "__builtins__": __builtins__})
    phase = f"planted: {kind}"
    function()
    phase = None
sys.stdout.write(json.dumps(seen))
