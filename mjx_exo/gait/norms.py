"""What walking people do, as numbers to be compared with, each with its source.

The joint and force curves are the adult norms of SCONE's gait analysis (level ground, comfortable speed; population
and speed are not stated there). Hip flexion there is relative to a pelvis that is tilted about 9 degrees forward
(band 2 to 16), so a hip curve is compared both as it is and with the means removed. Angles are degrees here because
this is a table that people read; `curve` and `distance` say their units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

PERCENT = np.arange(101.0)
"""[101] the gait-cycle grid of every curve in this package: 0 and 100 are successive heel strikes of one foot."""

# Rows: (percent of the gait cycle, mean, lower edge of the band, upper edge).
_HIP_FLEXION_DEG = (
    (0, 33.0, 25.2, 40.8), (4, 32.5, 24.3, 40.7), (8, 31.2, 22.5, 39.9), (12, 28.1, 19.1, 37.1),
    (16, 24.0, 14.7, 33.3), (20, 19.7, 10.5, 29.0), (24, 14.9, 5.8, 24.1), (28, 9.9, 1.0, 18.9),
    (32, 5.2, -3.5, 13.9), (36, 0.9, -7.6, 9.4), (40, -2.9, -11.4, 5.6), (44, -5.8, -14.2, 2.5),
    (48, -7.6, -15.7, 0.5), (52, -8.3, -16.1, -0.5), (56, -6.7, -14.5, 1.1), (60, -2.3, -10.4, 5.8),
    (64, 5.0, -3.6, 13.5), (68, 12.9, 4.4, 21.5), (72, 20.2, 11.8, 28.6), (76, 26.3, 18.0, 34.7),
    (80, 30.9, 22.6, 39.2), (84, 33.4, 25.1, 41.7), (88, 33.5, 25.1, 41.8), (92, 32.0, 23.8, 40.3),
    (96, 31.4, 23.6, 39.3), (100, 32.0, 24.1, 40.0),
)  # fmt: skip
_KNEE_FLEXION_DEG = (
    (0, 7.9, 4.4, 11.5), (4, 11.9, 8.2, 15.6), (8, 17.4, 13.1, 21.8), (12, 19.4, 14.7, 24.2),
    (16, 18.1, 12.9, 23.3), (20, 16.2, 10.6, 21.7), (24, 14.0, 8.5, 19.5), (28, 11.5, 6.4, 16.6),
    (32, 9.1, 4.4, 13.7), (36, 7.5, 3.1, 11.9), (40, 7.3, 2.9, 11.6), (44, 8.6, 4.4, 12.8),
    (48, 11.9, 7.8, 16.0), (52, 17.0, 12.3, 21.7), (56, 25.2, 19.2, 31.3), (60, 37.2, 30.2, 44.1),
    (64, 50.4, 43.6, 57.2), (68, 59.8, 54.2, 65.4), (72, 63.4, 58.5, 68.2), (76, 61.3, 56.4, 66.3),
    (80, 54.2, 48.3, 60.2), (84, 42.4, 35.0, 49.8), (88, 26.8, 18.5, 35.1), (92, 11.6, 4.3, 19.0),
    (96, 4.0, -1.3, 9.2), (100, 7.0, 2.9, 11.1),
)  # fmt: skip
_ANKLE_DORSIFLEXION_DEG = (
    (0, -2.3, -5.1, 0.4), (4, -6.2, -9.3, -3.0), (8, -4.6, -6.7, -2.4), (12, -0.5, -3.2, 2.2),
    (16, 2.3, -0.4, 5.1), (20, 4.4, 1.7, 7.2), (24, 6.4, 3.6, 9.1), (28, 7.9, 5.2, 10.7),
    (32, 9.2, 6.4, 12.0), (36, 10.7, 8.1, 13.4), (40, 12.0, 9.3, 14.8), (44, 12.4, 9.3, 15.5),
    (48, 11.1, 7.4, 14.9), (52, 6.6, 1.5, 11.7), (56, -3.4, -11.1, 4.4), (60, -15.3, -24.2, -6.5),
    (64, -19.9, -27.7, -12.1), (68, -14.6, -20.6, -8.5), (72, -7.3, -12.4, -2.2), (76, -1.8, -6.0, 2.4),
    (80, 1.4, -2.5, 5.3), (84, 2.7, -0.5, 6.0), (88, 1.3, -1.7, 4.2), (92, -1.1, -4.0, 1.9),
    (96, -2.5, -5.3, 0.4), (100, -2.3, -5.1, 0.5),
)  # fmt: skip
_VERTICAL_FORCE_BW = (
    (0, 0.0, 0.0, 0.0), (4, 0.58, 0.47, 0.7), (8, 0.8, 0.69, 0.92), (12, 1.03, 0.91, 1.15),
    (16, 1.04, 0.97, 1.12), (20, 0.95, 0.89, 1.02), (24, 0.85, 0.77, 0.93), (28, 0.8, 0.72, 0.89),
    (32, 0.81, 0.73, 0.89), (36, 0.87, 0.81, 0.93), (40, 0.97, 0.91, 1.02), (44, 1.08, 1.01, 1.16),
    (48, 1.14, 1.07, 1.21), (52, 1.05, 0.95, 1.15), (56, 0.68, 0.47, 0.88), (60, 0.19, 0.02, 0.37),
    (64, 0.01, -0.02, 0.05), (68, 0.0, 0.0, 0.0), (72, 0.0, 0.0, 0.0), (76, 0.0, 0.0, 0.0),
    (80, 0.0, 0.0, 0.0), (84, 0.0, 0.0, 0.0), (88, 0.0, 0.0, 0.0), (92, 0.0, 0.0, 0.0),
    (96, 0.0, 0.0, 0.0), (100, 0.0, 0.0, 0.0),
)  # fmt: skip

_TABLES = {
    "hip_flexion": _HIP_FLEXION_DEG,
    "knee_flexion": _KNEE_FLEXION_DEG,
    "ankle_dorsiflexion": _ANKLE_DORSIFLEXION_DEG,
    "vertical_force": _VERTICAL_FORCE_BW,
}

JOINT_CURVES = ("hip_flexion", "knee_flexion", "ankle_dorsiflexion")
"""Names of the angle curves, in degrees; `vertical_force` is the fourth, in body weights."""

MOMENT_RANGES_NM_KG = {
    "hip_flexion": ((0, -0.77, -0.11), (25, -0.42, 0.25), (50, 0.10, 0.98), (75, -0.06, 0.17)),
    "knee_flexion": ((0, 0.08, 0.39), (25, -0.21, 0.45), (50, 0.01, 0.51), (75, -0.12, 0.00)),
    "ankle_dorsiflexion": ((0, -0.03, 0.07), (25, -1.21, -0.25), (50, -1.92, -0.99), (75, 0.0, 0.03)),
}
"""Rows (percent, low, high): 95 % range of the joint moment at 0.8 to 1.2 m/s, University of Michigan 2021 data.
Flexion and dorsiflexion positive, as everywhere in this project."""

STANCE_PERCENT = 62.0
"""Stance at a comfortable speed, percent of the cycle (common knowledge of the field)."""

WALK_RUN_TRANSITION_M_S = 2.0
MOST_ECONOMICAL_SPEED_M_S = {"gross": 1.43, "net": 1.14}
"""On the level; eleven trained men, Abe et al. 2015, PLoS ONE 10(9):e0138154. At ±5 % gradient gross 1.46 to 1.49."""
NET_COST_OF_TRANSPORT_J_KG_M = (1.4, 2.0)
"""(speed m/s, J/kg/m), derived from 2.74 J/kg per stride."""
HUMAN_COST_ERROR_W_KG = {"level": 0.20, "slope": 0.42}
"""Standard error of `gross_metabolic_rate_w_kg` against measured people, Looney et al. 2019."""
NET_METABOLIC_RATE_W_KG = (1.25, 1.8, 4.1)
"""(speed m/s, lowest, highest of eight people), Luo et al. 2024, Nature 630:353."""

STRIDE_LENGTH_POINTS = ((1.45, 1.44),)
"""(speed m/s, stride length m): mean of 14 adults."""
STRIDE_FREQUENCY_POINTS = ((1.45, 1.02), (1.27, 1.0 / 1.12))
"""(speed m/s, stride frequency Hz): mean of 14 adults, and a stride time of 1.12 s."""


@dataclass(frozen=True)
class NormCurve:
    """A human curve over the gait cycle: `mean`, `low`, `high` are [101], in the unit of the table it came from."""

    name: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def periodic_curve(percent: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Shape-keeping (PCHIP) interpolation of one cycle, continued periodically.

    `percent` [K] ascending within 0..100, `values` [K], `at` any shape in percent, wrapped into the cycle. Where the
    rows at 0 and at 100 both exist and differ, as the printed norms do by up to one degree, both ends take their mean:
    they are the same instant of the gait.
    """
    percent, values = np.asarray(percent, float), np.asarray(values, float)
    if percent[0] == 0.0 and percent[-1] == 100.0:
        values = np.concatenate([[(values[0] + values[-1]) / 2.0], values[1:-1]])
        percent = percent[:-1]
    knots = np.concatenate([percent - 100.0, percent, percent + 100.0])
    return PchipInterpolator(knots, np.tile(values, 3))(np.mod(np.asarray(at, float), 100.0))


