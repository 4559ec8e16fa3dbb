"""A Markdown page as one HTML file that needs no other: its pictures are inside."""

from __future__ import annotations

import base64
import html
import pathlib
import re
import urllib.parse

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
@media print { body { margin: 0; max-width: none; font-size: 11px; }
  table { display: table; page-break-inside: avoid; font-size: 8px; }
  td, th { white-space: normal; padding: .15rem .3rem; } img { page-break-inside: avoid; }
  h2, h3 { page-break-after: avoid; } }
"""


def page(markdown: str, folder: pathlib.Path, title: str) -> str:
    """The page; pictures that it names are read from `folder`.

    HTML in the Markdown (a label or a film may be called anything) is shown as text.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inside(found: re.Match) -> str:
        path = folder / urllib.parse.unquote(html.unescape(found[1]))
        if path.parent != folder or not path.is_file():
            return found[0]
        return f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="([^"/]+\.png)"', inside, body)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}"
            "</body>\n</html>\n")
