"""Other ways to the Fiedler vector, each as a function of (store, indices) that returns vectors (b, N), float64."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from sklearn.manifold import spectral_embedding

from spectral_sampler import fiedler_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    Peer = Callable[[torch.Tensor, torch.Tensor], np.ndarray]


def _rows(store: torch.Tensor, member: torch.Tensor) -> np.ndarray:
    return store.index_select(0, member).float().numpy()


def _units(store: torch.Tensor, member: torch.Tensor) -> np.ndarray:
    rows = _rows(store, member)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _laplacian(store: torch.Tensor, member: torch.Tensor) -> np.ndarray:
    units = _units(store, member)
    affinity = units @ units.T
    return np.diag(affinity.sum(axis=1)) - affinity


def _each(solve: Callable[[torch.Tensor, torch.Tensor], np.ndarray]) -> Peer:
    def run(store: torch.Tensor, indices: torch.Tensor) -> np.ndarray:
        return np.stack([solve(store, member) for member in indices])

    return run


@_each
def numpy_eigh(store, member):
    """What the papers do: all eigenpairs, the second one kept."""
    return np.linalg.eigh(_laplacian(store, member))[1][:, 1]


def torch_eigh(store, indices):
    """The same in batched torch."""
    rows = store[indices].float()
    units = rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    affinity = torch.bmm(units, units.mT)
    return torch.linalg.eigh(torch.diag_embed(affinity.sum(dim=2)) - affinity)[1][:, :, 1].numpy()


@_each
def scipy_eigh(store, member):
    """One eigenpair by bisection."""
    return scipy.linalg.eigh(_laplacian(store, member), subset_by_index=[1, 1])[1][:, 0]


@_each
def scipy_eigsh(store, member):
    """ARPACK on the Laplacian."""
    matrix = _laplacian(store, member)
    start = np.random.default_rng(0).normal(size=len(matrix)).astype(np.float32)
    return scipy.sparse.linalg.eigsh(matrix, k=2, which="SA", v0=start)[1][:, 1]


def scipy_eigsh_matrix_free(tolerance: float = 0.0):
    """ARPACK with products by the rows; relative tolerance on Ritz values."""

    @_each
    def run(store, member):
        units = _units(store, member)
        sums = units @ units.sum(axis=0)
        size = len(units)

        def product(x):
            x = x.reshape(-1)
            return sums * x - units @ (units.T @ x)

        operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=product, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=size).astype(np.float32)
        return scipy.sparse.linalg.eigsh(operator, k=2, which="SA", v0=start, tol=tolerance, maxiter=2000)[1][:, 1]

    return run


@_each
def scipy_lobpcg(store, member):
    """LOBPCG away from the constant vector."""
    matrix = _laplacian(store, member)
    size = len(matrix)
    start = np.random.default_rng(0).normal(size=(size, 1)).astype(np.float32)
    ones = np.ones((size, 1), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where it has not converged; the accuracy column says so too
        return scipy.sparse.linalg.lobpcg(matrix, start, Y=ones, largest=False, tol=1e-5, maxiter=60)[1][:, 0]


@_each
def torch_lobpcg(store, member):
    """torch's LOBPCG; the constant vector is moved to the top of the spectrum."""
    matrix = torch.from_numpy(_laplacian(store, member))
    size = len(matrix)
    top = 2 * float(matrix.diagonal().max()) / size
    start = torch.randn(size, 1, generator=torch.Generator().manual_seed(0))
    found = torch.lobpcg(matrix + top, k=1, X=start, largest=False, niter=60, tol=1e-7)
    return found[1][:, 0].numpy()


@_each
def sklearn_embedding(store, member):
    """scikit-learn's spectral embedding without the normalisation of the Laplacian."""
    units = _units(store, member)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spectral_embedding(units @ units.T, n_components=1, norm_laplacian=False, random_state=0)[:, 0]
    return found / np.linalg.norm(found)


def ours(backend: str) -> Peer:
    """This package."""

    def run(store: torch.Tensor, indices: torch.Tensor) -> np.ndarray:
        return fiedler_rows(store, indices, backend=backend).vector.numpy()

    return run


PEERS: dict[str, Peer] = {
    "NumPy cosine + eigh": numpy_eigh,
    "torch bmm + linalg.eigh": torch_eigh,
    "SciPy eigh, one pair": scipy_eigh,
    "SciPy eigsh": scipy_eigsh,
    "SciPy eigsh, LinearOperator": scipy_eigsh_matrix_free(),
    "SciPy lobpcg": scipy_lobpcg,
    "torch lobpcg": torch_lobpcg,
    "scikit-learn spectral_embedding": sklearn_embedding,
    "eager": ours("eager"),
}
