"""What a selection is: scores for a whole batch of candidate batches, then a choice within a budget for each of them.

Scores depend on the reference store and the candidates alone, so they can be computed many candidate batches at a
time, ahead of training, and kept for a fixed partition. The choice may depend on anything known when the batch is due.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_sampler import draws
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = [
    "KINDS", "CandidateBatch", "Choice", "EpochRequest", "Proposal", "Scores", "Selection", "as_selection", "leaves",
]  # fmt: skip

KINDS = ("spectral", "weighted", "uniform")
"""Why a sample was selected: its rank by a graph score, a weighted draw, a plain draw."""


class Scores(NamedTuple):
    """Scores of B candidate batches of N candidates, with the evidence of how far they can be trusted."""

    values: NDArray[np.float64]
    """(B, N), larger is selected first; (B, N, k) for a selection made of k, see `leaves`."""
    error: NDArray[np.float64]
    """(B,) bound on the error of the difference of two scores; infinite where the scores carry no order. (B, k) for a
    selection made of k, NaN for one of them that scores nothing."""
    status: NDArray[np.int64]
    """(B,) `spectral_sampler.fiedler.Status` bits."""
    matvecs: NDArray[np.int64]
    """(B,) products with the Laplacian that were needed."""


class CandidateBatch(NamedTuple):
    """All that is known about one candidate batch when its selection is due."""

    indices: NDArray[np.int64]
    """(N,) dataset indices, unique."""
    scores: NDArray[np.float64] | None = None
    """(N,), None for a selection that computes none; (N, k) for a selection made of k."""
    error: Any = 0.0
    """Bound on the error of the difference of two scores, a number; (k,) for a selection made of k."""
    losses: NDArray[np.float64] | None = None
    """(N,) losses of the reference model."""
    labels: NDArray[np.int64] | None = None
    """(N,) class labels."""
    learner_losses: NDArray[np.float64] | None = None
    """(N,) last losses given to ``sampler.observe``, NaN where none was."""
    seed: int = 0
    epoch: int = 0
    batch: int = 0
    """Number of the candidate batch within its epoch, over all ranks."""
    turn: int = 0
    """Number of the pass over the data: the epoch, where that has one pass."""
    progress: float = 0.0
    """Share of the training horizon that has passed, in [0, 1]."""
    logits: Any = None
    """(N, C) outputs of the learner for the candidates, a tensor where it is or an array, for a policy that needs
    them."""
    embeddings: Any = None
    """(N, h) inputs of the learner's last linear layer, likewise."""
    features: NDArray[np.floating] | None = None
    """(N, d) reference features, for a policy that compares them with the learner's."""

    ignored: NDArray[np.bool_] | None = None
    """(N,) candidates that are not to be chosen before all others are, for their label; None where there are none."""
    again: NDArray[np.int64] | None = None
    """(N,) which of its places in the epoch's order each candidate's is, from 0; None where the order repeats none."""

    def uniforms(self, stream: int = 0) -> NDArray[np.float64]:
        """(N,) draws in (0, 1), a function of (seed, epoch, batch, dataset index, stream)."""
        return draws.uniforms(self.seed, self.epoch, self.batch, self.indices, stream)

    def ties(self) -> NDArray[np.float64]:
        """(N,) keys by which equal scores are ranked, anew in every epoch: by index, the same rows would always win."""
        return self.uniforms(draws.TIES)


class Choice(NamedTuple):
    """The selected candidates."""

    positions: NDArray[np.int64]
    """(n,) positions in the candidate batch, unique, in the order in which they are yielded."""
    kinds: NDArray[np.int8]
    """(n,) positions in `KINDS`."""
    certified: bool = True
    """The ranked part is the one exact arithmetic would give: the gap at the cut exceeds the scores' error."""
    zero_weight_draws: int = 0
    """Draws that had to take a candidate of weight zero because no other was left."""
    weights: NDArray[np.float64] | None = None
    """(n,) factors for the loss that make an importance sample unbiased; None means ones."""
    nonfinite: int = 0
    """Candidates whose outputs of the learner are not finite: they come last."""


