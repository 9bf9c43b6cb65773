"""The documents' code is run as it stands, the README's claims about itself are checked, and links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    return FENCE.findall(path.read_text(encoding="utf-8"))


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "example.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        check=False,
    )


def test_slow_tests_that_one_step_leaves_out_are_in_another():
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (apart,) = re.findall(r"^OWN_STEP = (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert "\nmake test-slow\n" in steps
    assert [name for name in apart.split() if not re.search(rf"-m slow .*tests/test_{name}\.py", steps)] == []


def test_readme_is_short_and_shows_code_early():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert lines.index("```python") < 20


def test_the_first_block_runs_on_its_own_and_prints_what_it_says(tmp_path):
    code = blocks(README)[0]
    finished = run(code, tmp_path)
    assert finished.returncode == 0, finished.stderr
    promised = re.findall(r"#\s*→\s*(.+)$", code, re.MULTILINE)
    assert promised, "the first block says what it prints"
    for line in promised:
        assert line.strip() in finished.stdout


def test_all_blocks_run_one_after_the_other(tmp_path):
    finished = run("\n".join(blocks(README)), tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_the_runner_sees_a_broken_block(tmp_path):
    assert run(blocks(README)[0] + "\nraise SystemExit(3)\n", tmp_path).returncode == 3
    assert run("import warnings\nwarnings.warn('x')\n", tmp_path).returncode != 0


def test_the_lines_added_to_the_mnist_script_are_the_example():
    example = (ROOT / "examples" / "mnist.py").read_text(encoding="utf-8")
    code = {line.partition("  #")[0].strip() for line in example.splitlines()}
    shown = re.search(r"^```diff\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    lines = [line[1:].partition("  #")[0].strip() for line in shown.splitlines()]
    assert len(lines) >= 7
    assert not [line for line in lines if line not in code]
    added = {line.partition("  #")[0] for line in example.splitlines() if "# selection" in line}
    assert added <= set(lines), "every line that the example marks is shown"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(document):
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    for target in targets:
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), f"{document.name} points at {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_one_title_and_no_section_twice(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^(##? .+)$", text, re.MULTILINE)
    assert sum(title.startswith("# ") for title in titles) == 1, "what a merge leaves may look like another"
    assert len(set(titles)) == len(titles)
    assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), "a merge that was not brought to its end"


def test_make_targets_named_in_documents_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z][\w-]*)", document.read_text(encoding="utf-8")):
            assert target in targets, f"{document.name} names make {target}"
