"""The axis of a timeline: turns times into positions, and cuts long times without work. Pure."""

import bisect
from typing import Iterable, List, Optional, Tuple

from asimov_sync.display.words import format_seconds, text_width

__all__ = ["TOP", "Axis"]

BREAK = 76
"""The width of a cut, in pixels."""

MAX_BREAKS = 8
"""The number of cuts at most: those of the longest times."""

MIN_IDLE = 1.0
"""The shortest time without work that is cut, in seconds."""

TOP = 26
"""The height of the labels above the first row."""

DAY = 86400.0
STEPS = (
    *(number * unit for unit in (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1) for number in (1, 2, 5)),
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0),
    *(7200.0, 14400.0, 21600.0, 43200.0, DAY),
)
"""The distances of the marks on the axis, in seconds."""


class Axis:
    """Turns times into horizontal positions.

    A run that waited for an answer for days has worked for minutes. So that its bars can be seen,
    a time without work that is longer than half of the time of work is cut to a fixed width.

    work: the start and the end of each piece of work, in seconds.
    left, right: the positions of the first and of the last moment.

    scale: the width of a second of work.
    end: the last moment.
    """

    def __init__(self, work: Iterable[Tuple[float, float]], left: float, right: float) -> None:
        self._periods = _find_periods(sorted(work))
        self._left, self._right = left, right
        self._total = max(sum(end - start for start, end in self._periods), 1e-6)
        self.scale = (right - left - BREAK * (len(self._periods) - 1)) / self._total
        self.end = self._periods[-1][1]
        self._starts = [start for start, _ in self._periods]
        self._lefts: List[float] = []
        for start, end in self._periods:
            self._lefts.append(left)
            left += (end - start) * self.scale + BREAK

    def place(self, start: Optional[float], end: Optional[float]) -> Tuple[float, float]:
        """Return the position and the width of a bar; without an end, it ends at the last moment.

        start, end: in seconds.
        """
        left = self._left if start is None else max(self._left, self.position(start))
        return left, max(1.5, self.position(self.end if end is None else end) - left)

    def position(self, moment: float) -> float:
        """Return the position of a moment."""
        number = max(0, bisect.bisect_right(self._starts, moment) - 1)
        start, end = self._periods[number]
        left = self._lefts[number]
        if moment <= end or number + 1 == len(self._periods):
            return left + (moment - start) * self.scale
        idle = self._periods[number + 1][0] - end
        return left + (end - start) * self.scale + BREAK * (moment - end) / idle

    def draw(self, height: int) -> str:
        """Return the marks, their labels and the cuts as SVG.

        height: the height of the whole picture, in pixels.
        """
        step = _find_step(self._total)
        bottom = height - 8
        parts = []
        for number, (start, end) in enumerate(self._periods):
            is_last = number + 1 == len(self._periods)
            stop = self._right if is_last else self.position(end)
            count = 0
            while count * step <= (end - start) * 1.0001:
                x = self._lefts[number] + count * step * self.scale
                parts.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{bottom}"/>')
                label = _format_step(count * step) if number == 0 else ""
                if label and x + 3 + text_width(label, 11) <= stop + (12 if is_last else 0):
                    parts.append(f'<text class="quiet" x="{x + 3:.1f}" y="13">{label}</text>')
                count += 1
            if not is_last:
                idle = format_seconds(self._periods[number + 1][0] - end)
                parts.append(
                    f'<rect class="idle" x="{stop + 4:.1f}" y="{TOP - 6}" width="{BREAK - 8}" '
                    f'height="{bottom - TOP + 6}"><title>no work for {idle}</title></rect>'
                    f'<text class="quiet" text-anchor="middle" x="{stop + BREAK / 2:.1f}" '
                    f'y="13">{idle}</text>'
                )
        return "".join(parts)


def _find_periods(work: List[Tuple[float, float]]) -> List[Tuple[float, float]]:
    """Return the periods of work, between which there is nothing for a long time."""
    merged: List[Tuple[float, float]] = []
    for start, end in work:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    total = sum(end - start for start, end in merged)
    gaps = [other[0] - one[1] for one, other in zip(merged, merged[1:])]
    longest = sorted((gap for gap in gaps if gap >= max(MIN_IDLE, total / 2)), reverse=True)
    cut = longest[:MAX_BREAKS]
    periods = merged[:1]
    for (start, end), gap in zip(merged[1:], gaps):
        if gap in cut:
            cut.remove(gap)
            periods.append((start, end))
        else:
            periods[-1] = (periods[-1][0], end)
    return periods


def _find_step(duration: float) -> float:
    """Return a round number of seconds of which at most eight fit into a duration."""
    for step in STEPS:
        if step * 8 >= duration:
            return step
    return DAY * -(-duration // (8 * DAY))


def _format_step(seconds: float) -> str:
    """Return a round duration without needless digits."""
    if seconds == 0:
        return "0"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.4g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.4g} ms"
    return f"{seconds:g} s" if seconds < 60 else format_seconds(seconds)
