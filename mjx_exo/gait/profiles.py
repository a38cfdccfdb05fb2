"""Two torque curves side by side: how alike they are, how strong, and which comes later.

Used wherever a torque is judged: student against teacher, device against simulation, exoskeleton against the hip's own
moment. Torque is flexion positive, so the extension peak is the minimum of a curve.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from mjx_exo.gait.norms import PERCENT, parabola_offset, pearson

NAN = float("nan")
FAINT = 0.05
"""A peak below this share of the curve's own range is no peak, and its lag is nan."""
HARMONICS = 8
"""Up to about 7 Hz at a usual stride, which is more than a hip torque has."""


@dataclass(frozen=True)
class PeakLags:
    """How much later the second curve is, in ms; negative when it leads. nan where a curve has no such peak."""

    extension_ms: float
    flexion_ms: float
    cross_correlation_ms: float


@dataclass(frozen=True)
class ProfileComparison:
    """A measured torque over the gait cycle against a reference.

    `r_mean`, `rmse_mean_nm_kg`: stride means against each other. `r_raw`, `rmse_raw_nm_kg`: every measured stride
    against the reference's mean. `amplitude_ratio`: peak to peak of the means, measured over reference.
    """

    r_mean: float
    r_raw: float
    rmse_mean_nm_kg: float
    rmse_raw_nm_kg: float
    amplitude_ratio: float
    lag_extension_ms: float
    lag_flexion_ms: float
    lag_cross_correlation_ms: float
    reference_strides: int
    measured_strides: int

    def as_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class SeriesComparison:
    """Two torques sampled at the same instants, as a student and its teacher in the same states."""

    r: float
    rmse_nm_kg: float
    amplitude_ratio: float  # of the standard deviations

    def as_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


def compare_profiles(reference: np.ndarray, measured: np.ndarray, stride_time_s: float) -> ProfileComparison:
    """Compares torques [S, 101] Nm/kg (or [101]) over 0..100 % of the gait cycle; sides may be stacked as strides.

    `stride_time_s` turns percent into ms. Raises ValueError when either has no strides.
    """
    reference, measured = np.atleast_2d(reference), np.atleast_2d(measured)
    if not reference.size or not measured.size:
        raise ValueError("no strides to compare")
    ours, theirs = measured.mean(axis=0), reference.mean(axis=0)
    expected = np.broadcast_to(theirs[:-1], (len(measured), PERCENT.size - 1))
    lags = peak_lags(theirs, ours, stride_time_s)
    return ProfileComparison(
        r_mean=pearson(ours[:-1], theirs[:-1]),
        r_raw=pearson(measured[:, :-1], expected),
        rmse_mean_nm_kg=_rms(ours[:-1] - theirs[:-1]),
        rmse_raw_nm_kg=_rms(measured[:, :-1] - expected),
        amplitude_ratio=_ratio(np.ptp(ours), np.ptp(theirs)),
        lag_extension_ms=lags.extension_ms,
        lag_flexion_ms=lags.flexion_ms,
        lag_cross_correlation_ms=lags.cross_correlation_ms,
        reference_strides=len(reference),
        measured_strides=len(measured),
    )


def compare_series(reference: np.ndarray, measured: np.ndarray) -> SeriesComparison:
    """Compares two arrays of one shape, e.g. [T, 2] Nm/kg, sample by sample, where both are finite."""
    reference, measured = np.asarray(reference, float), np.asarray(measured, float)
    keep = np.isfinite(reference) & np.isfinite(measured)
    reference, measured = reference[keep], measured[keep]
    if not reference.size:
        return SeriesComparison(NAN, NAN, NAN)
    return SeriesComparison(
        pearson(measured, reference), _rms(measured - reference), _ratio(float(measured.std()), float(reference.std()))
    )


def peak_lags(reference: np.ndarray, measured: np.ndarray, stride_time_s: float) -> PeakLags:
    """How much later the peaks of `measured` [101] come than those of `reference` [101], both periodic.

    A lag is counted the short way round the cycle, so it lies within half a stride.
    """
    to_ms = 1000.0 * stride_time_s / 100.0
    lags = []
    for sign in (-1.0, 1.0):
        here, there = peak_percent(sign * measured), peak_percent(sign * reference)
        lags.append(_short_way(here - there) * to_ms)
    return PeakLags(lags[0], lags[1], cross_correlation_lag_percent(reference, measured) * to_ms)


def peak_percent(profile: np.ndarray) -> float:
    """Where a periodic curve [101] has its maximum, percent, between the samples; nan when it is hardly positive.

    The curve's first `HARMONICS` harmonics are searched, since a little noise moves the top of a flat peak a long way.
    """
    spectrum = np.fft.rfft(np.asarray(profile, float)[:-1])
    spectrum[HARMONICS + 1 :] = 0.0
    cycle = np.fft.irfft(spectrum, PERCENT.size - 1)
    top = int(np.argmax(cycle))
    if not cycle[top] > FAINT * np.ptp(cycle):
        return NAN
    return float((top + parabola_offset(cycle[top - 1], cycle[top], cycle[(top + 1) % cycle.size])) % 100.0)


def cross_correlation_lag_percent(reference: np.ndarray, measured: np.ndarray) -> float:
    """The shift of `reference` [101] along the cycle that fits `measured` [101] best, percent, within half a stride."""
    a, b = (np.asarray(x, float)[:-1] - np.mean(np.asarray(x, float)[:-1]) for x in (reference, measured))
    if not np.any(a) or not np.any(b):
        return NAN
    likeness = np.fft.irfft(np.fft.rfft(b) * np.conj(np.fft.rfft(a)), a.size)
    top = int(np.argmax(likeness))
    offset = parabola_offset(likeness[top - 1], likeness[top], likeness[(top + 1) % a.size])
    return _short_way(top + offset)


def _short_way(percent: float) -> float:
    return float((percent + 50.0) % 100.0 - 50.0)


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


def _ratio(ours: float, theirs: float) -> float:
    return float(ours / theirs) if theirs > 1e-9 else NAN
