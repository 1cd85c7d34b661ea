"""Colours and shapes of charts and pages, on light paper and on dark screens."""

#: Okabe and Ito's colours (jfly.uni-koeln.de/color, 2008), for light paper: yellow and the light ones are darkened.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b57f00", "#3a97c9", "#8a8300", "#555562")

#: The same for dark screens.
DARK_COLOURS = ("#4ba3e0", "#f08a4b", "#2fc79a", "#e39cc6", "#f0b93a", "#8fd0f5", "#e6dc5a", "#b9b9c6")

#: Shapes in Matplotlib's names, so that nothing is told by colour alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

#: The same in text.
SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")

#: Of everything in a chart that stands for no one. On the page they are CSS variables, so that it can be dark.
INK, MUTED, LINE, PAPER = "#1c1c22", "#62626e", "#d7d7de", "#fefefd"

#: CSS variables by name, on light paper and on dark screens.
LIGHT = {"ink": INK, "muted": MUTED, "line": LINE, "paper": PAPER, **{f"v{i}": c for i, c in enumerate(COLOURS)}}
DARK = {
    "ink": "#ececf2",
    "muted": "#a3a3b2",
    "line": "#3a3a45",
    "paper": "#16161b",
    **{f"v{i}": c for i, c in enumerate(DARK_COLOURS)},
}
