"""Which epoch comes next, where a pass begins, and which one uses an epoch up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    from spectral_sampler.selection.protocol import Proposal

__all__ = ["EpochCounter", "Pass"]

_LOOK = 1
_AHEAD = 33  # what 16 workers pull before the first batch, and one more


class Pass:
    """One pass over the batches: its epoch, the step it began at, and the batches delivered so far."""

    def __init__(self, epoch: int, step: int, look: int) -> None:
        self.epoch, self.start, self.step = epoch, step, step
        self.look = look
        """So many batches are a look, if no more follow."""
        self.proposal: Proposal | None = None
        """What it offers, where the selection decides that."""


class EpochCounter:
    """The sampler's epoch and position; shared with its candidate order, on which frameworks set the epoch.

    A pass that comes to its end uses its epoch up, and so does one that is left early; but for one left at its first
    batch, which was looked at. (Of a DataLoader with workers, which asks for two iterators and pulls ahead, at the
    first batches.) Setting the epoch assigns it and leaves running passes alone. torchdata applies a loaded state when
    iteration begins, after the training loop has set its epoch: within an epoch the state wins, at the boundary of an
    epoch a later one that was set explicitly does.
    """

    def __init__(self, start: int = 0) -> None:
        self.epoch = start
        self._resume = 0
        self._running: list[Pass] = []
        self._current: Pass | None = None
        """The running pass that delivered last, unless an epoch was set or loaded since."""
        self._latest = start  # epoch of the pass that began last
        self._explicit = self._loaded = False  # set, or loaded, since the last pass began
        self._look = _LOOK

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": [], "_current": None}  # those are the original's

    def set(self, epoch: int) -> None:
        """The next pass is ``epoch``; a loaded position within the same epoch stays."""
        epoch = whole_number("epoch", epoch, 0, "Epochs count from 0.")
        self._explicit = True
        if epoch != self.epoch:
            self.epoch, self._resume, self._current, self._loaded = epoch, 0, None, False

    def overrules(self, epoch: int, step: int, steps: int) -> bool:
        """Does an epoch set before win over the state (epoch, step)?"""
        return step in {0, steps} and self._explicit and self.epoch > epoch

    def load(self, epoch: int, step: int) -> None:
        """The next pass continues ``epoch`` at ``step``."""
        self.epoch, self._resume, self._current, self._latest = epoch, step, None, epoch
        self._explicit, self._loaded = False, True

    def begin(self, position: tuple[int, int] | None) -> Pass:
        """A pass begins, at ``position`` (epoch, step) or wherever the next one is due."""
        begun = Pass(*((self.epoch, self._resume) if position is None else position), self._look)
        self._look = _LOOK
        self.epoch = self._latest = begun.epoch
        self._resume, self._current = 0, begun
        self._explicit = self._loaded = False
        self._running.append(begun)
        return begun

    def delivered(self, which: Pass) -> None:
        """One batch more of a running pass."""
        which.step += 1
        self._current = which

    def asked_twice(self) -> None:
        """An iterator was dropped that never began, as a DataLoader with workers does."""
        self._look = _AHEAD

    @property
    def alone(self) -> bool:
        """Is at most one pass running?"""
        return len(self._running) <= 1

    def end(self, which: Pass, *, exhausted: bool, heard: bool) -> bool:
        """A pass is over. False where its epoch starts over; ``heard``: losses were reported, so it was trained on."""
        if which in self._running:
            self._running.remove(which)
        others = [other for other in self._running if other.epoch == which.epoch]
        if self._current is which:
            self._current = others[-1] if others and not exhausted else None
        if self.epoch != which.epoch or self._loaded or (others and not exhausted):
            return True
        used = exhausted or heard or which.step - which.start > which.look
        self.epoch, self._resume = (which.epoch + 1, 0) if used else (which.epoch, which.start)
        return used

    def beyond(self, epoch: int, step: int) -> int:
        """How many batches the running pass has delivered beyond a position in it."""
        current = self._current
        return max(0, current.step - step) if current is not None and current.epoch == epoch else 0

    def position(self) -> tuple[int, int]:
        """(epoch, batches delivered) of the running pass, else of the next one."""
        return (self.epoch, self._resume) if self._current is None else (self._current.epoch, self._current.step)

    def epoch_of(self, consumed: int) -> int:
        """The epoch in which ``consumed`` batches have been trained on; the sampler itself may have finished it."""
        if self._current is not None:
            return self._current.epoch
        return self._latest if consumed else self.epoch
