"""Small arrays that were computed from a store, kept beside its files so that no other process computes them again.

``{name}.json`` has the fingerprint of the store, the checksums of the labels that it had in memory (which somebody may
have corrected there), the version of what computed them, and the checksums of ``{name}-{array}-{digest}.npy``; it is
renamed into place last. Processes that write at once do not collide, since other content has another file name. Nothing
depends on these files: where they are missing, damaged or of something else, or cannot be written, the caller computes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral_sampler.store.reference_store import ReferenceStore

__all__ = ["keep", "kept"]

_LIMIT = 32 << 20
_logger = logging.getLogger(__name__)


def _labels(store: ReferenceStore) -> list[str] | None:
    return None if store.labels is None else list(manifest.data_digests(store.labels))


def _file(name: str, key: str, digests: tuple[str, ...]) -> str:
    return f"{name}-{key}-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]}.npy"


def kept(
    store: ReferenceStore, name: str, version: int, layout: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, NDArray[Any]] | None:
    """The arrays, of the dtypes and shapes of ``layout``, mapped and compared with their checksums, or None."""
    if store.path is None:
        return None
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with manifest.open_regular(store.path / f"{name}.json") as file:
            body = manifest.bounded_json(file.read(_LIMIT))
        if [body["store"], body["version"], body["labels"]] != [store.fingerprint, version, _labels(store)]:
            return None
        for key, (dtype, shape) in layout.items():
            like, digests = np.broadcast_to(np.zeros((), dtype), shape), tuple(body["sha256"][key])
            entry = manifest.ArrayEntry.of(_file(name, key, digests), like, digests)
            arrays[key] = manifest.map_array(store.path, entry)
            manifest.verify_data(store.path, entry, arrays[key])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StoreError) as error:
        _logger.info("%s beside %s is damaged and computed again: %s", name, store.path, error)
        return None
    return arrays


def keep(store: ReferenceStore, name: str, version: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes ``arrays`` for `kept`; where that is not possible, a line in the log says so."""
    directory = store.path
    if directory is None:
        return
    staged: dict[str, Path] = {}
    body: dict[str, Any] = {"store": store.fingerprint, "version": version, "labels": _labels(store), "sha256": {}}
    try:
        with atomic.disk_errors(directory, sum(array.nbytes for array in arrays.values())):
            for key, array in arrays.items():
                data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                digests = body["sha256"][key] = manifest.data_digests(data)
                header, file = manifest.npy_header(data.dtype.name, data.shape), _file(name, key, digests)
                parts: Iterator[bytes | memoryview] = itertools.chain([header], manifest.data_chunks(data))
                staged[file] = atomic.stage(directory, file, parts, len(header) + data.nbytes)
            text = json.dumps(body).encode()
            files = dict(staged)
            staged[f"{name}.json"] = atomic.stage(directory, f"{name}.json", (text,), len(text))
            atomic.publish(directory, files, staged[f"{name}.json"], f"{name}.json")
            for path in directory.glob(f"{name}-*-{'[0-9a-f]' * 16}.npy"):
                if path.name not in files:  # of the store that was here before, or of another version
                    path.unlink(missing_ok=True)
    except StoreError as error:
        _logger.info("%s is not kept, so the next process computes it again: %s", name, error)
    finally:
        for path in staged.values():
            with contextlib.suppress(OSError):
                path.unlink()
