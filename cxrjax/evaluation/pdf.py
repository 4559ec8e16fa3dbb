"""The page of `html` as a PDF for print, by WeasyPrint: it needs no browser.

It is one source with report.html, so that both say the same, and gives what matplotlib's PdfPages
does not: text that can be searched and copied, tables that break between pages under their titles,
page numbers. It needs the system's Pango, so it is an extra.
"""

from __future__ import annotations

import logging
import pathlib

from cxrjax.training.workdir import replacing

MISSING = "no report.pdf: pip install 'cxrjax[pdf]' makes one beside report.html"


def write(path: pathlib.Path, page: str) -> str:
    """Writes the PDF; what is to be said where that cannot be done, else ''.

    Args:
      path: of the PDF.
      page: from `html.page`; nothing beyond it is read, neither files nor the network.
    """
    try:
        import weasyprint
    except ImportError:
        return MISSING
    except OSError as error:  # a library of the system
        return (f"no report.pdf: WeasyPrint needs Pango of the system ({error}): "
                "apt install libpango-1.0-0 libpangoft2-1.0-0, brew install pango")
    for name in ("weasyprint", "fontTools"):  # what print does not know of a web page's style
        logging.getLogger(name).setLevel(logging.ERROR)
    outside = weasyprint.urls.URLFetcher(allowed_protocols=("data",))
    with replacing(path) as partial:
        weasyprint.HTML(string=page, url_fetcher=outside).write_pdf(partial)
    return ""