def curve(name: str, at: np.ndarray = PERCENT) -> NormCurve:
    """The norm of `hip_flexion`, `knee_flexion`, `ankle_dorsiflexion` (degrees) or `vertical_force` (body weights)."""
    table = np.array(_TABLES[name])
    mean, low, high = (periodic_curve(table[:, 0], table[:, column], at) for column in (1, 2, 3))
    return NormCurve(name, mean, low, high)


def thigh_reversal_percent() -> float:
    """Where in the cycle the thigh turns back, by the fundamental of the norm's hip flexion: its maximum, percent.

    This is the event found in a thigh gyroscope (`contact.thigh_reversals`), so it places strides found from a
    gyroscope alone on the same axis as strides that start with heel strike. The slow pelvic tilt is neglected.
    """
    angle_deg = np.array(_HIP_FLEXION_DEG)[:-1, 1]  # the last row repeats the first instant
    return float(-np.angle(np.fft.rfft(angle_deg)[1]) / (2.0 * np.pi) * 100.0 % 100.0)


@dataclass(frozen=True)
class Distance:
    """How far a curve is from a norm; `rmse` and `rmse_centred` in the curve's unit, the rest without unit."""

    r: float
    rmse: float
    rmse_centred: float
    share_in_band: float
    share_in_band_centred: float


