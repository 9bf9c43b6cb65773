"""Names in a store that lead elsewhere: refused before anything is opened, waited for, or told."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from damaged_stores import FILES, forged, small_store

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices as Linux has them"),
]
NAMES = [
    "../other/features.npy", "/etc/passwd", "..", ".", "", "/", "//", "features.npy/", "./features.npy",
    "features.npy\x00", "features.npy\x00.npy", "\x00features.npy", ".lock", "manifest.json", "~/features.npy",
    "$HOME/features.npy", "..\\features.npy", "C:\\features.npy", "\\\\host\\features.npy", "file:///etc/passwd",
    "https://example.org/features.npy", "features.npy\n", "Features.npy", "features-0123.npy",
    "features-0123456789ABCDEF.npy", "features-0123456789abcdef.npy.tmp", "/proc/self/mem", "/dev/stdin", "|id",
    "features.npz", "\uff46eatures.npy", "losses.npy/../features.npy", "%2e%2e/features.npy", "a" * 100,
]  # fmt: skip
HANGS = 20  # seconds, which nothing but a wait for ever takes, however busy the machine
_opened, _watching = [], []


def _watch(event, arguments):
    if _watching and event == "open" and not isinstance(arguments[0], int):
        _opened.append(str(arguments[0]))


sys.addaudithook(_watch)


def opening(store):
    """(The error, or the store; seconds; what was opened.)"""
    _opened.clear()
    _watching.append(True)
    start = time.perf_counter()  # not of the processor: a pipe that is waited for takes none
    try:
        found = ReferenceStore.open(store.path)
    except StoreError as error:
        found = error
    finally:
        _watching.clear()
    return found, time.perf_counter() - start, list(_opened)


def test_names(line, tmp_path):
    """Of an array's file, in a manifest whose checksum fits, beside a store that they lead to."""
    counted = line("store", "names in a manifest that lead elsewhere: refused, nothing of them opened")
    store = small_store(tmp_path / "s")
    shutil.copytree(store.path, tmp_path / "other")
    text = (store.path / "manifest.json").read_text()
    for array in ("features", "losses", "labels"):
        for name in NAMES:
            (store.path / "manifest.json").write_text(text)
            forged(store, array, file=name)
            found, _, opened = opening(store)
            refused = isinstance(found, StoreError) and "is not the name of a store's file" in str(found)
            counted.check(refused, f"{array} in {name!r}: {found}")
            counted.check(set(opened) == {str(store.path / "manifest.json")}, f"{name!r}: opened {opened}")
    (store.path / "manifest.json").write_text(text)
    opened = set(opening(store)[2])
    counted.check(opened >= {str(store.path / name) for name in FILES}, "planted: nothing is seen")


def things(tmp_path):
    """What may lie, or be led to, where a file should."""
    (tmp_path / "secret").write_bytes(b"the password")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    return bound, {
        "a secret": tmp_path / "secret", "a pipe": tmp_path / "pipe", "a folder": tmp_path / "folder",
        "a socket": tmp_path / "socket", "nothing": tmp_path / "missing", "a circle": tmp_path / "circle",
        "zeros without end": Path("/dev/zero"), "a terminal": Path("/dev/tty"), "the memory": Path("/proc/self/mem"),
        "standard input": Path("/dev/stdin"), "a file without size": Path("/proc/self/environ"),
    }  # fmt: skip


def test_links_and_things(line, tmp_path, monkeypatch):
    counted = line(
        "store", "links to secrets, pipes, sockets, devices: refused, nothing of them told; time", HANGS, "s"
    )
    monkeypatch.chdir(tmp_path)
    bound, leads = things(tmp_path)
    with bound:
        for name in FILES:
            for what, target in leads.items():
                for hard in (False, True) if what in ("a secret", "a pipe", "a socket", "a folder") else (False,):
                    store = small_store(tmp_path / "s")
                    path = store.path / name
                    path.unlink()
                    if not hard:
                        path.symlink_to(target)
                    elif what == "a folder":
                        path.mkdir()
                    else:
                        os.link(target, path)
                    found, seconds, opened = opening(store)
                    counted.check(isinstance(found, StoreError), f"{name} is {what}: {found}")
                    counted.passed(0, worst=seconds)
                    told = str(found)
                    counted.check("password" not in told and name in told, f"{name} is {what}: {told}")
                    special = what in ("a pipe", "a socket", "zeros without end", "a terminal", "a folder")
                    counted.check(not special or str(path) not in opened, f"{name} is {what}: opened")
                    shutil.rmtree(store.path)
    counted.check((tmp_path / "secret").read_bytes() == b"the password", "the secret was changed")


def test_links_of_a_writer(line, tmp_path):
    """Whoever saves into a directory of somebody else's writes there alone."""
    counted = line("store", "links where a writer puts its files: nothing elsewhere is written or removed")
    victim = tmp_path / "victim"
    for name in (
        *FILES,
        ".lock",
        ".tmp-1-a-features.npy",
        "features-0123456789abcdef.npy",
        ".partial-0123456789abcdef",
    ):
        for folder in (False, True):
            store = small_store(tmp_path / "s")
            victim.mkdir()
            (victim / "mine").write_text("mine")
            path = store.path / name
            path.unlink(missing_ok=True)
            path.symlink_to(victim if folder else victim / "mine")
            try:
                ReferenceStore.from_arrays([[1.0, 2.0]]).save(store.path)
                counted.check(len(ReferenceStore.open(store.path, verify=True)) == 1, f"{name}: another store")
            except StoreError:
                counted.passed()
            mine = [one.name for one in victim.iterdir()] == ["mine"] and (victim / "mine").read_text() == "mine"
            counted.check(mine, f"{name}, {folder}: the victim has changed")
            shutil.rmtree(store.path)
            shutil.rmtree(victim)
