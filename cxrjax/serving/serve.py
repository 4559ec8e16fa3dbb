"""`--mode=serve`: a page on which one drops films and looks at them with a trained network."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
from typing import Any

from cxrjax.data.progress import say
from cxrjax.errors import UserError
from cxrjax.evaluation.answers import read_answers
from cxrjax.explanation import heatmaps
from cxrjax.serving import card
from cxrjax.serving.examples import example
from cxrjax.serving.looking import Looker
from cxrjax.serving.sessions import Limits, Sessions
from cxrjax.training import published
from cxrjax.training.restored import restore

WAITING = 200  # uploads that may lie on the disk, unread
# The browser asks nobody else for anything. gradio's own programs are inline and are compiled.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
)


def main(
    workdir: str | None, checkpoint: str = "best", network: str | None = None,
    host: str = "127.0.0.1", port: int = 7860, max_films: int = 50, max_mb: int = 64,
) -> None:
    """Serves until Ctrl-C.

    Args:
      workdir: of the run.
      checkpoint: 'best' or 'latest'.
      network: which of the run's answers.
      host: address to be reached at; this machine alone by default.
      port: of it.
      max_films: that one session may hold.
      max_mb: size of one file.

    Raises:
      UserError: no workdir or no run there, no gradio, or the port is taken.
    """
    if not workdir:
        raise UserError("give --workdir=FOLDER of a training")
    if importlib.util.find_spec("gradio") is None:
        raise UserError('--mode=serve needs gradio: pip install "cxrjax[page]"')
    with listening(host, port) as listener:
        say(f"opening the network of {workdir}")
        place = published.located(workdir)
        restored = restore(place, checkpoint)
        looker = Looker(restored, read_answers(restored.workdir, restored), network)
        reports = card.reports_of(place, restored.step, checkpoint)
        about = card.about(restored, reports, looker.answers)
        method = first_method(looker)
        sessions = Sessions(looker, method, Limits(films=max_films, megabytes=max_mb))
        signal.signal(signal.SIGTERM, _stop)  # so that the folder of uploads is deleted
        folder = pathlib.Path(tempfile.mkdtemp(prefix="cxrjax-page-"))
        try:
            prepare_gradio(folder)
            app = make_app(sessions, place.name, about, folder, host)
            announce(host, listener.getsockname()[1], sessions.limits)
            run(make_server(app), sessions, listener)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _stop(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
      UserError: somebody does already, or there is no such address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
        return found
    except OSError as error:
        raise UserError(f"--host={host} --port={port}: no page can be served there "
                        f"({error.strerror or error}): give another --port or --host") from None


def first_method(looker: Looker) -> str:
    """The first method of heat maps that explains this network; it is compiled by that.

    Raises:
      UserError: none does.
    """
    with tempfile.TemporaryDirectory(prefix="cxrjax-page-") as folder:
        path = pathlib.Path(folder) / "film.png"
        example(0)[1].save(path)
        for method in heatmaps.METHODS:
            try:
                looker.read(path, method)
                return method
            except UserError as error:
                why = error
    raise why


def prepare_gradio(folder: pathlib.Path) -> None:
    """What gradio reads from the environment: no telemetry, and where uploads go."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1",
                      GRADIO_TEMP_DIR=str(folder))


def make_app(
    sessions: Sessions, name: str, about: str, folder: pathlib.Path, host: str, **options: Any
) -> Any:
    """The application that a web server runs.

    Args:
      sessions: that read and keep films.
      name, about: see `page.build`.
      folder: of uploads.
      host: that it will be reached at.
      options: more of `page.build`.
    """
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from cxrjax.serving import page, page_html

    blocks = page.build(sessions, name, about, folder, **options)
    blocks.queue(max_size=1000, api_open=False)
    fonts = ["system-ui", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Base(primary_hue="sky", neutral_hue="slate", radius_size="sm",
                           spacing_size="sm", font=fonts, font_mono=["monospace"])
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gr.mount_gradio_app(
        app, blocks, path="/", footer_links=[], run_history=False, show_error=False,
        max_file_size=f"{sessions.limits.megabytes}mb", ssr_mode=False, pwa=False,
        enable_monitoring=False, mcp_server=False, theme=theme, css=page_html.STYLE,
        js="() => document.body.classList.add('dark')",
    )
    # Else gradio would take any file of this machine that a visitor names for an upload: it looks
    # where a file lies only once it believes that it was launched by itself (tests/serving).
    blocks.has_launched = True
    app.add_middleware(Guard, folder=folder)
    if is_loopback(host):
        # A site that lets its name point here could read the page in a visitor's browser.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", host])
    return app


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Adds HEADERS to every answer, and refuses uploads while too many wait to be read."""

    def __init__(self, app: Any, folder: pathlib.Path):
        self._app, self._folder = app, folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        upload = scope["method"] == "POST" and scope["path"].endswith("/upload")
        if upload and waiting(self._folder) >= WAITING:
            await with_headers({"type": "http.response.start", "status": 503,
                                "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body",
                        "body": b"too many films wait to be read: try again in a minute"})
            return
        await self._app(scope, receive, with_headers)


def waiting(folder: pathlib.Path) -> int:
    """How many uploads lie there."""
    return sum(len(files) for _, _, files in os.walk(folder))


def announce(host: str, port: int, limits: Limits) -> None:
    """Says where the page is, and who else can reach it."""
    shown = f"[{host}]" if ":" in host else host
    print(f"the page: http://{shown}:{port} (Ctrl-C ends it); at most {limits.films} films of "
          f"{limits.megabytes} MB a session, none is kept after it", flush=True)
    if not is_loopback(host):
        print(f"whoever reaches this machine at {shown} can use the page: it asks for no password "
              "and does not encrypt (docs/serve.md)", file=sys.stderr, flush=True)


def make_server(app: Any) -> Any:
    """The web server of an application."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=3, server_header=False,
        access_log=False))


def run(server: Any, sessions: Sessions, listener: socket.socket) -> None:
    """Runs a web server until it is told to stop; sessions that are due end meanwhile."""
    done = threading.Event()

    def sweep() -> None:
        while not done.wait(60):
            sessions.sweep()

    threading.Thread(target=sweep, daemon=True, name="sweep").start()
    try:
        server.run(sockets=[listener])
    finally:
        done.set()
