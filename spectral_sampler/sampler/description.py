"""What a sampler is going to do, in a few lines or as a table: arithmetic of its plan, no score and no sample."""

from __future__ import annotations

import html as escaping
import math
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler.estimates.label_noise import known_label_noise
from spectral_sampler.selection import Chain, GradientNorm, InfoBatch, Leverage, PlausibleEven, SensitivitySampling
from spectral_sampler.selection.protocol import leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.sampler.run import Run

__all__ = ["facts", "html", "text"]

_LONGEST = 160  # characters of a selection's repr
_ROUNDING = 1e-9
_LIKELY = 0.5  # of the labels may be wrong where nobody has estimated it: below this keep ratio nothing is said


class _Course(NamedTuple):
    """(E,) each: what the epochs of the horizon are on this rank, of the next epoch alone where there is none."""

    epochs: list[int]
    ratio: NDArray[np.float64]
    kept: NDArray[np.int64]
    offered: NDArray[np.int64]
    smallest: NDArray[np.int64]
    largest: NDArray[np.int64]
    most: NDArray[np.float64]
    """The largest share of a candidate batch that is kept, but for rounding."""
    sizes: set[int]
    """The smallest and the largest candidate batch."""


def facts(run: Run) -> list[tuple[str, str]]:
    """Names and sentences, at most ten."""
    course = _course(run)
    orders = "" if len(run.order) == len(run.store) else f", {len(run.order)} in the order of an epoch"
    offered = str(run.plan.candidates) if run.plan.batch_size is None else _span(course.sizes)
    asks = "call sampler.observe_next(losses) after every step" if run.listens else "nothing"
    weighing = (InfoBatch, SensitivitySampling, GradientNorm, Leverage)
    if any(isinstance(leaf, weighing) and not getattr(leaf, "deterministic", False) for leaf in leaves(run.acting)):
        asks += "; multiply the losses by sampler.weights_for(indices)"
    rows = [
        ("selection", textwrap.shorten(repr(run.selection), _LONGEST, placeholder=" …")),
        ("data", f"{len(run.store)} samples{orders}, offered {offered} at a time"),
        ("batches", _batches(run, course)),
        ("keep ratio", _ratio(run, course)),
        ("samples", _samples(run, course)),
        ("cost", _cost(run, course)),
        ("next", run.announced(run.counter.epoch)),
        ("to report", asks),
    ]
    return rows + [("note", note) for note in _notes(run, course) if note]


def _notes(run: Run, course: _Course) -> tuple[str | None, ...]:
    return _shrinking(run, course), _readmitting(run, course), _deciding_alone(run, course)


def text(run: Run) -> str:
    """`facts`, one a line."""
    return "\n".join(f"{name:<12}{said}" for name, said in facts(run))


def html(run: Run, title: str) -> str:
    """`facts` as a table that needs nothing else."""
    cells = [f"<th>{escaping.escape(name)}</th><td>{escaping.escape(said)}</td>" for name, said in facts(run)]
    rows = "".join(f'<tr style="text-align: left">{cell}</tr>' for cell in cells)
    return f"<table><caption>{escaping.escape(title)}</caption>{rows}</table>"


def _course(run: Run) -> _Course:
    horizon = run.settings.epochs
    epochs = [run.counter.epoch] if horizon is None else list(range(horizon))
    each, sizes = [], set()
    for epoch in epochs:
        ratios, kept, offered = run.plan.by_step(epoch)
        forced = kept - ratios * offered >= run.settings.multiple_of  # by min_keep, or where there are no more
        most = np.where(forced, kept / offered, ratios).max()
        sizes |= {int(offered.min()), int(offered.max())}
        each.append((ratios.mean(), kept.sum(), offered.sum(), kept.min(), kept.max(), most))
    ratio, kept, offered, smallest, largest, most = (np.array(column) for column in zip(*each, strict=True))
    return _Course(epochs, ratio, kept, offered, smallest, largest, most, sizes)


def _span(sizes: set[int]) -> str:
    return str(min(sizes)) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def _over(course: _Course, values: NDArray[np.int64] | NDArray[np.float64], form: str) -> str:
    """Of the first and the last epoch, and the range where that is wider."""
    low, high, first, last = (format(value, form) for value in (values.min(), values.max(), values[0], values[-1]))
    if len(values) == 1:
        return f"{first} in epoch {course.epochs[0]}"
    if low == high:
        return f"{first} in every epoch"
    beyond = "" if {low, high} <= {first, last} else f", from {low} to {high} an epoch"
    return f"{first} in epoch {course.epochs[0]}, {last} in epoch {course.epochs[-1]}{beyond}"


def _at_most(run: Run) -> str:
    """A selection that proposes may offer fewer, and repeated samples are offered once."""
    return "at most " if run.selection.proposes or run.order.repeats else ""


