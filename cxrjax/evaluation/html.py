"""A Markdown page as one HTML file that needs no other: its pictures are inside."""

from __future__ import annotations

import base64
import html
import itertools
import pathlib
import re
import urllib.parse

_ROWS = 40  # of a table that a printed page takes
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 76rem;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #0072B2; padding-bottom: .2rem; }
h3 { margin-top: 1.8rem; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums;
        display: block; overflow-x: auto; margin: .6rem 0; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd;
         white-space: nowrap; }
th { border-bottom: 2px solid #666; }
tbody tr:hover { background: #f2f6fa; }
img { max-width: 100%; }
figure { margin: 1rem 0; break-inside: avoid; }
figcaption { font-size: .82rem; color: #444; margin-top: .2rem; }
@page { size: A4; margin: 17mm 15mm 18mm;
  @bottom-left { content: string(title); font: 7.5pt "Liberation Sans", Arial, sans-serif;
                 color: #555; }
  @bottom-right { content: counter(page) " of " counter(pages); color: #555;
                  font: 7.5pt "Liberation Sans", Arial, sans-serif; } }
@media print {
  body { margin: 0; padding: 0; max-width: none;
         font: 9.5pt/1.4 "Liberation Sans", Arial, Helvetica, sans-serif; }
  h1 { font-size: 15pt; margin-top: 0; string-set: title content(); }
  h2 { font-size: 12.5pt; margin-top: 7mm; } h3 { font-size: 10.5pt; margin-top: 5mm; }
  h2, h3, p:has(+ table), p:has(+ figure) { break-after: avoid; }
  p { orphans: 3; widows: 3; } table + p { break-before: avoid; }
  .next-page { break-before: page; }
  table { display: table; font-size: 7pt; margin: 2mm 0; } thead { display: table-header-group; }
  tr { break-inside: avoid; } td, th { white-space: normal; padding: .5mm 1.2mm; }
  td, th { overflow-wrap: break-word; } .whole { break-inside: avoid; }
  figure { margin: 2mm 0; text-align: center; } figcaption { font-size: 8pt; text-align: left; }
  img { max-height: 215mm; } img[alt^="Confusion"] { max-width: 60%; }
}
"""


def page(markdown: str, folder: pathlib.Path, title: str) -> str:
    """The page; pictures that it names are read from `folder` and numbered, their words below them.

    In print the second heading of the second order begins a page: what stands before it is the
    first one. HTML in the Markdown (a label or a film may be called anything) is shown as text.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inside(found: re.Match) -> str:
        path = folder / urllib.parse.unquote(html.unescape(found[1]))
        if path.parent != folder or not path.is_file():
            return found[0]
        return f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="([^"/]+\.png)"', inside, body)
    numbers = itertools.count(1)
    body = re.sub(
        r'<p>(<img src="[^"]*" alt="([^"]*)" ?/?>)</p>',
        lambda f: (f"<figure>{f[1]}<figcaption>Figure {next(numbers)}. {f[2]}.</figcaption>"
                   "</figure>"),
        body,
    )
    body = re.sub(r"<table>(?:(?!</table>).)*", _whole, body, flags=re.DOTALL)
    headings = itertools.count(1)
    body = re.sub("<h2>", lambda f: '<h2 class="next-page">' if next(headings) == 2 else f[0], body)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}"
            "</body>\n</html>\n")


def _whole(found: re.Match) -> str:
    """A table that fits a page is not cut in print."""
    short = found[0].count("<tr>") <= _ROWS
    return found[0].replace("<table>", '<table class="whole">') if short else found[0]
