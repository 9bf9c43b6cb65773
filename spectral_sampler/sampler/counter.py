"""Which epoch comes next, and where a pass is to begin."""

from __future__ import annotations

__all__ = ["EpochCounter"]


class EpochCounter:
    """The sampler's epoch and position.

    A pass is an epoch, also one left early; setting the epoch assigns it and leaves a running pass alone. torchdata
    applies a loaded state when iteration begins, after the training loop has set its epoch: within an epoch the state
    wins, at the boundary of an epoch a later one that was set explicitly does.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._resume = 0
        self._running: tuple[int, int] | None = None
        self._latest = 0  # epoch of the pass that began last
        self._explicit = self._loaded = False  # set, or loaded, since the last pass began

    def set(self, epoch: int) -> None:
        """The next pass is ``epoch``; a loaded position within the same epoch stays."""
        self._explicit = True
        if epoch != self.epoch:
            self.epoch, self._resume, self._running, self._loaded = epoch, 0, None, False

    def overrules(self, epoch: int, step: int, steps: int) -> bool:
        """Does an epoch set before win over the state (epoch, step)?"""
        return step in {0, steps} and self._explicit and self.epoch > epoch

    def load(self, epoch: int, step: int) -> None:
        """The next pass continues ``epoch`` at ``step``."""
        self.epoch, self._resume, self._running, self._latest = epoch, step, None, epoch
        self._explicit, self._loaded = False, True

    def begin(self, position: tuple[int, int] | None) -> tuple[int, int]:
        """A pass begins, at ``position`` or wherever the next one is due; returns (epoch, step)."""
        epoch, step = (self.epoch, self._resume) if position is None else position
        self.epoch = self._latest = epoch
        self._resume, self._running = 0, (epoch, step)
        self._explicit = self._loaded = False
        return epoch, step

    def delivered(self, epoch: int, step: int) -> None:
        """``step`` batches of the running pass have been delivered."""
        self._running = (epoch, step)

    def end(self, epoch: int) -> None:
        """The pass of ``epoch`` is over."""
        if self._running is not None and self._running[0] == epoch:
            self._running = None
        if self.epoch == epoch and not self._loaded:
            self.epoch, self._resume = epoch + 1, 0

    def position(self) -> tuple[int, int]:
        """(epoch, batches delivered) of the running pass, else of the next one."""
        return (self.epoch, self._resume) if self._running is None else self._running

    def epoch_of(self, consumed: int) -> int:
        """The epoch in which ``consumed`` batches have been trained on; the sampler itself may have finished it."""
        if self._running is not None:
            return self._running[0]
        return self._latest if consumed else self.epoch
