"""The style of the SVG: colours for light and dark, icons for each kind of step."""

from __future__ import annotations

FONT = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'

LIGHT = {
    "page": "#ffffff",
    "card": "#f5f7fa",
    "line": "#dbe2ea",
    "box": "#ffffff",
    "border": "#cfd8e3",
    "ink": "#17202b",
    "faint": "#5d6b7e",
    "edge": "#8796a9",
    "source": "#2563eb",
    "transformation": "#7c3aed",
    "destination": "#0b8457",
    "exactly": "#0b7a50",
    "exactly-fill": "#dcf5e9",
    "effectively": "#0b6f8a",
    "effectively-fill": "#dbf1f7",
    "least": "#8a5a00",
    "least-fill": "#fdf0d0",
    "most": "#b42318",
    "most-fill": "#fde6e3",
}
DARK = {
    "page": "#0f141a",
    "card": "#161c24",
    "line": "#293341",
    "box": "#1d2530",
    "border": "#364354",
    "ink": "#e8edf3",
    "faint": "#9dabbd",
    "edge": "#6f8095",
    "source": "#6aa2ff",
    "transformation": "#b08cff",
    "destination": "#43c793",
    "exactly": "#6fe0b2",
    "exactly-fill": "#12382b",
    "effectively": "#76d3ea",
    "effectively-fill": "#123642",
    "least": "#f0c566",
    "least-fill": "#3b2e10",
    "most": "#ff9c91",
    "most-fill": "#451f1b",
}

ICONS = {
    "source": "M8 1.6c3.3 0 6 1 6 2.2S11.3 6 8 6 2 5 2 3.8s2.7-2.2 6-2.2z"
    "M2 3.8v8.4c0 1.2 2.7 2.2 6 2.2s6-1 6-2.2V3.8"
    "M2 8c0 1.2 2.7 2.2 6 2.2s6-1 6-2.2",
    "transformation": "M8 1.5 14.5 8 8 14.5 1.5 8zM5.2 8h5M8.3 6 10.3 8l-2 2",
    "destination": "M8 1.5v8M4.8 6.5 8 9.7l3.2-3.2M2 9.8v3.4q0 1.2 1.2 1.2h9.6q1.2 0 1.2-1.2V9.8",
}
"""Line drawings on a grid of 16: a store, a diamond with an arrow, a tray with an arrow into it."""

LEVELS = {
    "exactly once": "exactly",
    "effectively once": "effectively",
    "at least once": "least",
    "at most once": "most",
}


def style_sheet() -> str:
    """The CSS of the drawing. Colours are written twice because not every SVG reader supports CSS
    variables."""
    dark = "".join(f"  {rule}\n" for rule in _rules(DARK))
    return (
        f"text {{ font-family: {FONT}; }}\n"
        ".strong { font-weight: 600; }\n"
        ".edge, .icon { fill: none; stroke-linecap: round; stroke-linejoin: round; }\n"
        ".edge { stroke-width: 1.5; } .icon { stroke-width: 1.4; }\n"
        + "\n".join(_rules(LIGHT))
        + f"\n@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
    )


def _rules(colour: dict[str, str]) -> list[str]:
    rules = [
        f".page {{ fill: {colour['page']}; }}",
        f".card {{ fill: {colour['card']}; stroke: {colour['line']}; }}",
        f".box {{ fill: {colour['box']}; stroke: {colour['border']}; }}",
        f".tag {{ fill: {colour['page']}; stroke: {colour['line']}; }}",
        f".ink {{ fill: {colour['ink']}; }}",
        f".faint {{ fill: {colour['faint']}; }}",
        f".edge {{ stroke: {colour['edge']}; }}",
        f".head {{ fill: {colour['edge']}; }}",
    ]
    for kind in ("source", "transformation", "destination"):
        rules.append(f".bar-{kind} {{ fill: {colour[kind]}; }}")
        rules.append(f".icon-{kind} {{ stroke: {colour[kind]}; }}")
    for level in LEVELS.values():
        rules.append(f".text-{level} {{ fill: {colour[level]}; }}")
        rules.append(f".mark-{level} {{ stroke: {colour[level]}; }}")
        rules.append(f".badge-{level} {{ fill: {colour[level + '-fill']}; }}")
    return rules
