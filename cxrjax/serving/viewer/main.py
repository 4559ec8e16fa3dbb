"""`--mode=view`: a window for looking at films with a trained network."""

from __future__ import annotations

import contextlib
import gc

from cxrjax.errors import UserError
from cxrjax.serving.viewer.reader import Reader, loader

NO_TKINTER = (
    "this Python has no tkinter, which the window needs: install python3-tk (Debian, Ubuntu), "
    "python3-tkinter (Fedora) or `brew install python-tk` (macOS), or use --mode=explain"
)


def main(
    workdir: str | None, images: str | None = None, checkpoint: str = "best",
    network: str | None = None,
) -> None:
    """Opens the window and returns when it is closed.

    A workdir without a checkpoint and a film that cannot be read are messages in the window.

    Raises:
      UserError: no workdir given, no tkinter, or no screen.
    """
    if not workdir:
        raise UserError("give --workdir=FOLDER of a training")
    try:
        import tkinter

        from cxrjax.serving.viewer.window import Window
    except ImportError as error:
        if error.name and error.name.strip("_").startswith("tkinter"):
            raise UserError(NO_TKINTER) from None
        raise
    try:
        root = tkinter.Tk(className="cxrjax")
    except tkinter.TclError as error:
        raise UserError(
            f"no screen to open a window on ({error}): set DISPLAY, or use --mode=explain"
        ) from None
    stopped = False
    try:
        Window(root, Reader(loader(workdir, checkpoint), network), images).run()
    except KeyboardInterrupt:
        stopped = True
        with contextlib.suppress(tkinter.TclError):  # destroyed already
            root.destroy()
    # Tcl aborts the process if another thread than this one deletes its interpreter, and the
    # garbage collector runs in any thread.
    del root
    gc.collect()
    if stopped:
        raise KeyboardInterrupt
