"""The parts of the page as HTML: films, findings, the picture. All text of films is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from cxrjax.explanation import drawing
from cxrjax.serving import looking
from cxrjax.serving import view as views
from cxrjax.serving.looking import POSITIVE, Network, Reading
from cxrjax.serving.sessions import Film
from cxrjax.serving.view import View

WIDE, HIGH = 1000, 900  # the picture's room; the browser makes it smaller where it must
WAITING = ("Drop a film on the left: PNG, JPEG, TIFF, DICOM. Or look at one of the drawn ones.")


def uri(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def films(found: Sequence[Film], chosen: int | None, network: Network) -> str:
    """The list of films; a click on one triggers `click` with its key."""
    if not found:
        return '<div class="cx-empty">No films yet.</div>'
    rows = []
    for film in found:
        row = film.row
        if row.error:
            said, kind = f"cannot be read: {row.error}", "bad"
        else:
            decided = network.decide(row.probabilities)
            words = [looking.shown(network.labels[k]) for k in (-row.probabilities).argsort()
                     if looking.words_of(decided[k], network.task) in POSITIVE]
            first = looking.shown(network.labels[int(row.probabilities.argmax())])
            said = (f"positive: {', '.join(words)}" if words and network.task == "multilabel"
                    else f"{first} {row.probabilities.max():.0%}")
            kind = "yes" if words else ""
            if row.warnings:
                said += "; " + "; ".join(row.warnings)
                kind += " warned"
        rows.append(
            f'<button class="cx-film {kind}" data-key="{film.key}" '
            f'aria-pressed="{str(film.key == chosen).lower()}">'
            f"<b>{escape(film.name)}</b><span>{escape(said)}</span></button>")
    return f'<div class="cx-films">{"".join(rows)}</div>'


def findings(reading: Reading | None, network: Network, chosen: int | None) -> str:
    """The findings as bars with their operating points; a click triggers `click` with a number."""
    if reading is None:
        return '<div class="cx-empty">The findings of the chosen film stand here.</div>'
    rows = []
    for own in looking.findings(reading, network):
        tick = "" if own.threshold is None else (
            f'<i style="left:{100 * own.threshold:.2f}%" '
            f'title="operating point {own.threshold:.1%}"></i>')
        yes = own.decision in POSITIVE
        rows.append(
            f'<button class="cx-finding{" yes" if yes else ""}" data-finding="{own.number}" '
            f'aria-pressed="{str(own.number == chosen).lower()}">'
            f"<b>{escape(own.label)}</b>"
            f'<span class="cx-bar"><u style="width:{100 * own.probability:.2f}%"></u>{tick}</span>'
            f"<span>{own.probability:.1%}</span><em>{escape(own.decision)}</em></button>")
    return (f'<div class="cx-findings">{"".join(rows)}</div>'
            f'<div class="cx-how">{escape(looking.how(network))}</div>')


def picture(reading: Reading | None, view: View, network: Network, message: str = "") -> str:
    """The film as the view says, its title, legend and warnings; or a message."""
    if reading is None:
        kind = "bad" if message else ""
        return f'<div class="cx-message {kind}">{escape(message or WAITING)}</div>'
    image = views.render(reading, view, WIDE, HIGH)
    address = uri(jpeg(image), "image/jpeg")
    legend = "".join(
        (f'<i style="border-color:{color}"></i>' if color else "") + f"<span>{escape(text)}</span>"
        for color, text in views.legend(reading, view))
    if views.hot(reading, view):
        bar = uri(views.png(Image.fromarray(drawing.color_bar(160, 8, view.colors))), "image/png")
        legend += (f'<span class="cx-scale">no heat <img src="{bar}" alt="scale of the heat">'
                   " most</span>")
    warned = "".join(f'<div class="cx-warning">Warning: {escape(line)}</div>'
                     for line in reading.warnings)
    height, width = reading.size
    about = "   ".join(filter(None, [f"{width} x {height} pixels", reading.gray,
                                     views.position(view)]))
    title = escape(views.title(reading, view, network))
    return (f'<div class="cx-title"><b>{title}</b><span>{escape(about)}</span></div>{warned}'
            f'<div class="cx-room"><img class="cx-picture" draggable="false" alt="{title}" '
            f'src="{address}"></div><div class="cx-legend">{legend}</div>')


def jpeg(image: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file, for the screen."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=92, subsampling=0)
    return data.getvalue()


def head(network: Network, name: str) -> str:
    """The page's first lines: what it is, by which network, for what."""
    return (f'<div class="cx-head"><div><b>{escape(name)}</b>'
            f"<span>{escape(network.name)}: {escape(network.about)}</span></div>"
            f'<div class="cx-purpose">{escape(network.purpose)}</div></div>')


