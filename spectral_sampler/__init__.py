"""Train on the part of every batch that is worth it, without touching the training loop.

>>> from spectral_sampler import ReferenceStore, SpectralBatchSampler
>>> sampler = SpectralBatchSampler(store, dataset=dataset, candidate_batch_size=128)  # doctest: +SKIP
>>> loader = DataLoader(dataset, batch_sampler=sampler)  # doctest: +SKIP
"""

from spectral_sampler.class_balanced import ClassBalancedSampler
from spectral_sampler.errors import ArgumentError, BackendUnavailable, StoreError
from spectral_sampler.estimates.label_noise import LabelNoise, label_noise, suspects
from spectral_sampler.fiedler import FiedlerResult, Status, fiedler_rows, fiedler_vector
from spectral_sampler.indexed import Indexed
from spectral_sampler.loader import curate
from spectral_sampler.ops import explain, use_backend
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.schedule import (
    AggressiveAIMD,
    BanditSchedule,
    ConstantSchedule,
    GammaSchedule,
    LinearSchedule,
    MellowAIMD,
    PlateauSchedule,
    SigmoidSchedule,
    SincSchedule,
    SinusoidSchedule,
)
from spectral_sampler.selection import (
    EL2N,
    GSTDS,
    JEST,
    SALN,
    UDS,
    BayesianSelection,
    Chain,
    DivBS,
    Forgetting,
    GradientNorm,
    Guarded,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    LossWeighted,
    Mix,
    OnlineSelection,
    PlausibleEven,
    PlausibleLearnable,
    RHOLoss,
    SensitivitySampling,
    SeTa,
    SpectralStrata,
    Uniform,
)
from spectral_sampler.store import ReferenceStore

__version__ = "0.1.0"

__all__ = [
    "EL2N",
    "GSTDS",
    "JEST",
    "SALN",
    "UDS",
    "AggressiveAIMD",
    "ArgumentError",
    "BackendUnavailable",
    "BanditSchedule",
    "BayesianSelection",
    "Chain",
    "ClassBalancedSampler",
    "ConstantSchedule",
    "DivBS",
    "FiedlerResult",
    "Forgetting",
    "GammaSchedule",
    "GradientNorm",
    "Guarded",
    "Herding",
    "Indexed",
    "InfoBatch",
    "KCentre",
    "LabelNoise",
    "Leverage",
    "LinearSchedule",
    "LossWeighted",
    "MellowAIMD",
    "Mix",
    "OnlineSelection",
    "PlateauSchedule",
    "PlausibleEven",
    "PlausibleLearnable",
    "RHOLoss",
    "ReferenceStore",
    "SeTa",
    "SensitivitySampling",
    "SigmoidSchedule",
    "SincSchedule",
    "SinusoidSchedule",
    "SpectralBatchSampler",
    "SpectralStrata",
    "Status",
    "StoreError",
    "Uniform",
    "curate",
    "explain",
    "fiedler_rows",
    "fiedler_vector",
    "label_noise",
    "suspects",
    "use_backend",
]
