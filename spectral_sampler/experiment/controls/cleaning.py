"""Wrong labels left out once, before an otherwise ordinary training: by suspicion, by confident learning, by truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.estimates.label_noise import suspects
from spectral_sampler.experiment.controls.confident_learning import label_issues
from spectral_sampler.experiment.controls.probe import FOLDS, out_of_sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.experiment.policy import Material

__all__ = ["cleaning_record", "confidently_wrong", "suspected", "truly_wrong"]


def suspected(material: Material) -> NDArray[np.bool_]:
    """(M,) those that `PlausibleEven` would not draw (`suspects`)."""
    return suspects(material.reference.store)


def confidently_wrong(material: Material) -> NDArray[np.bool_]:
    """(M,) those that confident learning prunes (`label_issues`), from a cross-validated probe on the same features."""
    return label_issues(out_of_sample(material).probabilities, material.train.labels, FOLDS)


def truly_wrong(material: Material) -> NDArray[np.bool_]:
    """(M,) those whose labels were made wrong: known to nobody but who did it."""
    return material.corrupted.wrong


def cleaning_record(left_out: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """What was left out (M,) beside what is wrong (M,), for the result.

    The share of the rows left out; the share of those that are wrong, and of the wrong ones that are left out, None
    where that is none: where no label was made wrong, nobody knows which of somebody's own are.
    """
    count, right, all_wrong = int(left_out.sum()), int((left_out & wrong).sum()), int(wrong.sum())
    return {
        "rows": count,
        "share": count / len(left_out),
        "precision": right / count if count and all_wrong else None,
        "recall": right / all_wrong if all_wrong else None,
    }
