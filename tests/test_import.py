"""``import spectral_sampler`` is light: nothing optional, no device, no thread, no socket, no process."""

import textwrap

from processes import python

HEAVY = ("triton", "cupy", "torchvision", "scipy", "sklearn", "matplotlib", "tqdm", "torchdata", "ray", "tokenizers")

PROBE = """
import sys, threading, torch
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.split(".")[0] in WATCHED else None)
WATCHED = set()
before = set(sys.modules)
threads = threading.active_count()
WATCHED = {"subprocess", "socket"}
import spectral_sampler
EXTRA
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new & set(HEAVY)), threading.active_count() - threads, torch.cuda.is_initialized(), sorted(set(events)))
"""


def probe(extra: str = "") -> str:
    code = f"HEAVY = {HEAVY!r}\n" + textwrap.dedent(PROBE).replace("EXTRA", extra)
    finished = python(code)  # where torch and NumPy are there already: what these two load themselves is theirs
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_import_is_light():
    assert probe() == "[] 0 False []"


def test_public_names_are_light_too():
    assert probe("from spectral_sampler import SpectralBatchSampler, ReferenceStore, GSTDS, curate") == "[] 0 False []"


def test_the_probe_sees_what_it_looks_for():
    seen = probe("import scipy, threading, subprocess; subprocess.run(['true'])\nthreading.Timer(5, int).start()")
    assert seen == "['scipy'] 1 False ['subprocess.Popen']"


def test_every_public_name_exists():
    import spectral_sampler

    for name in spectral_sampler.__all__:
        assert getattr(spectral_sampler, name) is not None
    assert set(dir(spectral_sampler)) >= set(spectral_sampler.__all__)
