"""The style of a report: light and dark, from 320 pixels on, and on paper."""

from __future__ import annotations

from dataflare.planner.render.style import DARK, FONT, LIGHT

_SERIES_LIGHT = ("#2563eb", "#d9730d", "#0b8457", "#7c3aed", "#c2306f", "#0e7490")
_SERIES_DARK = ("#6aa2ff", "#f2a65a", "#43c793", "#b08cff", "#f285b2", "#5cc8e0")
_NAMES = {
    "page": "page", "panel": "card", "line": "line", "box": "box", "text": "ink", "soft": "faint",
    "good": "exactly", "good-fill": "exactly-fill", "note": "effectively", "note-fill": "effectively-fill",
    "warn": "least", "warn-fill": "least-fill", "bad": "most", "bad-fill": "most-fill",
}  # fmt: skip
"""By name in the style, the colour of the drawings of plans."""

_RULES = """\
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 FONT; font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 44px 0 14px; letter-spacing: -.005em; }
h3 { font-size: 13px; margin: 0; font-weight: 600; }
p { margin: 0 0 10px; max-width: 76ch; overflow-wrap: anywhere; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .87em; }
.top { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center; }
.pill { font-size: 13px; font-weight: 600; padding: 3px 12px; border-radius: 99px; white-space: nowrap; }
.good { color: var(--good); background: var(--good-fill); } .bad { color: var(--bad); background: var(--bad-fill); }
.warn { color: var(--warn); background: var(--warn-fill); } .note { color: var(--note); background: var(--note-fill); }
.facts { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 10px 0 0; color: var(--soft); font-size: 13px; }
.facts span { overflow-wrap: anywhere; } .facts b { font-weight: 600; color: var(--text); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); margin-top: 26px;
  background: var(--panel); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.figures div { box-shadow: 1px 1px 0 var(--line); padding: 14px 16px; min-width: 0; }
.figures dt, .figures dd { margin: 0; } .figures dl { margin: 0; }
.figures dt { font-size: 12px; color: var(--soft); } .figures dd { font-size: 21px; font-weight: 600; letter-spacing: -.01em; overflow-wrap: anywhere; }
.figures .alert dd { color: var(--bad); }
.figures small { display: block; font-size: 12px; color: var(--soft); font-weight: 400; letter-spacing: 0; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
.panel + .panel, .panel + .charts, .charts + .panel { margin-top: 16px; }
.wide { overflow-x: auto; overscroll-behavior-x: contain; }
.drawing { padding: 0; background: var(--page); } .drawing svg { display: block; margin: 0 auto; height: auto; max-width: max(100%, 860px); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
.chart { margin: 0; min-width: 0; background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px 12px; }
.chart.one { grid-column: 1 / -1; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 16px; justify-content: space-between; align-items: baseline; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); min-width: 0; }
.key { display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; } .key i { width: 12px; height: 3px; border-radius: 2px; flex: none; }
.hint { font-size: 12px; color: var(--soft); margin: 2px 0 0; }
.plot { position: relative; margin: 14px 0 0; padding-left: var(--axis); }
.plot svg { display: block; width: 100%; height: 168px; overflow: visible; }
.values { position: absolute; left: 0; top: 0; bottom: 0; width: calc(var(--axis) - 10px); font-size: 11px; color: var(--soft); text-align: right; }
.values span { position: absolute; right: 0; transform: translateY(50%); white-space: nowrap; line-height: 1; }
.times { position: relative; height: 24px; margin-left: var(--axis); font-size: 11px; color: var(--soft); line-height: 1.2; }
.times span { position: absolute; top: 8px; transform: translateX(-50%); white-space: nowrap; } .times span:first-child { transform: none; } .times span.end { transform: translateX(-100%); }
.chart { --axis: 66px; }
.g { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.l { fill: none; stroke-width: 1.8; stroke-linejoin: round; vector-effect: non-scaling-stroke; } .a { opacity: .12; stroke: none; }
.look { fill: transparent; } .look:hover { fill: var(--text); opacity: .07; } .b:hover { opacity: .7; }
.row { display: grid; grid-template-columns: minmax(90px, 190px) 1fr; gap: 4px 14px; align-items: center; padding: 7px 0; }
.row .name { font-weight: 600; font-size: 13px; overflow-wrap: anywhere; } .row .told { grid-column: 2; font-size: 12px; color: var(--soft); }
.row .bar { display: flex; height: 14px; border-radius: 7px; overflow: hidden; background: var(--line); }
.bar i { display: block; height: 100%; } .busy { background: var(--s2); } .blocked { background: var(--s1); } .waiting { background: var(--wait); }
.keys { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12px; color: var(--soft); margin-bottom: 6px; }
.keys i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; } th { font-weight: 600; color: var(--soft); font-size: 12px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } .r { text-align: right; white-space: nowrap; } th:last-child, td:last-child { padding-right: 0; }
td.break { overflow-wrap: anywhere; min-width: 12ch; } .zero { color: var(--soft); } td.hot { color: var(--bad); font-weight: 600; }
.failure { border-left: 4px solid var(--bad); } .failure p:last-child { margin: 0; } .caution { border-left: 4px solid var(--warn); }
ul { margin: 0; padding-left: 18px; } li { margin: 3px 0; overflow-wrap: anywhere; max-width: 90ch; }
details { border-top: 1px solid var(--line); padding: 10px 0 4px; } summary { cursor: pointer; overflow-wrap: anywhere; } summary:focus-visible { outline: 2px solid var(--s0); outline-offset: 3px; border-radius: 4px; }
.example { margin: 10px 0 12px; padding: 10px 14px; background: var(--box); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto; }
.example p { font-size: 13px; margin: 0 0 6px; } .example table { width: auto; } .example td { border: 0; padding: 1px 16px 1px 0; } .example td:first-child { color: var(--soft); }
.quiet { color: var(--soft); } footer { margin-top: 48px; font-size: 12px; color: var(--soft); }
@media (max-width: 560px) {
  main { padding: 22px 14px 40px; } h1 { font-size: 22px; } .panel { padding: 14px; } .chart { padding: 14px 12px 10px; --axis: 58px; }
  .figures { grid-template-columns: 1fr 1fr; } .figures dd { font-size: 18px; }
  .row { grid-template-columns: 1fr; gap: 4px; } .row .told { grid-column: 1; }
}
@media print { body { background: #fff; } .panel, .chart, .figures { break-inside: avoid; } details { break-inside: avoid; } }
"""


def style_sheet() -> str:
    """The CSS of the page."""
    dark = _colours(DARK, _SERIES_DARK, "#465364")
    series = "".join(
        f".s{i} {{ stroke: var(--s{i}); }} .a.s{i}, .b.s{i} {{ fill: var(--s{i}); stroke: none; }} .k{i} {{ background: var(--s{i}); }}\n"
        for i in range(len(_SERIES_LIGHT))
    )
    return (
        f":root {{ {_colours(LIGHT, _SERIES_LIGHT, '#c3ccd8')} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        + _RULES.replace("FONT", FONT)
        + series
    )


def _colours(palette: dict[str, str], series: tuple[str, ...], wait: str) -> str:
    named = {name: palette[own] for name, own in _NAMES.items()} | {"wait": wait}
    named |= {f"s{i}": colour for i, colour in enumerate(series)}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())
