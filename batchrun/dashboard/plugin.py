"""The plugin that lives in the scheduler, keeps the board and serves the page beside Dask's own."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from distributed.diagnostics.plugin import SchedulerPlugin

from batchrun.dashboard import metrics
from batchrun.dashboard.board import Board
from batchrun.dashboard.leases import LEASES
from batchrun.dashboard.message import TOPIC

if TYPE_CHECKING:
    from distributed import Client, Scheduler

__all__ = ["PAGE", "DashboardPlugin", "install"]

PAGE = "batchrun"
"""The name of the page: the last part of its address, and its link in the navigation."""

_log = logging.getLogger("batchrun.dashboard")
_installed: weakref.WeakKeyDictionary[Client, tuple[Callable[[], object], str]] = weakref.WeakKeyDictionary()
"""By client the connection to the scheduler on which the page was found, and its address."""


class DashboardPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Keeps what runs tell of themselves, and shows it at ``/batchrun`` of the Dask dashboard.

    It is made anew by every client but started once: the scheduler knows it by its name.
    """

    name = "batchrun-dashboard"
    idempotent: ClassVar[bool] = True

    def __init__(self) -> None:
        self.board = Board()
        """The runs so far."""
        self._pages: weakref.WeakKeyDictionary[Any, Any] | None = None

    def start(self, scheduler: Scheduler) -> None:
        """Add the page to the scheduler's HTTP server, if that has a dashboard, and metrics to its others."""
        metrics.show(self.board)
        dashboard = _dashboard_of(scheduler)
        if dashboard is None:
            return
        from distributed.dashboard.core import BokehApplication
        from tornado.ioloop import IOLoop

        from batchrun.dashboard.opening import Ahead
        from batchrun.dashboard.pace import Pace
        from batchrun.dashboard.page import open_page

        self._pages = weakref.WeakKeyDictionary()
        shown = functools.partial(open_page, self.board, pace=Pace(), opened=self._pages.__setitem__)
        variables = _link(scheduler)
        page = BokehApplication(
            {f"/{PAGE}": shown}, scheduler, prefix=dashboard.prefix, template_variables=variables
        )
        extra = {"prefix": page.prefix, **variables}
        for context in getattr(page, "_applications", {}).values():  # else they are made on the loop
            context.application.add(Ahead(functools.partial(shown, scheduler, extra)))
        scheduler.http_application.add_application(page)
        # Without its loop the application cannot be stopped, and the scheduler not be closed.
        page.initialize(IOLoop.current())
        page.start()

    async def close(self) -> None:
        """The scheduler ends; pages that are open still show what they have."""
        metrics.hide(self.board)
        for doc, callback in list((self._pages or {}).items()):
            if doc.session_context is None:  # given up, but not yet collected
                continue
            with contextlib.suppress(ValueError):  # the tab was closed meanwhile
                doc.remove_periodic_callback(callback)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take in what a run says of itself, or a service of its leases."""
        if topic == TOPIC:
            self.board.take(msg)
        elif topic == LEASES:
            self.board.leases.take(msg)


def install(client: Client) -> str:
    """Add the page to the dashboard of the scheduler that *client* is connected to, and give its address.

    The address is empty if the scheduler has no dashboard, or cannot have the page; then the reason is
    logged as a warning, and nothing else is different. A second call for the same scheduler changes nothing.
    """
    connection, url = _installed.get(client, (lambda: None, ""))
    if client.scheduler_comm is None or connection() is not client.scheduler_comm:
        url = _install(client)
        if url:
            _installed[client] = weakref.ref(client.scheduler_comm), url
    return url


def _install(client: Client) -> str:
    try:
        client.register_plugin(DashboardPlugin())
        if not client.run_on_scheduler(has_page):
            return ""
        link = str(client.dashboard_link or "")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = (
            "; install batchrun where the scheduler runs to have it"
            if isinstance(error, ImportError) or "No module named" in reason
            else ""
        )
        _log.warning("there is no live page for this run: %s%s", reason[:300], hint)
        return ""
    return f"{link.removesuffix('/status').rstrip('/')}/{PAGE}" if link else ""


def has_page(dask_scheduler: Scheduler) -> bool:
    """Whether the page is there; run on the scheduler."""
    return any(f"/{PAGE}" in paths for paths in _paths(dask_scheduler))


def _paths(scheduler: Scheduler) -> list[set[str]]:
    applications = getattr(getattr(scheduler, "http_application", None), "applications", ())
    return [set(app.app_paths) for app in applications if hasattr(app, "app_paths")]


def _dashboard_of(scheduler: Scheduler) -> Any:
    """Dask's own Bokeh application; None if the dashboard is off or Bokeh is not installed."""
    applications = getattr(getattr(scheduler, "http_application", None), "applications", ())
    return next((app for app in applications if "/status" in getattr(app, "app_paths", ())), None)


def _link(scheduler: Scheduler) -> dict[str, Any]:
    """Put the page into the navigation of every page, and give what its template needs for its own.

    Dask has no public way in; where its names have changed the page is there without a link.
    """
    try:
        from distributed.dashboard.scheduler import template_variables

        variables: dict[str, Any] = template_variables(scheduler)
        pages = variables["pages"]
        if PAGE not in pages:
            pages.append(PAGE)
    except (ImportError, KeyError, TypeError, AttributeError):
        _log.info("this version of Dask has no navigation that batchrun knows; its page is at /%s", PAGE)
        return {}
    return variables
