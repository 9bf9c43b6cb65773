"""What SECURITY.md says: no path runs what it reads, starts or fetches anything; what is shipped was written."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from crash_trials import ENVIRONMENT
from installs import ROOT, build_sdist, build_wheel
from source_walk import dangerous
from test_no_pickle import ALLOWED, PLANTED

from spectral_sampler.store import ReferenceStore

pytestmark = pytest.mark.slow
PACKAGE = ROOT / "spectral_sampler"


def test_sources(line):
    counted = line("security", "sources: no pickle, run text, shell, process, network, predictable temporary path")
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        found = dangerous(path.read_text(encoding="utf-8"))
        counted.check(sorted(found) == sorted(ALLOWED.get(name, [])), f"{name}: {found}")
    planted = line("security", "planted: each of these in a source is seen")
    for text in PLANTED:
        planted.check(bool(dangerous(text)), text)


def test_events(line, tmp_path):
    """Python's own audit events, and calls of its unpicklers, in a process that does nothing else."""
    labels = np.arange(300) % 3
    generator = np.random.default_rng(0)
    features = np.eye(3)[labels].repeat(4, axis=1) + 0.2 * generator.random((300, 12))
    losses = generator.random(300)
    ReferenceStore.from_arrays(features, losses, labels).save(tmp_path / "s")
    halves = [
        ReferenceStore.from_arrays(features[half], losses[half], labels[half]) for half in np.split(np.arange(300), 2)
    ]
    ReferenceStore.from_parts(tmp_path / "p", halves)
    driver = Path(__file__).parent.parent / "audit_driver.py"
    command = [sys.executable, str(driver), str(tmp_path / "s"), str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    phases = json.loads(done.stdout)
    counted = line("security", "import, open, sampling, inspect, verify, simulate: no audited event of a kind, each")
    planted = line("security", "planted: each event that is listened for is seen")
    for phase, found in phases.items():
        events = found.pop("events", 0)
        if not phase.startswith("planted "):
            assert events > 5, f"{phase} has hardly been listened to"
            continue
        kind, begins = phase.split(": ")[1:]
        right = list(found) == [kind] and len(found[kind]) == 1 and found[kind][0].split()[0] == begins
        planted.check(right, f"{phase}: seen as {found}")
    assert planted.checks == (45 if sys.platform == "linux" else 40)
    kinds = {phase.split(": ")[1] for phase in phases if phase.startswith("planted ")}
    assert len(kinds) == 8
    for phase, found in phases.items():
        allowed = {"written inside"} if phase == "spectral-sampler simulate STORE" else set()
        assert phase.startswith("planted ") or set(found) <= kinds
        for kind in kinds - allowed if not phase.startswith("planted ") else ():
            counted.check(not found.get(kind), f"{phase}: {kind}: {found.get(kind)}")
    # Suspected labels are kept beside the store.
    assert phases["spectral-sampler simulate STORE"]["written inside"]
    assert counted.checks == 8 * 16 - 1


def test_the_terminal(line, tmp_path, capsys):
    """What a store says of its origin is somebody else's text, and a terminal obeys some of it."""
    from spectral_sampler.cli import main

    counted = line("security", "control characters in a store's source: none reaches the terminal")
    controls = [chr(code) for code in (*range(32), *range(127, 160), 0x200E, 0x202E, 0x2066, 0xFEFF, 0xE0001)]
    store = ReferenceStore.from_arrays(np.eye(3))
    for letter in controls:
        text = f"before{letter}[31m]0;title{letter}\\after"
        store.source = {text: text, "nested": [text, {text: text}]}
        store.save(tmp_path / "s")
        for form in ([], ["--json"]):
            assert main(["inspect", str(tmp_path / "s"), *form]) == 0
            said = capsys.readouterr().out
            told = [one for one in said if not one.isprintable() and one != "\n"]
            counted.check(not told and said.count("\n") == (1 if form else 4), f"{letter!r}: {told!r} in {said!r}")


SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[abprs]-[A-Za-z0-9-]{10}"
    rb"|AIza[0-9A-Za-z_-]{35}"
    rb"|(?i:password|secret|api_?key|token)\s*[:=]\s*['\"][A-Za-z0-9+/_-]{16,}['\"]|/(?:home|Users)/[a-z][\w.-]*/|/roo[t]/"
)
METADATA = {"METADATA", "WHEEL", "RECORD", "top_level.txt", "entry_points.txt", "licenses/LICENSE"}
BUILT = re.compile(r"PKG-INFO|setup\.cfg|spectral_sampler\.egg-info/[\w.-]+")


