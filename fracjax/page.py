"""Pages that need nothing else: no network, no file beside them."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fracjax.notice import NOTICE

if TYPE_CHECKING:
    from fracjax.drawing import Drawing

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2330; --faint: #dfe3e8;
  --soft: #5b6472; --accent: #1a6fb5; --mark: #c2410c; --warn: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e4e8ee; --faint: #333b47;
  --soft: #a0a9b8; --accent: #6db3f2; --mark: #fb923c; --warn: #3a2a14; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
.notice { background: var(--warn); border-left: .3rem solid var(--mark); font-weight: 600;
  padding: .6rem .9rem; }
.curves { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; max-width: 36rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.pair { display: flex; gap: .4rem; }
.pair img { flex: 1 1 0; min-width: 0; object-fit: contain; background: #000; max-height: 20rem; }
figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; margin: 0 0 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem 1.2rem .3rem 0; text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
@media (max-width: 40rem) { table { font-size: .75rem; } th, td { padding-right: .45rem; }
  tbody th { white-space: normal; min-width: 6rem; } td.number, th.number { white-space: normal; } }
"""


def document(title: str, heading: str, body: str) -> str:
    """Write a page, with what stands wherever a score appears.

    Args:
        title: Plain text, of the window.
        heading: Plain text, of the page.
        body: HTML.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
  img-src data:">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(heading)}</h1>
<p class="notice">{escape(NOTICE)}</p>
{body}
</main>
</body>
</html>
"""


def drawings(curves: Sequence["Drawing"]) -> str:
    """Lay pictures side by side, where there is room."""
    if not curves:
        return "<p>Nothing was recorded.</p>"
    figures = "\n".join(
        f"<figure>\n<h3>{escape(curve.title)}</h3>\n{curve.svg}\n"
        f"<figcaption>{escape(curve.caption)}</figcaption>\n</figure>"
        for curve in curves
    )
    return f'<div class="curves">\n{figures}\n</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Write a table whose first column names its rows; the others may be numbers."""
    kind = ' class="number"' if numbers else ""
    head = "".join(
        f'<th scope="col"{kind if index else ""}>{escape(column)}</th>'
        for index, column in enumerate(columns)
    )
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