def distance(values: np.ndarray, norm: NormCurve) -> Distance:
    """Compares `values` [101] with a norm on the same grid and in the same unit.

    The last point repeats the first instant of the cycle and is left out of the sums. `centred` figures have the means
    of both curves removed, which takes out how a laboratory defines the pelvis.
    """
    own, mean, low, high = (np.asarray(x, float)[:-1] for x in (values, norm.mean, norm.low, norm.high))
    shift = own.mean() - mean.mean()
    return Distance(
        r=pearson(own, mean),
        rmse=float(np.sqrt(np.mean((own - mean) ** 2))),
        rmse_centred=float(np.sqrt(np.mean((own - shift - mean) ** 2))),
        share_in_band=float(np.mean((own >= low) & (own <= high))),
        share_in_band_centred=float(np.mean((own - shift >= low) & (own - shift <= high))),
    )


def moments_in_range(name: str, moment_nm_kg: np.ndarray) -> float:
    """Share of the tabled instants (0, 25, 50, 75 %) at which a moment curve [101] Nm/kg lies in the human range."""
    rows = MOMENT_RANGES_NM_KG[name]
    return float(np.mean([low <= moment_nm_kg[percent] <= high for percent, low, high in rows]))


def parabola_offset(before: float, at: float, after: float) -> float:
    """Where a parabola through three equally spaced samples has its extremum, in samples from the middle one."""
    curvature = before - 2.0 * at + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature else 0.0


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two arrays of one shape; nan when either does not vary."""
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 * max(1.0, a.size) else float("nan")


def stride_frequency_hz(speed_m_s: np.ndarray | float) -> np.ndarray:
    """Human stride frequency against walking speed, Hz: a square-root law through `STRIDE_FREQUENCY_POINTS`.

    That step length grows with the root of speed, and so frequency too, was measured on a treadmill (five men, Ann
    Physiol Anthropol 3:291, 1984); only the scale is fitted here, so far from 1.3 to 1.5 m/s the line is a guide.
    """
    points = np.array(STRIDE_FREQUENCY_POINTS)
    scale = np.mean(points[:, 1] / np.sqrt(points[:, 0]))
    return scale * np.sqrt(np.maximum(np.asarray(speed_m_s, float), 0.0))


def gross_metabolic_rate_w_kg(speed_m_s: np.ndarray | float, slope_rad: np.ndarray | float = 0.0) -> np.ndarray:
    """What walking costs people in all, W per kg of body mass, against speed and slope (uphill positive).

    The LCDA equation of Looney et al. 2019 (Med Sci Sports Exerc 51:1954; 95 people in 11 studies, up to 1.96 m/s and
    gradients of -40 to 45 %): 1.44 standing, 1.94 v^0.43 + 0.24 v^4 for level walking, and a term of the gradient.
    """
    speed, gradient_percent = np.asarray(speed_m_s, float), 100.0 * np.tan(np.asarray(slope_rad, float))
    grade = 0.34 * speed * gradient_percent * (1.0 - 1.05 ** (1.0 - 1.1 ** (gradient_percent + 32.0)))
    return 1.44 + 1.94 * speed**0.43 + 0.24 * speed**4 + grade


def gross_cost_of_transport_j_kg_m(speed_m_s: np.ndarray | float, slope_rad: np.ndarray | float = 0.0) -> np.ndarray:
    """`gross_metabolic_rate_w_kg` over speed, J per kg of body mass and metre."""
    return gross_metabolic_rate_w_kg(speed_m_s, slope_rad) / np.asarray(speed_m_s, float)


def stride_length_m(speed_m_s: np.ndarray | float) -> np.ndarray:
    """Human stride length against walking speed, m: speed over `stride_frequency_hz` (0 at standstill)."""
    speed = np.maximum(np.asarray(speed_m_s, float), 0.0)
    frequency = stride_frequency_hz(speed)
    return np.divide(speed, frequency, out=np.zeros_like(speed), where=frequency > 0)