def tracked():
    """What the repository holds or is about to."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError as error:
        pytest.skip(f"there is no git: {error}")
    if done.returncode:
        pytest.skip("the sources are in no repository")
    return set(done.stdout.splitlines())


def shipped():
    """What a wheel without compiled code holds of the package."""
    sources = {path for kind in ("*.py", "py.typed") for path in PACKAGE.rglob(kind)} | set(
        (PACKAGE / "kernels").glob("*.json")
    )
    return {path.relative_to(ROOT).as_posix() for path in sources}


def judged(counted, names, expected, optional=frozenset()):
    """Counts every name: those that are not expected, those that are missing."""
    for name in names | expected:
        missing = name in expected and name not in names
        counted.check(
            not missing and name in expected | optional, f"{name} is {'missing' if missing else 'not expected'}"
        )


def secrets(counted, contents):
    for name, data in contents.items():
        found = SECRETS.search(data)
        counted.check(found is None, f"{name} holds {found and found[0][:60]!r}")


def test_what_is_shipped(line, tmp_path):
    files = line("security", "sdist and pure wheel: every file is expected, none is missing")
    clean = line("security", "sdist and pure wheel: no key, password, or path of somebody's home in any file")
    repository = tracked()
    (tmp_path / "s").mkdir()
    (tmp_path / "w").mkdir()
    sdist = build_sdist(tmp_path / "s", torch=False)
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        assert all(member.isfile() or member.isdir() for member in members), "a link or a device"
        contents = {one.name.partition("/")[2]: archive.extractfile(one).read() for one in members if one.isfile()}
    built = {name for name in contents if BUILT.fullmatch(name)}
    judged(files, set(contents) - built, shipped(), optional=repository)
    secrets(clean, contents)
    wheel, _ = build_wheel(sdist, tmp_path / "w", CXX="/bin/false")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    metadata = {name.partition(".dist-info/")[2] for name in inside if ".dist-info/" in name}
    judged(files, {name for name in inside if ".dist-info/" not in name}, shipped())
    judged(files, metadata, METADATA)
    secrets(clean, inside)
    planted = line("security", "planted: a file too many, one too few, a key, a home are seen")
    probe = type(files)("security", "probe", None, "")
    judged(probe, shipped() | {"spectral_sampler/_other.abi3.so"}, shipped())
    judged(probe, shipped() - {"spectral_sampler/__init__.py"}, shipped())
    words = (b"PRIVATE", b"someone", b"0123456789abcdef")  # apart, or this file would be found to hold them
    texts = (b"-----BEGIN RSA %s KEY-----", b"/home/%s/x", b"api_key = '%s'")
    secrets(probe, {str(number): text % word for number, (text, word) in enumerate(zip(texts, words, strict=True))})
    planted.check(probe.failures == 5, f"{probe.told}")
    planted.check(not (repository & {"spectral_sampler/_C.abi3.so"}), "the compiled module is in the repository")


def lower_bounds():
    """``name==version`` of the oldest release accepted, of every dependency that states one."""
    tomllib = pytest.importorskip("tomllib", reason="Python before 3.11 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = {re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?[>=]=([\w.]+)", one) for one in stated}
    return sorted({f"{one[1]}=={one[2]}" for one in found if one})


CANARY = "jinja2==2.4.1"  # vulnerable for certain: a database that does not say so has not been asked


def audited(pins, folder):
    """What pip-audit says of each pin: its vulnerabilities, or why it says nothing."""
    (folder / "pins.txt").write_text("\n".join([*pins, CANARY]))
    options = [
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--timeout",
        "3",
        "-r",
        "pins.txt",
    ]
    command = [sys.executable, "-m", "pip_audit", *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=14, cwd=folder, env=os.environ
        )
        return json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        pytest.skip("the database of vulnerabilities does not answer")
    except (ValueError, KeyError):
        pytest.skip(f"the database of vulnerabilities cannot be asked: {done.stderr.strip().splitlines()[-1:]}")


def test_lower_bounds(line, tmp_path):
    counted = line("security", "the oldest packages accepted have no known vulnerability")
    pins = lower_bounds()
    assert len(pins) > 20
    assert {"torch==2.9", "numpy==1.26"} <= set(pins)
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed: pip install 'spectral-sampler[audit]'")
    said = {one["name"]: one for one in audited(pins, tmp_path)}
    canary = said.pop(CANARY.partition("==")[0], {})
    if not canary.get("vulns"):
        pytest.skip(f"the database of vulnerabilities cannot be reached ({canary.get('skip_reason', 'it knows none')})")
    for name, one in said.items():
        if "skip_reason" not in one:
            known = [f"{each['id']}, fixed in {', '.join(each['fix_versions'])}" for each in one["vulns"]]
            counted.check(not known, f"{name} {one['version']}: {'; '.join(known)}")