class EpochRequest(NamedTuple):
    """An epoch about to start: K candidate batches of N are wanted."""

    store: ReferenceStore
    order: NDArray[np.int64]
    """(M',) the dataset indices in the order in which they would be offered."""
    batches: int
    """K, over all ranks."""
    size: int
    """N."""
    learner_losses: NDArray[np.float64] | None = None
    """(M,) last losses given to ``sampler.observe``, NaN where none was."""
    seed: int = 0
    epoch: int = 0
    progress: float = 0.0
    """Epochs done, as a share of all of them, in [0, 1]."""
    memo: Any = None
    """`Proposal.memo` of this epoch's proposal where that was made before a checkpoint: propose the same again."""


class Proposal(NamedTuple):
    """The candidates of an epoch. K stays as requested, so that the length of the epoch does; N may shrink."""

    batches: NDArray[np.int64]
    """(K, N') dataset indices, N' ≤ N, unique within a row."""
    weights: NDArray[np.float64] | None = None
    """(K, N') factors for the loss; None means ones."""
    memo: Any = None
    """What it was decided from and cannot be asked for again, as a tensor: `EpochRequest.memo` after resuming."""


class Selection:
    """One way to select, base of all; see `spectral_sampler.selection.saln` for the shortest complete example.

    A subclass gives `name`, `needs` and `select`, and of the rest what it does otherwise than the defaults.
    """

    name: str
    """Lower-case name, as in result tables and ``spectral-sampler compare --policies``."""
    needs: frozenset[str] = frozenset()
    """What must be there: a subset of `spectral_sampler.selection.needs.NEEDS`."""
    judges_all = False
    """Whether a candidate batch that is kept whole is put to it all the same, because it weighs; one that gives
    `trained` learns from every batch, and is asked."""
    reads_features = False
    """Whether `select` compares the candidates' reference features itself; `score` reads the store."""
    proposes = False
    """Whether it decides what is offered in an epoch, by `propose`."""
    unbiased = False
    """Whether the mean of weight times loss over its choice is unbiased for the mean loss of what it was offered."""
    parts: tuple[Selection, ...] = ()
    """The selections that it is made of."""

    def __init_subclass__(cls) -> None:
        cls.judges_all = cls.judges_all or cls.trained is not Selection.trained

    def __repr__(self) -> str:
        named = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in named)})"

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores | None:  # noqa: ARG002
        """Scores for the candidates ``indices`` (B, N), or None where the selection needs none. Pure; in any thread."""
        return None

    def propose(self, request: EpochRequest) -> Proposal | None:  # noqa: ARG002
        """The candidates of an epoch, or None for the order as it is. Pure: what it has to remember is the proposal's
        ``memo``."""
        return None

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Exactly ``budget`` of the N candidates, 1 ≤ budget ≤ N. Pure."""
        raise NotImplementedError

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """The candidates that ``choice`` took of ``batch`` are trained on; the only call that may change anything."""

    def facts(self, store: ReferenceStore) -> dict[str, float]:  # noqa: ARG002
        """What it knows about the store as a whole by now, for the statistics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What `trained` has learnt: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class _Adapted(Selection):
    """An object that has the parts of a selection and is not derived from it; it goes without what it does not have."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.judges_all = hasattr(policy, "trained")
        for part in ("name", "needs", "judges_all", "reads_features", "proposes", *_PARTS):
            if hasattr(policy, part):
                setattr(self, part, getattr(policy, part))

    def __repr__(self) -> str:
        return repr(self._policy)


def leaves(selection: Selection) -> list[Selection]:
    """The selections that one is made of in the end, itself if of no others; scores have a column for each."""
    return [leaf for part in selection.parts for leaf in leaves(part)] or [selection]


_PARTS = ("score", "propose", "select", "trained", "facts", "state_dict", "load_state_dict")


def as_selection(policy: Any, argument: str = "selection") -> Selection:
    """A `Selection` as it is, an object with ``name``, ``needs``, ``score`` and ``select`` as one, or one sentence."""
    if isinstance(policy, Selection):
        return policy
    if isinstance(policy, type) or not all(hasattr(policy, part) for part in ("name", "needs", "score", "select")):
        remedy = "Pass PlausibleEven() or Uniform(), or derive your own from spectral_sampler.selection.Selection."
        raise argument_error(argument, "a Selection", repr(policy), remedy)
    return _Adapted(policy)
