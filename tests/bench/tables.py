"""Numbers and rows as text."""

from statistics import median


def number(value):
    """With the digits that count."""
    if value is None:
        return "—"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(ratios):
    return f"{median(ratios):.2f}" if ratios else "—"


def spread(ratios):
    """With the least and the greatest of the rounds."""
    return f"{median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})" if ratios else "—"


def aligned(rows):
    """For a terminal: the first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *middle, last in rows:
        right = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right, last]).rstrip())
    return "\n".join(lines)


def markdown(rows):
    head, *others = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
