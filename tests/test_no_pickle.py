"""No data file is ever unpickled: a reference store or weights from a stranger must not run code."""

import ast
from pathlib import Path

import pytest

import spectral_sampler

ROOT = Path(spectral_sampler.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load")
            if name in {"np.load", "numpy.load"} and keywords.get("allow_pickle") != "False":
                found.append("np.load without allow_pickle=False")
            if keywords.get("allow_pickle") == "True":
                found.append("allow_pickle=True")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    assert unpickling(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "np.lib.format.read_array(f, allow_pickle=True)",
    ],
)
def test_the_check_sees_a_planted_fault(planted):
    assert unpickling(planted)


def test_the_check_lets_safe_calls_pass():
    assert unpickling("np.load(p, allow_pickle=False, mmap_mode='c')\ntorch.load(p, weights_only=True)") == []
