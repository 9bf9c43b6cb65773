// Made by `python spectral_sampler/limits.py`, which says what each of these is; do not edit.
#pragma once

namespace spectral {

constexpr float kUlp = 1.1920928955078125e-07f;
constexpr float kStop = 1.0f;
constexpr float kResidual = 16.0f;
constexpr float kGap = 32.0f;
constexpr float kUneven = 16.0f;
constexpr float kSide = 0.01f;
constexpr float kApart = 0.25f;
constexpr int kProbeSalt = 24301;
constexpr int kRounds = 4;
constexpr int kMostSteps = 1024;
constexpr int kNormRows = 16;
constexpr int kRefined = 192;
constexpr float kClose = 0.15f;
constexpr int kMostLocked = 3;
constexpr int kRefineSteps = 8;
constexpr float kWorst = 2.8284271247461903f;
constexpr float kAbove = 4.0f;

enum Status : long long { kConverged = 1, kDegenerate = 2, kIndefinite = 4, kInvalid = 8 };

}  // namespace spectral
