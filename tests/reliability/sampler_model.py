"""What a sampler's next list must be, in the plainest way: a fresh sampler, from the epoch's beginning, told the same
losses. And configurations to compare with it."""

import functools
import math
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from sampler_cases import FirstFeature, HighestLearnerLoss
from torch.utils.data import DistributedSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from spectral_sampler import ReferenceStore, SigmoidSchedule, SpectralBatchSampler
from spectral_sampler.selection import JEST, SALN, Choice, InfoBatch, LossWeighted, PlausibleEven, Selection, Uniform


class LeastShown(Selection):
    """The candidates that were trained on least: it learns, from what is delivered and from nothing else."""

    name = "least-shown"

    def __init__(self):
        self.shown = Counter()

    def select(self, batch, budget):
        counts = [self.shown[row] for row in batch.indices.tolist()]
        return Choice(np.lexsort((batch.uniforms(), counts))[:budget], np.full(budget, 2, dtype=np.int8))

    def trained(self, batch, choice):
        self.shown.update(batch.indices[choice.positions].tolist())

    def state_dict(self):
        return {"shown": dict(self.shown)}

    def load_state_dict(self, state):
        self.shown = Counter(state["shown"])


@functools.cache
def store(samples):
    generator = np.random.default_rng(samples)
    features = generator.random((samples, 4), dtype=np.float32) + 0.01
    return ReferenceStore.from_arrays(features, generator.gamma(0.3, size=samples), np.arange(samples) % 3)


@functools.cache
def _logits(samples):
    return torch.from_numpy(np.random.default_rng(samples).normal(size=(samples, 3)).astype(np.float32))


LISTENING = {"learner-loss": HighestLearnerLoss, "least-shown": LeastShown, "infobatch": InfoBatch}
PURE = {
    "first-feature": FirstFeature,
    "uniform": Uniform,
    "loss-weighted": LossWeighted,
    "saln": SALN,
    "plausible-even": PlausibleEven,
    "jest": JEST,
}
ORDERS = {
    "own": lambda samples: None,
    "list": lambda samples: list(range(samples - 1, -1, -1)),
    "distributed": lambda samples: DistributedSampler(range(samples), 1, rank=0),
    "random": lambda samples: RandomSampler(range(samples)),
    "subset": lambda samples: SubsetRandomSampler(range(0, samples, 2)),
    "weighted": lambda samples: WeightedRandomSampler(torch.arange(1.0, samples + 1), samples),
}
RATIOS = {
    "0.3": 0.3,
    "0.5": 0.5,
    "0.9": 0.9,
    "1": 1.0,
    "rising": lambda progress: 0.2 + 0.7 * progress,
    "sigmoid": SigmoidSchedule(0.18, 0.88, mean=0.4),
}


