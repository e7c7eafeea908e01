"""A button of ipywidgets that is heard while a cell keeps the kernel busy, where the front end can do that.

Imported only where a button is wanted: it needs ipywidgets and a running kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comm.base_comm import BaseComm
from IPython import get_ipython
from ipywidgets import Button, Layout, __protocol_version__

__all__ = ["VIEW", "HeardButton"]

VIEW = "application/vnd.jupyter.widget-view+json"
"""The media type of a widget in a cell."""


class AddressedComm(BaseComm):  # type: ignore[misc]
    """A comm to the front end that lets it choose who hears its answers.

    JupyterLab addresses them to a subshell, a thread of the kernel that is free while a cell runs (JEP 91).
    The comm that ipykernel makes by default hands answers, since 7.4 even against their address, to the shell
    that spoke last, and that is the one that is busy.
    """

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
    ) -> None:
        """Send a message to the front end."""
        kernel = get_ipython().kernel
        kernel.session.send(
            kernel.iopub_socket,
            msg_type,
            {"data": data or {}, "comm_id": self.comm_id, **keys},
            metadata=metadata or {},
            parent=kernel.get_parent(),
            ident=self.topic,
            buffers=buffers,
        )


class HeardButton(Button):  # type: ignore[misc]
    """A button that cannot be pressed until the front end has said that it shows it: then presses are heard.

    Args:
        description: Its words until then.
        heard: Called once the front end has said so.
        pressed: Called with each press.
    """

    comm: Any

    def __init__(self, description: str, *, heard: Callable[[], None], pressed: Callable[[], None]) -> None:
        super().__init__(
            description=description, icon="stop", disabled=True, layout=Layout(width="auto"), _view_count=0
        )
        self.observe(lambda change: heard() if change["new"] else None, names="_view_count")
        self.on_click(lambda button: pressed())

    def open(self) -> None:
        """Tell the front end of it."""
        if self.comm is None:
            self.comm = AddressedComm(
                target_name="jupyter.widget",
                data={"state": self.get_state(), "buffer_paths": []},
                metadata={"version": __protocol_version__},
            )

    def say(self, description: str, *, disabled: bool) -> None:
        """Change its words."""
        with self.hold_sync():
            self.description, self.disabled = description, disabled

    def bundle(self) -> dict[str, Any]:
        """What a cell shows it by."""
        return {VIEW: self.get_view_spec()}

    def leave(self) -> None:
        """Take it from the front end for good."""
        for widget in (self, self.layout, self.style):
            widget.close()
