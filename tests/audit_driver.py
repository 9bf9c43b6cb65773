"""Run as a program by tests/reliability/test_security.py: what the package does, as Python audits it.

    python audit_driver.py STORE PARTS     prints one line of JSON: phase → {"events": how many, kind: what was seen}

PARTS is a store of several parts. The last phases try on purpose, in the package's name, what each kind is there to
see; the hook notes it and lets none of it happen.
"""

import collections
import errno
import io
import json
import os
import pickle
import sys
import sysconfig
import tempfile
from contextlib import redirect_stdout, suppress
from pathlib import Path

import torch

STORE, PARTS = (str(Path(path).resolve()) for path in sys.argv[1:])
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
phase, forbidding = None, False


class Forbidden(BaseException):
    """Nothing catches it on its way."""


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


def _inside(path):
    return path in (STORE, PARTS) or path.startswith((STORE + os.sep, PARTS + os.sep))


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
        inside = _inside(path)
        if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & WRITING:
            return "written inside" if inside else "written"
        return None if inside or path.startswith((*CODE, *MACHINE)) else "read elsewhere"
    if event.startswith(NAMES):
        named = [os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes, os.PathLike))]
        return "written inside" if named and all(map(_inside, named)) else "written"
    return None


def hook(event, arguments):
    if phase is None:
        return
    seen[phase]["events"] = seen[phase].get("events", 0) + 1
    if kind := _kind(event, arguments):
        seen[phase][kind].append(f"{event} {arguments!r}"[:200])
        if forbidding:
            raise Forbidden


def unpickler(function):
    def called(*arguments, **options):
        if phase is not None:
            seen[phase]["unpickled"].append(f"{function.__module__}.{function.__qualname__}")
            if forbidding:
                raise Forbidden
        return function(*arguments, **options)

    return called


def planted():
    """(Kind, how what is seen of it begins, what is tried), as if the package did it."""
    yield "unpickled", "_pickle.load", "pickle.load(io.BytesIO(data))"
    yield "unpickled", "_pickle.loads", "pickle.loads(data)"
    yield "unpickled", "_pickle.Unpickler", "pickle.Unpickler(io.BytesIO(data))"
    yield "unpickled", "torch.serialization.load", "torch.load(place)"
    yield "unpickled", "pickle.find_class", "_pickle.loads(data)"
    yield "code", "compile", "eval('1 + 1')"
    yield "code", "exec", "exec(code)"
    yield "code", "marshal.loads", "marshal.loads(marshal.dumps(1))"
    yield "code", "code.__new__", "code.replace(co_name='other')"
    yield "process", "subprocess.Popen", "subprocess.run(['true'])"
    yield "process", "os.system", "os.system('true')"
    yield "process", "os.exec", "os.execv('/bin/true', ['true'])"
    yield "network", "socket.__new__", "socket.socket()"
    yield "network", "socket.getaddrinfo", "socket.getaddrinfo('localhost', 1)"
    yield "network", "urllib.Request", "urllib.request.urlopen('http://localhost:1')"
    yield "network", "http.client.connect", "http.client.HTTPConnection('localhost', 1).connect()"
    yield "network", "ftplib.connect", "ftplib.FTP().connect('localhost', 1)"
    yield "network", "smtplib.connect", "smtplib.SMTP(local_hostname='x').connect('localhost', 1)"
    yield "network", "imaplib.open", "imaplib.IMAP4('localhost', 1)"
    yield "network", "poplib.connect", "poplib.POP3('localhost', 1)"
    yield "network", "webbrowser.open", "webbrowser.open('x')"
    yield "library", "ctypes.dlopen", "ctypes.CDLL(None)"
    yield "read elsewhere", "open", "open(place)"
    yield "written", "open", "open(place, 'w')"
    yield "written", "open", "os.open(place, os.O_WRONLY)"
    yield "written inside", "open", "open(inside, 'w')"
    yield "written inside", "os.remove", "os.remove(inside)"
    yield "written inside", "os.rename", "os.rename(inside, inside)"
    yield "written", "os.rename", "os.rename(inside, place)"
    yield "written", "os.remove", "os.remove(place)"
    yield "written", "os.mkdir", "os.mkdir(place)"
    yield "written", "os.rmdir", "os.rmdir(place)"
    yield "written", "os.link", "os.link(inside, place)"
    yield "written", "os.symlink", "os.symlink(place, inside)"
    yield "written", "os.chmod", "os.chmod(place, 0o777)"
    yield "written", "os.truncate", "os.truncate(place, 0)"
    yield "written", "os.utime", "os.utime(place)"
    yield "written", "shutil.rmtree", "shutil.rmtree(place)"
    yield "written", "shutil.copyfile", "shutil.copyfile(inside, place)"
    yield "written", "tempfile.mkstemp", "tempfile.mkstemp()"
    yield "written", "tempfile.mkdtemp", "tempfile.mkdtemp()"
    if sys.platform == "linux":
        yield "process", "os.fork", "os.fork()"
        yield "process", "os.posix_spawn", "os.posix_spawn('/bin/true', ['true'], {})"
        yield "process", "pty.spawn", "pty.spawn('true')"
        yield "written", "os.chown", "os.chown(place, -1, -1)"
        yield "written", "os.setxattr", "os.setxattr(place, 'user.x', b'')"


