"""
The plot: what each stack adds to a request, as an SVG of our own making.

The axis is logarithmic, as the figures are two orders of magnitude apart; a bar is the middle, the whisker its 95 %
interval. Colours are readable on light and dark pages alike, and the text takes the colour that the page prefers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.figures import written
from bench.telemetry.estimate import Estimate

__all__ = ["Bar", "svg"]

_LABEL_WIDTH = 380
_PLOT_WIDTH = 430
_FIGURE_WIDTH = 80
_ROW = 26
_TOP = 34
_BOTTOM = 44
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .axis { font-size: 11px; fill: #57606a }
  .grid { stroke: #8c959f; stroke-opacity: .35 }
  .ours { fill: #2da44e } .other { fill: #6e7f96 }
  .whisker { stroke: #1f2328; stroke-width: 1.5 }
  .goal { stroke: #cf222e; stroke-dasharray: 4 3 } .goal-text { font-size: 11px; fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .axis { fill: #9da7b3 } .whisker { stroke: #e6edf3 }
    .ours { fill: #3fb950 } .other { fill: #8b98ab } .goal { stroke: #ff7b72 } .goal-text { fill: #ff7b72 }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; ours are told from the others by colour."""

    label: str
    estimate: Estimate
    ours: bool


def svg(title: str, bars: Sequence[Bar], goal: float) -> str:
    """Return the plot of microseconds; a vertical line is at the goal."""
    axis = _Axis([*(bar.estimate for bar in bars)], goal)
    width, height = _LABEL_WIDTH + _PLOT_WIDTH + _FIGURE_WIDTH, _TOP + _ROW * len(bars) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        *axis.drawn(height - _BOTTOM),
        *(line for at, bar in enumerate(bars) for line in _bar(bar, _TOP + _ROW * at, axis)),
        *axis.goal_drawn(height - _BOTTOM),
        f'<text class="axis" x="{_LABEL_WIDTH}" y="{height - 8}">{escape(title)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axis:
    def __init__(self, estimates: Sequence[Estimate], goal: float) -> None:
        most = max([goal, *(each.high for each in estimates)])
        self._low, self._high = 0, math.ceil(math.log10(most))
        self._goal = goal

    def at(self, value: float) -> float:
        """Return where a value is; what is below one microsecond is at the left end."""
        share = math.log10(max(value, 10**self._low)) - self._low
        return _LABEL_WIDTH + _PLOT_WIDTH * share / (self._high - self._low)

    def drawn(self, bottom: float) -> Iterator[str]:
        for power in range(self._low, self._high + 1):
            x = self.at(10.0**power)
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom}"/>'
            yield f'<text class="axis" text-anchor="middle" x="{x:.1f}" y="{bottom + 15}">{10**power:,}</text>'

    def goal_drawn(self, bottom: float) -> Iterator[str]:
        x = self.at(self._goal)
        yield f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom}"/>'
        yield f'<text class="goal-text" text-anchor="middle" x="{x:.1f}" y="{_TOP - 12}">goal {self._goal:g}</text>'


def _bar(bar: Bar, y: float, axis: _Axis) -> Iterator[str]:
    left, end = axis.at(0.0), axis.at(bar.estimate.value)
    low, high = axis.at(bar.estimate.low), axis.at(bar.estimate.high)
    middle = y + 9
    yield f'<text text-anchor="end" x="{_LABEL_WIDTH - 10}" y="{y + 14}">{escape(bar.label)}</text>'
    kind = "ours" if bar.ours else "other"
    yield f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{max(2.0, end - left):.1f}" height="18" rx="2"/>'
    yield f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
    yield f'<text x="{max(end, high) + 8:.1f}" y="{y + 14}">{written(bar.estimate.value)}</text>'
