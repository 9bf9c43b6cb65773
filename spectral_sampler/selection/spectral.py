"""Fiedler scores of candidate batches: what SALN and GSTDS share."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from spectral_sampler import ops
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import FiedlerResult, Status, fiedler_rows
from spectral_sampler.selection.protocol import Scores
from spectral_sampler.selection.ranking import tie_tolerance
from spectral_sampler.selection.similarity import COSINE, Graph, solve_similarity
from spectral_sampler.store.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.kernels.device_store import DeviceRows
    from spectral_sampler.store import ReferenceStore

__all__ = ["ORIENTATIONS", "check_orientation", "equal_for_copies", "fiedler_scores"]

ORIENTATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "signed": lambda vector: vector,
    "negated": lambda vector: -vector,
    "abs": np.abs,
    "boundary": lambda vector: -np.abs(vector),
}
"""From the Fiedler vector to a score. The sign of an eigenvector is arbitrary and neither paper fixes it; ours is
canonical (see `spectral_sampler.fiedler`): "signed" ranks the smaller, farther group first, "negated" the larger one,
"abs" both extremes, "boundary" the entries nearest to the cut."""


def check_orientation(score: str) -> str:
    """``score`` itself, or one sentence."""
    if score not in ORIENTATIONS:
        raise argument_error("score", f"one of {sorted(ORIENTATIONS)}", repr(score), 'The papers rank by "signed".')
    return score


_HOST = torch.device("cpu")
_ON_DEVICE: WeakKeyDictionary[ReferenceStore, dict[torch.device, DeviceRows]] = WeakKeyDictionary()


def _solve(store: ReferenceStore, indices: torch.Tensor, backend: str) -> FiedlerResult:
    """Where `ops.device_for` says; results on the host."""
    device = ops.device_for(backend, _HOST)
    if device == _HOST:
        near = store.candidate_rows(indices)
        return fiedler_rows(near.features, near.rows, backend=backend, numbers=near.numbers)
    from spectral_sampler.kernels.device_store import DeviceRows

    features = store.features if isinstance(store.features, Rows) else store.features_tensor
    rows = _ON_DEVICE.setdefault(store, {}).setdefault(device, DeviceRows(features, device))
    return FiedlerResult(*rows.solve(indices, lambda part, places: tuple(fiedler_rows(part, places, backend=backend))))


def fiedler_scores(
    store: ReferenceStore,
    indices: NDArray[np.int64],
    *,
    score: str,
    backend: str,
    similarity: str = COSINE,
    laplacian: str = "unnormalised",
    k: int | None = None,
) -> Scores:
    """Oriented Fiedler vectors of the graphs of B candidate batches.

    Args:
        store: reference features (M, d).
        indices: (B, N) dataset indices.
        score: a key of `ORIENTATIONS`.
        backend: see `spectral_sampler.ops`.
        similarity, laplacian, k: as of `spectral_sampler.selection.similarity.Graph`.

    Returns:
        Scores with the ``error`` of `FiedlerResult`. A degenerate eigenspace has no order of its own: its scores are
        all equal, which ranks by `CandidateBatch.ties`. So do copies of a row.

    Raises:
        RuntimeError: a candidate's features are zero or not finite, which a `ReferenceStore` rules out when it is made.
    """
    rows = torch.from_numpy(np.ascontiguousarray(indices))
    graph = Graph(similarity, laplacian, k)
    if graph == Graph():
        result = _solve(store, rows, backend)
    else:
        near = store.candidate_rows(rows)
        result = solve_similarity(near.features, near.rows, graph, backend, near.numbers)
    status = result.status.cpu().numpy().astype(np.int64)
    invalid = np.flatnonzero(status & int(Status.INVALID))
    if invalid.size:
        raise RuntimeError(
            f"the features of a candidate among dataset indices {indices[invalid[0]].tolist()} are zero or not finite; "
            "the reference store changed after it was checked"
        )
    values = ORIENTATIONS[score](result.vector.cpu().numpy().astype(np.float64))
    degenerate = (status & int(Status.DEGENERATE)) != 0
    for member in np.flatnonzero(~degenerate):
        values[member] = equal_for_copies(values[member], indices[member], store.features)
    values[degenerate] = 0.0
    error = np.where(degenerate, np.inf, result.error.cpu().numpy().astype(np.float64))
    return Scores(values, error, status, result.num_matvecs.cpu().numpy().astype(np.int64))


def equal_for_copies(
    scores: NDArray[np.float64], indices: NDArray[np.int64], features: NDArray[np.floating] | Rows
) -> NDArray[np.float64]:
    """``scores`` (N,), that of the lowest dataset index for all candidates whose rows of features are the same bits.

    Only rows whose scores are within rounding of another one's are looked at: copies have the same score but for that.
    """
    order = np.argsort(scores)
    near = np.diff(scores[order]) <= tie_tolerance(scores)
    positions = order[np.append(near, False) | np.insert(near, 0, False)]
    positions = positions[np.argsort(indices[positions])]
    equal, first = np.array(scores), dict[bytes, int]()
    for position, row in zip(positions, features[indices[positions]], strict=True):
        equal[position] = scores[first.setdefault(row.tobytes(), position)]
    return equal