CHOOSE = """
element.addEventListener('click', event => {
  const row = event.target.closest('[data-key], [data-finding]');
  if (row) trigger('click', {key: Number(row.dataset.key ?? row.dataset.finding)});
});
"""
# A drag changes the grays, with Shift or the right button it moves the film; the wheel zooms.
# Distances are in pixels of the picture that was drawn, from its middle.
MOVE = """
let start = null;
const scale = image => image.naturalWidth / image.clientWidth;
const at = (image, event) => {
  const box = image.getBoundingClientRect();
  return [(event.clientX - box.left - box.width / 2) * scale(image),
          (event.clientY - box.top - box.height / 2) * scale(image)];
};
element.addEventListener('wheel', event => {
  const image = event.target.closest('.cx-picture');
  if (!image) return;
  event.preventDefault();
  const [x, y] = at(image, event);
  trigger('click', {act: 'zoom', x: x, y: y, factor: event.deltaY < 0 ? 1.4 : 1 / 1.4});
}, {passive: false});
element.addEventListener('pointerdown', event => {
  const image = event.target.closest('.cx-picture');
  if (image) start = {x: event.clientX, y: event.clientY, scale: scale(image),
                      pull: event.shiftKey || event.button === 2};
});
window.addEventListener('pointerup', event => {
  if (!start) return;
  const dx = event.clientX - start.x, dy = event.clientY - start.y;
  if (Math.abs(dx) + Math.abs(dy) > 3)
    trigger('click', start.pull ? {act: 'pull', x: dx * start.scale, y: dy * start.scale}
                                : {act: 'gray', x: dx, y: dy});
  start = null;
});
element.addEventListener('dblclick', event => {
  if (event.target.closest('.cx-picture')) trigger('click', {act: 'reset'});
});
element.addEventListener('contextmenu', event => {
  if (event.target.closest('.cx-picture')) event.preventDefault();
});
"""
# [name, address] of a file -> the browser saves it.
SAVE = """
text => {
  if (!text) return;
  const [name, address] = JSON.parse(text);
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  document.body.appendChild(link);
  link.click();
  link.remove();
}
"""
STYLE = """
.gradio-container { max-width: 1500px !important; margin: auto; }
footer { display: none !important; }
.cx-head { display: flex; flex-wrap: wrap; gap: 6px 24px; align-items: baseline;
  justify-content: space-between; padding: 2px 2px 6px; }
.cx-head b { font-size: 20px; margin-right: 14px; }
.cx-head span { color: var(--body-text-color-subdued); }
.cx-purpose { color: #ffb347; font-weight: 600; }
.cx-empty, .cx-how { color: var(--body-text-color-subdued); padding: 6px 4px; font-size: 13px; }
.cx-films { display: flex; flex-direction: column; gap: 2px; max-height: 216px; overflow: auto; }
.cx-film, .cx-finding { width: 100%; text-align: left; border: 0; background: transparent;
  border-left: 3px solid transparent; color: inherit; cursor: pointer; padding: 4px 7px;
  border-radius: 4px; font-size: 14px; font-weight: 400; }
.cx-film:hover, .cx-finding:hover { background: #1b2229; }
.cx-film:focus-visible, .cx-finding:focus-visible { outline: 2px solid #4aa8d8; }
.cx-film[aria-pressed=true], .cx-finding[aria-pressed=true] { background: #222a32;
  border-left-color: #ffb347; }
.cx-film b { font-weight: 600; display: block; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.cx-film span { color: var(--body-text-color-subdued); font-size: 12px; overflow-wrap: anywhere; }
.cx-film.bad span { color: #ff7b72; }
.cx-film.warned span { color: #ffd34d; }
.cx-finding { display: grid; gap: 6px; align-items: center;
  grid-template-columns: minmax(104px, 1.2fr) minmax(24px, 1fr) 44px minmax(50px, auto); }
.cx-finding b { font-weight: 500; font-size: 13.5px; line-height: 1.2; }
.cx-finding > span:nth-of-type(2) { text-align: right; font-variant-numeric: tabular-nums; }
.cx-finding em { font-style: normal; font-size: 11.5px; white-space: nowrap;
  color: var(--body-text-color-subdued); }
.cx-finding.yes em { color: #ff7b72; font-weight: 600; }
.cx-bar { position: relative; display: block; height: 6px; border-radius: 3px;
  background: #2c353e; }
.cx-bar u { display: block; height: 6px; border-radius: 3px; background: #4aa8d8; }
.cx-finding[aria-pressed=true] .cx-bar u { background: #ffb347; }
.cx-bar i { position: absolute; top: -4px; width: 2px; height: 14px; background: #e9edf0; }
.cx-title { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 16px;
  align-items: baseline; padding-bottom: 6px; }
.cx-title b { font-size: 18px; white-space: pre-wrap; overflow-wrap: anywhere; }
.cx-title span { white-space: pre-wrap; }
.cx-title span, .cx-legend { color: var(--body-text-color-subdued); font-size: 13px; }
.cx-warning { color: #ffd34d; padding-bottom: 6px; }
.cx-room { display: flex; justify-content: center; background: #000; border-radius: 6px; }
.cx-picture { max-width: 100%; max-height: 74vh; cursor: crosshair; user-select: none;
  touch-action: none; margin: 0 !important; }
.cx-legend { display: flex; flex-wrap: wrap; gap: 4px 8px; align-items: center;
  padding-top: 8px; min-height: 30px; }
.cx-legend i { width: 16px; height: 12px; border: 2px solid; }
.cx-scale { margin-left: auto; }
.cx-scale img { display: inline; width: 160px; height: 8px; margin: 0 4px; vertical-align: middle; }
.cx-message { display: flex; align-items: center; justify-content: center; min-height: 420px;
  padding: 24px; text-align: center; color: var(--body-text-color-subdued); border-radius: 6px;
  background: #0a0d10; overflow-wrap: anywhere; }
.cx-message.bad { color: #ff7b72; }
"""
