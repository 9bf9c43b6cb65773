"""The demo: handwritten digits with right labels, where selection hardly matters, and with wrong ones: here it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_sampler.experiment.cell import Places
from spectral_sampler.experiment.page import write_page
from spectral_sampler.experiment.policies import DEFAULT, FULL, FULL_EQUAL_COMPUTE
from spectral_sampler.experiment.report import check_writable, headline, rows, table
from spectral_sampler.experiment.runner import Comparison, compare
from spectral_sampler.experiment.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Condition", "conditions", "demo", "summary"]

_SEEDS, _EPOCHS = 5, 30
_QUICK_EPOCHS = 12
_QUICK_POLICIES = ("gstds", "plausible-even")  # besides the controls
_CONTROLS = (FULL, FULL_EQUAL_COMPUTE, "uniform", "small", "clean-once")  # of all the strongest few, for it is a minute


class Condition(NamedTuple):
    """One of the comparisons, which differ in the data alone."""

    name: str
    """Of its folder."""
    title: str
    settings: Settings
    policies: Sequence[str]
    seeds: Sequence[int]


def conditions(*, quick: bool = False) -> list[Condition]:
    """What is compared; ``quick`` with fewer policies and epochs but as many seeds, so that intervals say something."""
    epochs, policies = (_QUICK_EPOCHS, _QUICK_POLICIES) if quick else (_EPOCHS, DEFAULT)
    clean = Settings.of("digits", epochs=epochs)
    noisy = Settings.of("digits", epochs=epochs, label_noise=0.2)
    return [
        Condition("clean-labels", "Clean labels", clean, policies, range(_SEEDS)),
        Condition("wrong-labels", "20 % wrong labels", noisy, policies, range(_SEEDS)),
    ]


def summary(title: str, results: dict[str, Any]) -> str:
    """A condition's title, its table and what it comes to."""
    lines = rows(results["cells"], results["policies"])
    return f"{title}\n{'=' * len(title)}\n{table(lines)}\n\n{headline(lines)}\n"


def demo(
    out: Path,
    *,
    quick: bool = False,
    cache: Path | None = None,
    jobs: int | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Runs every condition into a folder of its own in ``out``, replacing an earlier demo, and says its table.

    Returns the page of all conditions, and their results by the names of their folders.

    Args:
        cache: for the references; None for ``out/cache``.
        jobs: processes; None for the number of cores.
        say: gets text to show, at once.
    """
    places, chosen = Places(cache=(cache or out / "cache").resolve()), conditions(quick=quick)
    check_writable(out, ours=chosen[0].name)
    found = []
    for condition in chosen:
        comparison = Comparison(condition.settings, condition.policies, condition.seeds, out / condition.name, places,
                                jobs, command=command, overwrite=True, controls=_CONTROLS)  # fmt: skip
        results = compare(comparison, say)
        say(summary(condition.title, results))
        found.append((condition, results))
    shown = [(condition.title, results) for condition, results in found]
    page = write_page(out / "index.html", shown, places, title="Does it matter which samples are trained on?")
    return page, {condition.name: results for condition, results in found}
