# SPDX-License-Identifier: Apache-2.0
"""Draws line charts as SVG."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLOURS = ["#0b6e99", "#d9730d", "#6b8e23", "#9b59b6"]


def text(x, y, string, anchor="middle", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>'
            f"{escape(string)}</text>")


def line(x1, y1, x2, y2, colour):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}"/>')


def short(value):
    """Returns 'value' as people write it on axes."""
    for factor, suffix in (1e9, "G"), (1e6, "M"), (1e3, "k"):
        if value >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def line_chart(title, x_title, y_title, xs, series):
    """Returns a chart of 'series', a list of (name, [y for each of 'xs']), all
    of them positive.  'xs' are equally spaced, the y axis is logarithmic."""
    values = [y for _, ys in series for y in ys]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_at(i):
        return LEFT + (right - LEFT) * (i + 0.5) / len(xs)

    def y_at(y):
        share = (math.log10(y) - low) / (high - low)
        return bottom - (bottom - TOP) * share

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           text((LEFT + right) / 2, TOP - 18, title,
                extra=' font-size="14" font-weight="bold"')]
    for power in range(low, high + 1):
        y = y_at(10 ** power)
        out.append(line(LEFT, y, right, y, "#dddddd"))
        out.append(text(LEFT - 6, y + 4, short(10 ** power), "end"))
    for i, x in enumerate(xs):
        out.append(text(x_at(i), bottom + 18, f"{x:g}"))
    out.append(line(LEFT, bottom, right, bottom, "black"))
    out.append(text((LEFT + right) / 2, HEIGHT - 10, x_title))
    middle = (TOP + bottom) / 2
    out.append(text(16, middle, y_title,
                    extra=f' transform="rotate(-90 16 {middle:.1f})"'))
    for n, (name, ys) in enumerate(series):
        colour = COLOURS[n % len(COLOURS)]
        points = [(x_at(i), y_at(y)) for i, y in enumerate(ys)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" '
                   f'stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
                for x, y in points]
        y = TOP + 16 * n + 6
        out.append(line(right + 10, y - 4, right + 30, y - 4, colour))
        out.append(text(right + 36, y, name, "start"))
    out.append("</svg>")
    return "\n".join(out) + "\n"
