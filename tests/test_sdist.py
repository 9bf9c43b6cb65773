"""The sdist holds what its installation, tests and documents need, whether or not torch was there when it was made.

tests/test_wheel.py builds every wheel from an sdist made without torch; that both hold the same files covers the other.
"""

from __future__ import annotations

import tarfile

import pytest
from installs import ROOT, build_sdist

WRITTEN = {".cpp", ".cu", ".cuh", ".h", ".json", ".jsonl", ".md", ".png", ".py", ".sh", ".toml", ".typed"}
UNWRITTEN = {"__pycache__", "build", "dist", "cells", "cache"}
TOP = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "setup.py", ".ci/run"}


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    return read(build_sdist(tmp_path_factory.mktemp("sdist"), torch=False))


def read(sdist) -> dict[str, bytes]:
    """Every file by its name below the one folder of an sdist; what setuptools notes about the build is left out."""
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in files.items() if "egg-info" not in name}


@pytest.mark.parametrize("folder", ["benchmarks", "csrc", "docs", "examples", "spectral_sampler", "tests"])
def test_sdist_without_torch_holds_the_folder(contents, folder):
    files = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.suffix in WRITTEN]
    expected = {str(path) for path in files if not UNWRITTEN.intersection(path.parts)}
    assert expected
    assert {name for name in contents if name.startswith(f"{folder}/")} == expected


def test_sdist_holds_the_files_of_the_top_and_nothing_built(contents):
    assert contents.keys() >= TOP
    assert not [name for name in contents if name.endswith((".so", ".pyc", ".o"))]


def test_torch_changes_nothing_in_the_sdist(contents, tmp_path):
    assert read(build_sdist(tmp_path, torch=True)) == contents
