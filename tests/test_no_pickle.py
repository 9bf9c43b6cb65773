"""No data file is ever unpickled: a store or weights from a stranger must not run code, nor start or fetch any."""

from pathlib import Path

import pytest
from source_walk import dangerous

import spectral_sampler

ROOT = Path(spectral_sampler.__file__).parent
IMPORT = "an import by a name that is not written here"
# Names that the user wrote (plugins, module:function) or that are written elsewhere in the package; loaded libraries.
ALLOWED = {
    "cli/comparing.py": ["__import__"],
    "experiment/cell.py": [IMPORT],
    "experiment/own/imported.py": [IMPORT],
    "experiment/runner.py": [IMPORT, IMPORT, "subprocess.run"],  # git, to note the commit
    "extraction/references.py": [IMPORT],
    "kernels/cuda.py": ["ctypes"],
    "ops.py": [IMPORT],
    "optional.py": [IMPORT],
    "store/exchange.py": [IMPORT],
}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_dangerous_is_called(path):
    found = dangerous(path.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(ALLOWED.get(path.relative_to(ROOT).as_posix(), []))


PLANTED = [
    "import pickle",
    "from joblib import load",
    "import torch\ntorch.load(p)",
    "from torch import load\nload(p)",
    "import torch\ntorch.load(p, weights_only=False)",
    "np.load(p)",
    "np.load(p, allow_pickle=True)",
    "np.load(p, allow_pickle=flag)",
    "np.lib.format.read_array(f, allow_pickle=True)",
    "import pandas as pd\npd.read_pickle(p)",
    "eval(text)",
    "exec(text)",
    "compile(text, '', 'eval')",
    "__import__(name)",
    "import importlib\nimportlib.import_module(f'{name}')",
    "import os\nos.system('ls')",
    "from os import system\nsystem('ls')",
    "import os as o\no.popen('ls')",
    "import subprocess\nsubprocess.run(words)",
    "import subprocess as s\ns.Popen(words, shell=True)",
    "from subprocess import check_output\ncheck_output(words)",
    "run(words, shell=flag)",
    "import socket",
    "from urllib.request import urlopen",
    "import http.client",
    "import ctypes",
    "import tempfile\ntempfile.mktemp()",
    "open('/tmp/cache')",
    "Path('/var/tmp') / 'x'",
    "open(f'/tmp/{name}')",
    "torch.hub.load(a, b)",
]


@pytest.mark.parametrize("planted", PLANTED)
def test_the_check_sees_a_planted_fault(planted):
    assert dangerous(planted)


def test_the_check_lets_safe_calls_pass():
    assert dangerous("np.load(p, allow_pickle=False, mmap_mode='c')\ntorch.load(p, weights_only=True)") == []
    assert (
        dangerous('"""Not eval(x), nor /tmp."""\nre.compile(x)\nmodel.eval()\nimport_module("a")\nPath("/tmpfile")')
        == []
    )
    assert dangerous("import subprocess\ntry:\n    pass\nexcept subprocess.SubprocessError:\n    pass") == []
