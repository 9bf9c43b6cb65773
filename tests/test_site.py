"""The site of the documents: every public name is on a page of the API, and the pages are built without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import spectral_sampler
from spectral_sampler import experiment, extraction

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def test_every_public_name_is_on_one_page():
    shown = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)]
    assert len(shown) == len(set(shown))
    wanted = {f"spectral_sampler.{name}" for name in spectral_sampler.__all__}
    wanted |= {f"spectral_sampler.extraction.{name}" for name in extraction.__all__ if name != "ImageEncoder"}
    assert wanted <= set(shown)
    assert {f"spectral_sampler.experiment.{name}" for name in ("Settings", "compare", "pilot")} <= set(shown)
    assert hasattr(experiment, "pilot")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_shows_its_pictures(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
                           env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")
    pages = sorted(tmp_path.rglob("index.html"))
    assert len(pages) >= 17
    pictures = 0
    for page in pages:
        for source in re.findall(r'<img[^>]* src="([^"]+)"', page.read_text("utf-8")):
            assert (page.parent / source).is_file(), f"{page} shows {source}"
            pictures += 1
    assert pictures >= 4
    curate = (tmp_path / "api" / "sampler" / "index.html").read_text("utf-8")
    assert "candidate_batch_size" in curate
    assert "Raises" in curate
