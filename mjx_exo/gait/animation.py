"""Walking as moving sticks, without a display and without a GPU: a strip of one stride, and a GIF of a trial."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mjx_exo.errors import UserError
from mjx_exo.gait.figures import SIDE_STYLE, STYLE
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.sticks import CHAINS, with_points
from mjx_exo.gait.strides import Stride

MIDDLE_COLOUR = "#333333"


def stick_strip(recording: Recording, stride: Stride, figures: int = 11) -> Figure:
    """One stride from heel strike to heel strike as a row of stick figures from the side, walking to the right.

    Raises UserError when the recording has neither points nor leg angles.
    """
    names, points = _points(recording)
    at = np.linspace(stride.start_s, stride.end_s, figures)
    poses = _poses(recording, points, at)
    _centre(poses, names)
    spacing = 1.0
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.15 * figures + 0.4, 2.4), layout="constrained")
        axes = figure.subplots()
        for index, pose in enumerate(poses):
            for colour, width, line in _lines(names, pose):
                axes.plot(
                    line[:, 0] + spacing * index, line[:, 2], color=colour, linewidth=width, solid_capstyle="round"
                )
            axes.text(
                spacing * index, -0.12, f"{100 * index / (figures - 1):.0f} %", ha="center", va="top", fontsize=8.5
            )
        axes.axhline(0.0, color="#999999", linewidth=0.8, zorder=0)
        axes.set_aspect("equal")
        axes.axis("off")
        slope = float(np.rad2deg(np.mean(recording.slope_rad)))
        ground = "" if abs(slope) < 0.05 else f"; the ground, here level, slopes {slope:+.3g}°"
        axes.set_title(
            f"One {stride.side} stride, {stride.duration_s:.2f} s; right leg blue, left leg vermilion{ground}",
            loc="left",
        )
    return figure


def gif(
    recording: Recording,
    start_s: float = 0.0,
    duration_s: float = 5.0,
    frames_per_s: float = 25.0,
    width: int = 420,
    height: int = 340,
    caption: str = "",
) -> bytes:
    """An animation of a part of a trial as a GIF file's bytes: side view, the camera moves with the pelvis.

    The ground is drawn at its slope with marks every half metre, so progress can be seen. Time is in seconds of the
    trial and is cut to what was recorded. Raises UserError when the recording has neither points nor leg angles.
    """
    names, points = _points(recording)
    first, last = recording.time_s[0], recording.time_s[-1]
    start = min(max(start_s, first), last)
    end = min(start + duration_s, last)
    # GIF counts in hundredths of a second.
    delay_cs = max(2, round(100.0 / frames_per_s))
    at = np.arange(start, end + 1e-9, delay_cs / 100.0)
    poses = _poses(recording, points, at)
    travelled = _travelled(recording, at)
    slope = np.broadcast_to(np.asarray(recording.slope_rad, float), recording.time_s.shape)
    slopes = np.interp(at, recording.time_s, slope)
    _centre(poses, names)
    frames = [
        _frame(names, pose, x, angle, width, height, f"{caption}  {t - first:4.1f} s".strip())
        for pose, x, angle, t in zip(poses, travelled, slopes, at, strict=True)
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=10 * delay_cs,
        loop=0,
        optimize=True,
        disposal=1,
    )
    return buffer.getvalue()


def _points(recording: Recording) -> tuple[tuple[str, ...], np.ndarray]:
    drawn = with_points(recording)
    if drawn.point_position_m is None:
        raise UserError(f"{recording.label or 'recording'}: no points and no hip, knee and ankle angles to draw")
    return drawn.point_names, drawn.point_position_m


def _poses(recording: Recording, points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[F, P, 3] points at the times `at` [F]."""
    flat = points.reshape(len(points), -1)
    poses = np.stack([np.interp(at, recording.time_s, column) for column in flat.T], axis=1)
    return poses.reshape(at.size, *points.shape[1:])


def _travelled(recording: Recording, at: np.ndarray) -> np.ndarray:
    """Distance walked at the times `at`, from wherever the recording knows it."""
    if recording.speed_m_s is None and recording.pelvis_position_m is not None:
        return np.interp(at, recording.time_s, recording.pelvis_position_m[:, 0])
    speed = recording.forward_speed_m_s()
    if speed is None:
        return np.zeros(at.size)
    distance = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * np.diff(recording.time_s))])
    return np.interp(at, recording.time_s, distance)


def _centre(poses: np.ndarray, names: Sequence[str]) -> None:
    """Puts the pelvis (or the mean of the points) at x = 0 in every pose, in place."""
    middle = poses[:, names.index("pelvis"), 0] if "pelvis" in names else poses[:, :, 0].mean(axis=1)
    poses[:, :, 0] -= middle[:, None]


def _lines(names: Sequence[str], pose: np.ndarray) -> list[tuple[str, float, np.ndarray]]:
    """(colour, width, [K, 3] points) of every chain, the far (left) leg first."""
    lines = []
    for chain in reversed(CHAINS):
        present = [names.index(name) for name in chain if name in names]
        if len(present) < 2:
            continue
        side = {"r": "right", "l": "left"}.get(chain[0].split("_")[-1])
        colour = SIDE_STYLE[side]["color"] if side else MIDDLE_COLOUR
        lines.append((colour, 2.4 if side else 3.0, pose[present]))
    return lines


def _frame(
    names: Sequence[str], pose: np.ndarray, travelled_m: float, slope_rad: float, width: int, height: int, caption: str
) -> Image.Image:
    """One picture, drawn at twice its size and made smaller so that lines are smooth."""
    scale = 2
    image = Image.new("RGB", (scale * width, scale * height), "white")
    draw = ImageDraw.Draw(image)
    per_m = scale * height / 2.0
    cos, sin = np.cos(slope_rad), np.sin(slope_rad)

    def pixel(x: float, z: float) -> tuple[float, float]:
        """Ground frame to picture: turned uphill by the slope, z up."""
        return (
            scale * width / 2.0 + per_m * (x * cos - z * sin),
            scale * height * 0.86 - per_m * (x * sin + z * cos),
        )

    reach = 1.2 * width / height * 2.0
    draw.line([pixel(-reach, 0.0), pixel(reach, 0.0)], fill="#888888", width=scale)
    first = np.ceil((travelled_m - reach) / 0.5) * 0.5
    for mark in np.arange(first, travelled_m + reach, 0.5):
        x = mark - travelled_m
        draw.line([pixel(x, 0.0), pixel(x - 0.06, -0.06)], fill="#888888", width=scale)
    for colour, line_width, line in _lines(names, pose):
        pixels = [pixel(float(x), float(z)) for x, _, z in line]
        draw.line(pixels, fill=colour, width=round(scale * line_width * 1.3), joint="curve")
        for px, pz in pixels:
            r = scale * 2.4
            draw.ellipse([px - r, pz - r, px + r, pz + r], fill=colour)
    if "torso" in names:
        x, _, z = pose[names.index("torso")]
        px, pz = pixel(float(x), float(z) + 0.12)
        r = per_m * 0.1
        draw.ellipse([px - r, pz - r, px + r, pz + r], outline=MIDDLE_COLOUR, width=2 * scale)
    draw.text((scale * 8, scale * 6), caption, fill="#333333", font_size=scale * 13)
    return image.resize((width, height), Image.Resampling.LANCZOS).quantize(colors=32)
