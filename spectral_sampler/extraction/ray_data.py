"""An extraction by the actors of a Ray cluster: Ray Data hands out chunks of rows by number, each actor has the data
set and the model for itself, and all write into one store on a file system that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import StoreError, argument_error
from spectral_sampler.extraction.extract import extract, prepared
from spectral_sampler.modules import global_randomness_kept
from spectral_sampler.optional import optional
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["extract_with_ray"]

_CALLS = 16  # of each actor, if all are equally fast: what a slow one leaves undone others do
_OURS = ("num_replicas", "rank", "overwrite", "patience", "progress")


def extract_with_ray(
    make: Callable[[], tuple[torch.nn.Module, Any]],
    path: str | os.PathLike[str],
    *,
    concurrency: int,
    actor_options: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> ReferenceStore:
    """The store that `extract` makes of a model and a data set, to the bit, computed by ``concurrency`` actors of Ray.

    What a dead actor, or an interrupted call, has not finished is all that is computed again.

    Args:
        make: returns ``(model, dataset)``, here and in every actor, with the same weights and the same samples: the
            hash of both is compared before an actor writes. A function of a module that the actors can import, or one
            that Ray can send.
        path: directory of the store, on a file system that this process and all actors see.
        concurrency: actors. Leave a CPU of the cluster to Ray itself: where actors take all, nothing is handed out.
        actor_options: of each actor, such as ``{"num_gpus": 1}`` with ``device="cuda"``; Ray counts one CPU by default.
        overwrite, progress: as for `extract`.
        options: the other arguments of `extract`: ``batch_size``, ``features``, ``loss``, ``device``, …

    Raises:
        ArgumentError, StoreError: as `extract`; and if ``make`` gives an actor another model or data set.
        MissingPackage: without Ray (``pip install 'spectral-sampler[ray]'``).
    """
    data = optional("ray.data", "ray")
    concurrency = whole_number("concurrency", concurrency, 1, "It is how many actors share the work.")
    known = {name: value for name, value in (extract.__kwdefaults__ or {}).items() if name not in _OURS}
    if unknown := sorted(set(options) - set(known)):
        rule = f"arguments of extract ({', '.join(known)})"
        raise argument_error("options", rule, ", ".join(unknown), "Ranks are what Ray starts.")
    options = {**known, **options, "progress": False, "num_replicas": 1, "rank": 0}
    path = Path(path).absolute()  # an actor may be elsewhere
    with global_randomness_kept():
        model, dataset = make()
        job, _ = prepared(model, dataset, path, **{**options, "progress": progress})
        del model
        job.shared = True

        def fill() -> None:
            if not (chunks := job.todo()):
                return
            size = max(1, len(chunks) // (concurrency * _CALLS))
            shares = data.from_items(chunks, override_num_blocks=-(-len(chunks) // size))
            done = shares.map_batches(
                _Actor, fn_constructor_args=(make, str(path), options, job.identity), batch_size=size,
                compute=data.ActorPoolStrategy(size=concurrency), **(actor_options or {}),
            )  # fmt: skip
            for _ in done.iter_batches(batch_size=None):
                pass

        return job.store(fill, overwrite=overwrite, patience=0.0)


class _Actor:
    """The model and the data set in a process of Ray's."""

    def __init__(
        self, make: Callable[[], tuple[torch.nn.Module, Any]], path: str, options: dict[str, Any],
        identity: dict[str, Any],
    ) -> None:  # fmt: skip
        model, dataset = make()
        self.job, self.fill = prepared(model, dataset, path, **options)
        if differing := sorted(name for name in identity if self.job.identity.get(name) != identity[name]):
            raise StoreError(
                f"make() gave an actor another {', '.join(differing)} than the process that asked. Build the same "
                f"everywhere: load the model's weights, or seed its initialisation."
            )

    def __call__(self, chunks: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        """Computes these chunks and says so; but not those that a dead actor had done of them."""
        self.fill(self.job.todo(chunks["item"].tolist()))
        return chunks
