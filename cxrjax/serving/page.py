"""The page's elements and what happens when they are used; gradio draws it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import gradio as gr

from cxrjax.errors import UserError
from cxrjax.explanation import drawing, heatmaps
from cxrjax.serving import page_html as html
from cxrjax.serving import view as views
from cxrjax.serving.examples import EXAMPLES, example
from cxrjax.serving.looking import Reading
from cxrjax.serving.sessions import Sessions, Shown
from cxrjax.serving.view import View

UNREAD = (60, 600)
SHOWN = {"Heat": "heat", "Boxes": "boxes", "Lungs": "masks", "Before/after": "before_after"}


def places_of(payload: Any) -> list[str]:
    """Where the uploads lie."""
    return [] if payload is None else [file.path for file in payload.root]


def look(sessions: Sessions, visitor: str) -> tuple[Shown, Reading | None, str]:
    """(what is looked at, with a finding where one follows; its reading; a message)."""
    shown = sessions.show(visitor)
    film = next((f for f in sessions.films(visitor) if f.key == shown.film), None)
    if film is None:
        return shown, None, ""
    if film.row.error:
        return shown, None, f"{film.name}: {film.row.error}"
    try:
        reading = sessions.reading(visitor, film.key, shown.method)
    except UserError as error:
        return shown, None, str(error)
    if reading is None:
        return shown, None, (f"{film.name}: its pixels are no longer held, as other films needed "
                             "the room; the table has its figures. Drop it again to see it.")
    if shown.follow:
        first = reading.order()[0]
        shown = sessions.show(visitor, lambda now: with_view(now, finding=first))
    return shown, reading, ""


def with_view(shown: Shown, **changes: Any) -> Shown:
    """The same with another view."""
    return dataclasses.replace(shown, view=dataclasses.replace(shown.view, **changes))


def parts(sessions: Sessions, visitor: str) -> tuple[str, str, str]:
    """(films, findings, picture) as HTML, of what a visitor looks at."""
    shown, reading, message = look(sessions, visitor)
    net = sessions.network
    return (html.films(sessions.films(visitor), shown.film, net),
            html.findings(reading, net, shown.view.finding),
            html.picture(reading, shown.view, net, message))


def chosen(shown: Shown, film: int) -> Shown:
    """Another film: all of it is seen first, in the grays that were chosen."""
    return dataclasses.replace(with_view(shown, zoom=1.0, center=(0.5, 0.5)), film=film)


def act(reading: Reading, view: View, what: dict[str, Any]) -> View:
    """The view after a movement of the mouse, as `page_html.MOVE` tells it."""
    shape, room = reading.film.shape, (html.WIDE, html.HIGH)
    one = views.room(view, *room)
    x, y = float(what.get("x", 0)), float(what.get("y", 0))
    if what["act"] == "zoom":
        x, y = views.from_middle(view, shape, *room, x, y)
        return views.zoomed(view, shape, *one, float(what["factor"]), x, y)
    if what["act"] == "pull":
        return views.moved(view, shape, *one, x, y)
    return views.windowed(view, x, y) if what["act"] == "gray" else views.reset(view)


def table_file(sessions: Sessions, visitor: str) -> str:
    """[name, address] of the table of all films, as JSON."""
    return json.dumps(["cxrjax.csv", html.uri(sessions.table(visitor).encode("utf-8", "replace"),
                                              "text/csv")])


def picture_file(sessions: Sessions, visitor: str) -> str:
    """[name, address] of the picture as it is seen, as JSON; '' where there is none."""
    shown, reading, _ = look(sessions, visitor)
    if reading is None:
        return ""
    net, name = sessions.network, reading.path.stem
    if shown.view.finding is not None and not shown.view.before_after:
        name += "_" + net.labels[shown.view.finding]
    image = views.picture(reading, shown.view, net)
    return json.dumps([f"{name}.png", html.uri(views.png(image), "image/png")])


def build(
    sessions: Sessions, name: str, about: str, folder: pathlib.Path,
    unread: tuple[int, int] = UNREAD,
) -> gr.Blocks:
    """The page.

    Args:
      sessions: that read and keep films.
      name: of the run, for the first line.
      about: the network's figures and limits, Markdown.
      folder: of uploads; nothing else is read, and deleted, whatever a visitor names.
      unread: how often, and after how many seconds, uploads are deleted that nobody read.
    """
    net = sessions.network
    start = Shown(sessions.method)
    with gr.Blocks(title=f"cxrjax: {name}", analytics_enabled=False, delete_cache=unread) as page:
        saved = gr.Textbox(visible="hidden", label="file")
        gr.HTML(html.head(net, name))
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=290):
                most = f"Films, {sessions.limits.films} of {sessions.limits.megabytes} MB at most"
                drop = gr.File(label=most, file_count="multiple", height=150, elem_id="drop")
                # gradio's own leaves an empty file on the disk for each that it got; and a class
                # of it would write a file beside this one.
                drop.preprocess = places_of
                with gr.Row():
                    examples = [gr.Button(words, size="sm", min_width=60) for words, *_ in EXAMPLES]
                films = gr.HTML(html.films([], None, net), js_on_load=html.CHOOSE, elem_id="films")
                findings = gr.HTML(html.findings(None, net, None), js_on_load=html.CHOOSE,
                                   elem_id="findings")
                with gr.Row():
                    csv = gr.Button("Table (CSV)", size="sm", min_width=80, elem_id="csv")
                    keep = gr.Button("Picture (PNG)", size="sm", min_width=80, elem_id="keep")
                    clear = gr.Button("Clear", size="sm", min_width=60, elem_id="clear")
            with gr.Column(scale=7, min_width=380):
                picture = gr.HTML(html.picture(None, start.view, net), js_on_load=html.MOVE,
                                  elem_id="picture")
                names = [n for n, own in SHOWN.items() if own != "masks" or net.structures]
                with gr.Row():
                    layers = gr.CheckboxGroup(names, value=["Heat", "Boxes"], label="Show",
                                              scale=3, min_width=260)
                    ways = gr.Dropdown([(v, k) for k, v in heatmaps.METHODS.items()],
                                       value=start.method, label="Heat map by", min_width=145)
                    colors = gr.Dropdown(list(drawing.COLORS), value=start.view.colors,
                                         label="Colours", min_width=110)
                with gr.Row():
                    opacity = gr.Slider(0, 1, start.view.opacity, step=0.05, label="Opacity",
                                        min_width=160)
                    threshold = gr.Slider(0.05, 1, start.view.threshold, step=0.05,
                                          label="Boxes from", min_width=160)
                gr.HTML('<div class="cx-how">On the film: drag changes the grays, Shift and drag '
                        "(or the right button) moves it, the wheel zooms, a double click shows "
                        "all of it again.</div>")
        with gr.Accordion("This network: figures and limits", open=False):
            gr.Markdown(about)

        outputs = [films, findings, picture]
        # One film is read at a time, so that memory is bounded; pictures are drawn meanwhile.
        reads = {"outputs": outputs, "concurrency_id": "network", "concurrency_limit": 1,
                 "show_progress_on": picture}
        # Pictures one after the other too: an older one must not come after a newer one.
        draws = {"outputs": outputs, "concurrency_id": "picture", "concurrency_limit": 1,
                 "show_progress": "hidden", "api_visibility": "private"}

        def add(paths: list[str], request: gr.Request):
            visitor = request.session_hash
            for path in paths:
                if not pathlib.Path(path).resolve().is_relative_to(folder.resolve()):
                    continue
                film = sessions.add(visitor, pathlib.Path(path), os.path.basename(path))
                sessions.show(visitor, lambda now, key=film.key: chosen(now, key))
            return None, *parts(sessions, visitor)

        def add_example(number: int) -> Callable:
            def draw(request: gr.Request):
                title, image = example(number)
                film = sessions.draw(request.session_hash, image, title)
                sessions.show(request.session_hash, lambda now: chosen(now, film.key))
                return parts(sessions, request.session_hash)
            return draw

        def changing(change: Callable[..., Shown]) -> Callable:
            """A handler of an event that changes what is shown by what it says."""
            def handle(event: gr.EventData, request: gr.Request):
                sessions.show(request.session_hash, lambda now: change(now, event._data))
                return parts(sessions, request.session_hash)
            return handle

        def choose_finding(now: Shown, what: dict[str, Any]) -> Shown:
            number = what["key"]
            if number == now.view.finding or number not in range(len(net.labels)):
                number = None
            return dataclasses.replace(with_view(now, finding=number), follow=False)

        def move(event: gr.EventData, request: gr.Request):
            _, reading, _ = look(sessions, request.session_hash)
            if reading is not None:
                sessions.show(request.session_hash, lambda now: dataclasses.replace(
                    now, view=act(reading, now.view, event._data)))
            return parts(sessions, request.session_hash)

        def change(layers, colors, opacity, threshold, request: gr.Request):
            on = {own: title in layers for title, own in SHOWN.items()}
            sessions.show(request.session_hash, lambda now: with_view(
                now, colors=colors, opacity=opacity, threshold=threshold, **on))
            return parts(sessions, request.session_hash)

        def by_method(way: str, request: gr.Request):
            sessions.show(request.session_hash,
                          lambda now: dataclasses.replace(now, method=way))
            return parts(sessions, request.session_hash)

        def forget(request: gr.Request):
            sessions.clear(request.session_hash)
            return parts(sessions, request.session_hash)

        drop.upload(add, drop, api_name="read", **{**reads, "outputs": [drop, *outputs]})
        for number, button in enumerate(examples):
            button.click(add_example(number), api_visibility="private", **reads)
        ways.input(by_method, ways, api_visibility="private", **reads)
        films.click(changing(lambda now, what: chosen(now, what["key"])), **draws)
        findings.click(changing(choose_finding), **draws)
        picture.click(move, trigger_mode="multiple", **draws)
        given = [layers, colors, opacity, threshold]
        for element in (layers, colors):
            element.input(change, given, trigger_mode="multiple", **draws)
        for element in (opacity, threshold):
            element.input(change, given, trigger_mode="always_last", **draws)
        clear.click(forget, **draws)
        for button, give, title in ((csv, table_file, "table"), (keep, picture_file, "picture")):
            def file_of(request: gr.Request, give: Callable = give) -> str:
                return give(sessions, request.session_hash)

            button.click(file_of, None, saved, show_progress="hidden", api_name=title).then(
                None, saved, None, js=html.SAVE)

        def leave(request: gr.Request) -> None:
            sessions.drop(request.session_hash)

        page.unload(leave)
    return page
