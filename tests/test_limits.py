"""One place for thresholds: the header that C++ and CUDA include is what `limits.py` says."""

from __future__ import annotations

from pathlib import Path

from spectral_sampler import limits

ROOT = Path(limits.__file__).resolve().parent.parent


def test_the_header_is_made_from_the_module():
    header = (ROOT / "csrc" / "solver_limits.h").read_text(encoding="utf-8")
    assert header == limits.header(), "run: python spectral_sampler/limits.py > csrc/solver_limits.h"
    assert "kGap = 32.0f" in header