def _batches(run: Run, course: _Course) -> str:
    plan, share = run.plan, run.settings.num_replicas
    sizes = plan.batch_sizes(proposed=run.selection.proposes, repeats=run.order.repeats)
    said = f"{plan.steps} an epoch{'' if share == 1 else f' on each of {share} ranks'}, of {_span(sizes)} samples"
    if len(sizes) == 1:
        return said
    said += f" ({len(sizes)} sizes)"
    if run.adaptive is not None or len(course.epochs) == 1:
        return said
    ends = [_span({int(course.smallest[end]), int(course.largest[end])}) for end in (0, -1)]
    return f"{said}: {_at_most(run)}{ends[0]} in epoch 0, {ends[1]} in epoch {course.epochs[-1]}"


def _ratio(run: Run, course: _Course) -> str:
    if run.adaptive is not None:
        return f"{run.adaptive.min:.3f} to {run.adaptive.max:.3f}, follows the loss; about {run.adaptive.mean:.3f}"
    ratios = run.plan.ratios
    if ratios.min == ratios.max:
        return f"{ratios.last:.3f} throughout"
    return f"{_over(course, course.ratio, '.3f')}, {ratios.mean:.3f} on average"


def _samples(run: Run, course: _Course) -> str:
    here = "" if run.settings.num_replicas == 1 else " on this rank"
    if run.adaptive is not None:
        return f"about {_expected(run, course)} in {_spanned(run)}{here}"
    total = "" if run.settings.epochs is None else f"; {_at_most(run)}{int(course.kept.sum())} in {_spanned(run)}"
    return f"{_at_most(run)}{_over(course, course.kept, 'd')}{total}{here}"


def _spanned(run: Run) -> str:
    epochs = run.settings.epochs
    return "an epoch" if epochs is None else "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _expected(run: Run, course: _Course) -> int:
    if run.adaptive is not None:
        return round(run.adaptive.mean * float(course.offered.sum()))
    return int(course.kept.sum())


def _cost(run: Run, course: _Course) -> str:
    ranks, statistics = run.settings.num_replicas, run.statistics
    everything = len(run.order) * len(course.epochs)
    share = 100 * ranks * _expected(run, course) / everything
    said = (
        f"{_at_most(run)}{share:.1f} % of the {everything} samples of full training in {_spanned(run)}, chosen among "
        f"{_at_most(run)}{ranks * int(course.offered.sum())} candidates"
    )
    if run.learner is not None:
        said += ", which the learner forwards besides"
    if statistics.batches:
        spent = (statistics.seconds_waiting + statistics.seconds_selecting) / statistics.batches
        said += f"; {1e3 * spent:.2f} ms a batch for the choice, in epoch {statistics.epoch}"
    return said


def _shrinking(run: Run, course: _Course) -> str | None:
    plan, order = run.plan, run.order
    if plan.batch_size is not None or (run.adaptive is None and (course.kept == course.offered).all()):
        return None
    sizes = plan.batch_sizes(proposed=run.selection.proposes, repeats=order.repeats)
    said = f"batches hold {_span(sizes)} samples, not {plan.candidates}, and the learning rate stays as you set it: "
    scale = "sampler.lr_scale(size) says by how much"
    if run.selection.proposes or run.adaptive is not None or order.repeats:  # emit="constant" is refused with these
        return said + scale
    size = plan.candidates // plan.multiple_of * plan.multiple_of
    return f'{said}emit="constant", batch_size={size} keeps the size, and {scale}'


def _readmitting(run: Run, course: _Course) -> str | None:
    """Where more is kept than there are labels to be believed."""
    policy, adaptive = run.acting, run.adaptive
    if not isinstance(policy, PlausibleEven) or policy.label_noise == 0:
        return None
    most = course.most if adaptive is None else np.maximum(course.most, adaptive.max)
    kept, share = f"keeps up to {most.max():.3f}", _suspected(run, policy)
    cure = "multiply the losses by sampler.weights_for(indices)"
    if share is None:
        bound = f"{1.0 - most.max():.3f} of the labels are wrong"
        cap = f"cap the keep ratio at 1 − label noise, or {cure}"
        return f"{kept}: where more than {bound}, suspects come back in; {cap}" if most.max() > _LIKELY else None
    plausible = 1.0 - share + _ROUNDING
    if most.max() <= plausible:
        return None
    since, cap = course.epochs[int(np.argmax(most > plausible))], f"{math.floor(1e3 * plausible) / 1e3:.3f}"
    return (
        f"{kept} from epoch {since} on, and {share:.3f} of the labels are suspected, who come back in above {cap}; "
        f"cap the keep ratio at {cap} (1 − label noise), or {cure}"
    )


def _deciding_alone(run: Run, course: _Course) -> str | None:
    """Where more is kept than a filter was to leave over."""
    policy, most = run.selection, course.most.max() if run.adaptive is None else run.adaptive.max
    if not isinstance(policy, Chain) or most <= policy.share + _ROUNDING:
        return None
    return f"keeps up to {most:.3f}: from {policy.share:g} on {policy.filter.name} decides alone"


def _suspected(run: Run, policy: PlausibleEven) -> float | None:
    """The share of suspects, None where it is not known yet: the estimate is dear."""
    judged = policy.facts(run.store).get("suspect_share", policy.label_noise)
    if judged is not None:
        return float(judged)
    noise = known_label_noise(run.store)
    return None if noise is None else float(noise.suspects().mean())