@dataclass(frozen=True)
class Configuration:
    """One way to build a sampler, in plain values."""

    samples: int
    selection: str
    order: str = "own"
    ratio: str = "0.5"
    options: tuple[tuple[str, Any], ...] = ()

    def make(self, **options):
        given = {**dict(self.options), "keep_ratio": RATIOS[self.ratio], "sampler": ORDERS[self.order](self.samples)}
        if self.selection == "jest":
            given["learner"] = lambda indices: _logits(self.samples)[indices]
        chosen = {**PURE, **LISTENING}[self.selection]()
        return SpectralBatchSampler(store(self.samples), selection=chosen, **{**given, **options})

    def __getitem__(self, name):
        return {"num_replicas": 1, "rank": 0, **dict(self.options)}.get(name)

    @functools.cached_property
    def _epochs(self):
        return {}

    def lists(self, epoch, losses=None):
        """An epoch, from its beginning, of a fresh sampler that knows ``losses``."""
        if losses is not None or epoch not in self._epochs:
            fresh = self.make(start_epoch=epoch, lookahead=0)
            if losses:
                fresh.observe(list(losses), list(losses.values()))
            found = list(fresh)
            if losses is not None:
                return found
            self._epochs[epoch] = found
        return self._epochs[epoch]

    @property
    def pure(self):
        return self.selection in PURE

    @property
    def offered(self):
        """The samples of an epoch's order."""
        return -(-self.samples // 2) if self.order == "subset" else self.samples

    @property
    def steps(self):
        whole = self["drop_last"] or self["emit"] == "constant"
        first = self.offered // self["candidate_batch_size"], -(-self.offered // self["candidate_batch_size"])
        return first[0] // self["num_replicas"] if whole else -(-first[1] // self["num_replicas"])


@st.composite
def configurations(draw, selections=(*PURE, *LISTENING, *LISTENING), replicas=(1, 1, 2, 3)):
    def pick(*of):
        return draw(st.sampled_from(of))

    selection = pick(*selections)
    emit = "shrink" if selection == "infobatch" else pick("shrink", "shrink", "constant")
    order = pick("own", "own", *(name for name in ORDERS if name != "weighted" or emit == "shrink"))
    shards, samples = draw(st.sampled_from(replicas)), draw(st.integers(24, 72))
    offered = -(-samples // 2) if order == "subset" else samples
    size = draw(st.integers(max(4, offered // (8 * shards)), max(4, offered // (2 * shards))))
    options = {
        "candidate_batch_size": size, "seed": draw(st.integers(0, 5)), "epochs": draw(st.integers(1, 4)),
        "drop_last": pick(True, False), "shuffle": pick(True, True, False), "reshuffle": pick(True, True, False),
        "num_replicas": shards, "rank": draw(st.integers(0, shards - 1)), "lookahead": pick(0, 1, 3, None),
        "min_keep": pick(1, 2), "multiple_of": pick(1, 1, 2),
    }  # fmt: skip
    if emit == "constant":
        options |= {"emit": emit, "batch_size": 2 * draw(st.integers(1, size // 2))}
    # The age at which a loss is forgotten is the model's own arithmetic where the ratio is a number.
    ratio = pick(*RATIOS) if selection in PURE else pick("0.3", "0.5", "0.9")
    return Configuration(samples, selection, order, ratio, tuple(options.items()))


@dataclass(eq=False)
class Pass:
    epoch: int
    start: int
    step: int
    look: int
    lists: list | None = None  # of a selection that proposes: decided as it begins


@dataclass
class Model:
    """The bookkeeping that docs and docstrings promise, written as they say it, of what was delivered and observed."""

    configuration: Configuration
    epoch: int = 0
    step: int = 0
    running: list[Pass] = field(default_factory=list)
    current: Pass | None = None
    latest: int = 0
    explicit: bool = False
    loaded: bool = False
    look: int = 1
    heard: bool = False
    delivered: int = 0
    now: int = 0
    losses: dict = field(default_factory=dict)  # row → (loss, epochs delivered by then)
    shown: Counter = field(default_factory=Counter)
    unreported: deque = field(default_factory=deque)
    proposals: dict = field(default_factory=dict)
    remembered: dict = field(default_factory=dict)

    def known(self):
        longest = math.ceil(3 / float(self.configuration.ratio) - 1e-9)
        return {row: loss for row, (loss, seen) in self.losses.items() if self.now - seen <= longest}

    def due(self, which):
        """The next list of a pass, None at its end."""
        of = self.configuration
        if which.step == of.steps:
            return None
        if of.pure or of.selection == "infobatch":
            return (which.lists or of.lists(which.epoch))[which.step]
        fresh = of.make(start_epoch=which.epoch, lookahead=0)
        fresh.observe(list(self.known()), list(self.known().values()))
        iterator = iter(fresh)
        for _ in range(which.step):
            next(iterator)
        fresh.selection.shown = Counter(self.shown)
        return next(iterator)

    def begin(self, position):
        epoch, step = (self.epoch, self.step) if position is None else position
        begun = self.current = Pass(epoch, step, step, self.look)
        self.running.append(begun)
        self.epoch = self.latest = epoch
        self.step, self.look, self.explicit, self.loaded, self.heard = 0, 1, False, False, False
        if len(self.running) == 1:
            self.unreported.clear()
        if self.configuration.selection == "infobatch":
            found = {**self.remembered, **self.proposals}.get(epoch)
            begun.lists = found or self.configuration.lists(epoch, self.known())
            self.proposals = dict([*self.proposals.items()][-1:]) | {epoch: begun.lists}
            self.remembered = {}
        return begun

    def deliver(self, which, batch):
        which.step += 1
        self.current = which
        self.delivered += 1
        self.now = self.delivered // self.configuration.steps
        self.shown.update(batch)
        self.unreported.append(batch)

    def end(self, which, *, exhausted):
        self.running.remove(which)
        others = [other for other in self.running if other.epoch == which.epoch]
        if self.current is which:
            self.current = others[-1] if others and not exhausted else None
        if self.epoch == which.epoch and not self.loaded and (exhausted or not others):
            used = exhausted or self.heard or which.step - which.start > which.look
            self.epoch, self.step = (which.epoch + 1, 0) if used else (which.epoch, which.start)

    def set_epoch(self, epoch):
        self.explicit = True
        if epoch != self.epoch:
            self.epoch, self.step, self.current, self.loaded = epoch, 0, None, False

    def observe(self, rows, losses):
        self.losses.update({row: (loss, self.now) for row, loss in zip(rows, losses, strict=True)})
        self.heard |= bool(rows)
        if self.unreported and self.unreported[0] == rows:
            self.unreported.popleft()

    def position(self):
        return (self.epoch, self.step) if self.current is None else (self.current.epoch, self.current.step)

    def consumed(self, batches):
        latest = self.latest if batches else self.epoch
        return (latest if self.current is None else self.current.epoch, batches)

    def state(self, position):
        """A full one; of others the position counts alone."""
        same = self.current is not None and self.current.epoch == position[0]
        beyond = max(0, self.current.step - position[1]) if same else 0
        found = replace(self, delivered=self.delivered - beyond, losses=dict(self.losses), shown=Counter(self.shown))
        found.remembered = {**self.remembered, **self.proposals}
        found.epoch, found.step = position
        return found

    def load(self, state, *, full):
        """The position to go on at, None where an epoch that was set later wins."""
        self.unreported.clear()
        if full:
            self.losses, self.now, self.delivered = dict(state.losses), state.now, state.delivered
            self.shown, self.proposals, self.remembered = Counter(state.shown), {}, dict(state.remembered)
            self.remembered.setdefault(state.epoch, None)
        elif state.epoch not in self.remembered:
            self.proposals = {of: lists for of, lists in self.proposals.items() if of == state.epoch}
        else:
            self.proposals = {}
        boundary = state.step in {0, self.configuration.steps}
        return None if boundary and self.explicit and self.epoch > state.epoch else (state.epoch, state.step)

    def go_on(self, position):
        self.epoch, self.step = position
        self.current, self.latest, self.explicit, self.loaded = None, position[0], False, True
