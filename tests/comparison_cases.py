"""A comparison whose numbers are known, without training anything."""

POLICIES = ["full", "full-equal-compute", "uniform", "loss-weighted", "saln", "gstds"]
ACCURACIES = {
    "full": [0.90, 0.92, 0.91],
    "full-equal-compute": [0.88, 0.87, 0.89],
    "uniform": [0.85, 0.88, 0.86],
    "loss-weighted": [0.84, 0.89, 0.85],
    "saln": [0.70, 0.74, 0.71],
    "gstds": [0.90, 0.93, 0.909],
}


def cell(policy: str, seed: int, noisy: bool = False) -> dict:
    samples = 1000 if policy == "full" else 300
    accuracy = ACCURACIES[policy][seed]
    curve = [
        {"step": 10 * k, "samples": samples * k // 3, "training_loss": 1.0 / k, "test_accuracy": accuracy * k / 3,
         "test_loss": 1.0}
        for k in (1, 2, 3)
    ]  # fmt: skip
    found = {
        "policy": policy, "seed": seed, "samples": samples, "test_accuracy": accuracy, "curve": curve,
        "learner_flops": 1e6 * samples, "seconds": {"selection": 1.0 + seed, "data": 0.5, "training": 2.0},
        "wrong_label_share": 0.1 if noisy else 0.0,
        "selected_per_class": [[samples // 6, samples // 6]] * 3,
        "corruption": {"rows_per_class": [60, 40]},
    }  # fmt: skip
    if policy in {"saln", "gstds"}:
        kinds = ["spectral", "weighted", "rejected", "rejected"]
        found["pictured_batch"] = {
            "batch": 1, "points": [[0, 1], [1, 0], [2, 2], [3, 1]], "variance_shares": [0.5, 0.3],
            "labels": [0, 1, 0, 1],
            "moments": [{"epoch": epoch, "keep_ratio": 0.5, "kinds": kinds} for epoch in (1, 3)],
        }  # fmt: skip
    return found


def comparison(seeds: int = 3, noisy: bool = False) -> dict:
    return {
        "settings": {"data": "digits", "epochs": 3, "schedule": "sigmoid"},
        "policies": POLICIES,
        "seeds": list(range(seeds)),
        "classes": ["cat", "dog"],
        "keep_ratios": [0.2, 0.3, 0.4],
        "cells": [cell(policy, seed, noisy) for policy in POLICIES for seed in range(seeds)],
    }
