"""What the sampler did since its latest pass began, as flat floats for any ``log(dict, step)``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.fiedler import Status

if TYPE_CHECKING:
    from spectral_sampler.sampler.choosing import Decision
    from spectral_sampler.sampler.scoring import Candidates

__all__ = ["Statistics"]

_log = logging.getLogger("spectral_sampler")
_FLAGS = {"degenerate_share": Status.DEGENERATE, "indefinite_share": Status.INDEFINITE}


class Statistics:
    """Counters of one pass; shares refer to the batches that were scored in it."""

    def __init__(self) -> None:
        self._warned = False
        self.restart(0)

    def restart(self, epoch: int) -> None:
        """Forget everything but the warning already given."""
        self.epoch, self.batches, self.candidates, self.kept_total, self.kept = epoch, 0, 0, 0, 0
        self.ratio, self.scored, self.certified, self.unconverged, self.matvecs = 0.0, 0, 0, 0, 0
        self.flags = dict.fromkeys(_FLAGS, 0)
        self.nonfinite = self.zero_weight_draws = self.asked = self.known = self.stale = self.forwarded = 0
        self.seconds_waiting = self.seconds_selecting = self.seconds_forwarding = 0.0

    def add(self, candidates: Candidates, decision: Decision, stale: int, waited: float, selecting: float) -> None:
        """Count one delivered batch, ``stale`` of whose candidates had a loss that was too old; warn once where items
        of weight zero had to be drawn."""
        choice, offered = decision.choice, decision.offered
        self.batches += 1
        self.forwarded += decision.forwarded
        self.seconds_forwarding += decision.seconds
        if offered is not None and offered.learner_losses is not None:
            self.asked += len(offered.learner_losses)
            self.known += int(np.count_nonzero(np.isfinite(offered.learner_losses)))
            self.stale += stale
        self.seconds_waiting += waited
        self.seconds_selecting += selecting
        self.candidates += len(candidates.indices)
        self.kept = len(choice.positions)
        self.kept_total += self.kept
        self.ratio = candidates.slot.ratio
        if candidates.score is not None:
            status = candidates.score.status
            self.scored += 1
            self.certified += bool(choice.certified)
            self.unconverged += not status & Status.CONVERGED
            self.matvecs += candidates.score.matvecs
            for name, flag in _FLAGS.items():
                self.flags[name] += bool(status & flag)
        self.nonfinite += choice.nonfinite
        self.zero_weight_draws += choice.zero_weight_draws
        if choice.zero_weight_draws and not self._warned:
            self._warned = True
            _log.warning(
                "epoch %d, candidate batch %d: %d of %d selected samples have weight zero, because too few others "
                'were left; statistics()["spectral/zero_weight_draws"] counts them (this is said once)',
                self.epoch,
                candidates.slot.number,
                choice.zero_weight_draws,
                self.kept,
            )

    def as_floats(self, *, forwards: bool) -> dict[str, float]:
        """``spectral/…``: floats only."""
        scored = max(1, self.scored)
        values = {
            "epoch": self.epoch,
            "batches": self.batches,
            "keep_ratio": self.ratio,
            "kept": self.kept,
            "kept_total": self.kept_total,
            "candidates_total": self.candidates,
            "certified_share": self.certified / scored,
            "unconverged_share": self.unconverged / scored,
            **{name: count / scored for name, count in self.flags.items()},
            "matvecs": self.matvecs / scored,
            "seconds_waiting": self.seconds_waiting,
            "seconds_selecting": self.seconds_selecting,
            "zero_weight_draws": self.zero_weight_draws,
            "observed_known_share": self.known / max(1, self.asked),
            "observed_stale_share": self.stale / max(1, self.asked),
        }
        if forwards:
            values |= {"forwarded_total": self.forwarded, "seconds_forwarding": self.seconds_forwarding}
            values["nonfinite_total"] = self.nonfinite
        return {f"spectral/{name}": float(value) for name, value in values.items()}
