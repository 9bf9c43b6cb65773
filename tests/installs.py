"""What tests/test_sdist.py and tests/test_wheel.py build with: the tree as an sdist, an sdist as a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = tempfile.gettempdir()  # `python -c` puts the folder it runs in before everything that is installed
MADE_HERE = ("__pycache__", "*.so", "*.egg-info", ".*_cache", ".hypothesis", ".git", ".venv*", "build", "*-results")
BUILD_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def run(*command: str | Path, cwd: str | Path = ELSEWHERE, said: bool = False, **environment: str) -> str:
    """Standard output, with ``said`` also the errors', of a command that succeeds; AssertionError where it does not."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SPECTRAL_SAMPLER_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **environment}
    words = list(map(str, command))
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr if said else done.stdout


def build_sdist(folder: Path, *, torch: bool) -> Path:
    """From a copy of the tree, so that nothing built before can be picked up; without torch as in an isolated build."""
    tree, hidden = folder / "tree", folder / "no-torch"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*MADE_HERE))
    hidden.mkdir()
    (hidden / "torch.py").write_text('raise ImportError("no torch in this environment")\n')
    run(sys.executable, "-c", BUILD_SDIST, folder, cwd=tree, PYTHONPATH="" if torch else str(hidden))
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def build_wheel(sdist: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel, without device code unless asked for (a minute), and what the build said."""
    options = ("--verbose", "--no-build-isolation", "--no-deps", "--wheel-dir", folder)
    pip = (sys.executable, "-m", "pip", "wheel", *options, sdist)
    said = run(*pip, said=True, **{"SPECTRAL_SAMPLER_CUDA": "0", **environment})
    (wheel,) = folder.glob("*.whl")
    return wheel, said