# fmt: off
MODULES = ("_pickle", "ctypes", "ftplib", "http.client", "imaplib", "io", "marshal", "os", "pickle", "poplib", "shutil",
           "smtplib", "socket", "subprocess", "tempfile", "torch", "urllib.request", "webbrowser")
# fmt: on
ELSEWHERE = {"os.spawn", "os.startfile", "telnetlib."}  # of Windows, and of a module that Python 3.13 has no more


def plant():
    """One phase for each."""
    global phase, forbidding
    given = {"place": str(Path(tempfile.gettempdir(), f"spectral-sampler-{os.getpid()}")), "inside": f"{PARTS}/x"}
    given |= {"data": pickle.dumps(Path()), "code": compile("1", f"{PACKAGE}/planted.py", "eval")}
    for name in (*MODULES, *(["pty"] if sys.platform == "linux" else [])):
        given[name.partition(".")[0]] = __import__(name)
    tried = list(planted())
    for number, (kind, event, text) in enumerate(tried):
        function = type(plant)(compile(text, f"{PACKAGE}/planted.py", "eval"), given)
        phase, forbidding = f"planted {number}: {kind}: {event}", True
        with suppress(Forbidden):
            function()
        phase, forbidding = None, False
    for rule in (*PROCESS, *NETWORK, *NAMES):
        if sys.platform == "linux" and rule not in ELSEWHERE:
            assert any(event.startswith(rule) for _, event, _ in tried), f"nothing is planted for {rule}"


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
from spectral_sampler.store import ReferenceStore, manifest  # noqa: E402


def read(path, of):
    """Opens the store there, in each way, and samples from it."""
    global phase  # noqa: PLW0603
    phase = f"ReferenceStore.open{of}"
    for verify in (None, True, False):
        store = ReferenceStore.open(path, verify=verify)
    phase = f"sampling{of}"
    for selection in (spectral_sampler.GSTDS(), spectral_sampler.SALN(), spectral_sampler.Uniform()):
        sampler = spectral_sampler.SpectralBatchSampler(
            store, candidate_batch_size=64, keep_ratio=0.25, selection=selection
        )
        for _ in range(2):
            list(sampler)
        sampler.load_state_dict(json.loads(json.dumps(sampler.state_dict(batches_consumed=1))))
    phase = None


def cannot_map(*_):
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


read(STORE, "")
read(PARTS, " of parts")
for words in (
    ["inspect", STORE],
    ["verify", STORE],
    ["inspect", STORE, "--json"],
    ["simulate", STORE],
    ["inspect", STORE, "--suspects", "3"],
    ["inspect", PARTS],
    ["verify", PARTS],
):
    told = {STORE: "STORE", PARTS: "PARTS"}
    phase = "spectral-sampler " + " ".join(told.get(word, word) for word in words)
    with redirect_stdout(io.StringIO()):
        status = main(words)
    phase = None
    assert status == 0, words
manifest._mapped = cannot_map
read(STORE, " without a mapping")
read(PARTS, " of parts without a mapping")
plant()
sys.stdout.write(json.dumps(seen))
