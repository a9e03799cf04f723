"""``run.json`` and ``config.yaml``: what a run was, when, with which versions, and how it ended."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nequip_core.files import atomic_path

__all__ = ["CONFIG_FILE", "RUN_FILE", "RunRecord", "guarded", "only_warn"]

_LOG = logging.getLogger(__name__)
RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
_VERSION = 1


@contextlib.contextmanager
def only_warn(what: str) -> Iterator[None]:
    """Turn any failure in a ``with`` block into a warning: the run is more than its record.

    Args:
        what: what will be missing, for the message.
    """
    try:
        yield
    except Exception as error:
        _LOG.warning("%s: %s: %s", what, type(error).__name__, error)


def guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook of a callback that, if it fails, warns and is not called again."""

    @functools.wraps(hook)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(self, "_broken", False):
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self._broken = True
            name = type(self).__name__
            _LOG.warning("%s is off from now on: %s: %s", name, type(error).__name__, error)

    return call


class RunRecord:
    """The record of a run, written anew whenever something happens.

    Args:
        folder: the folder of the run.
        enabled: whether to write it; processes other than the first do not.

    Attributes:
        content: what stands in `RUN_FILE`.
    """

    def __init__(self, folder: Path, enabled: bool) -> None:
        self.folder = folder
        self.enabled = enabled
        self._started = time.monotonic()
        self.content: dict[str, Any] = {"version": _VERSION, "sessions": []}

    def start(self, checkpoint: str | None, **facts: Any) -> None:
        """Begin a session: the run itself, or going on with it.

        Args:
            checkpoint: what it goes on from, None for a fresh start.
            **facts: what else to note, e.g. ``versions``.
        """
        if checkpoint is not None:
            self._read()
        session = {"started": _now(), "checkpoint": checkpoint, "ended": None, "seconds": None}
        self.content["sessions"].append(session)
        self.content.update(facts, status="running", message=None)
        self._write()

    def _read(self) -> None:
        """Go on with the record of earlier sessions, if it can be read."""
        with contextlib.suppress(OSError, ValueError):
            content = json.loads((self.folder / RUN_FILE).read_text())
            if isinstance(content, dict) and isinstance(content.get("sessions"), list):
                self.content = content

    def note(self, **facts: Any) -> None:
        """Note facts, and how long this session has lasted; nothing before `start`."""
        if not self.content["sessions"]:
            return
        self.content.update(facts)
        self.content["sessions"][-1]["seconds"] = round(time.monotonic() - self._started, 1)
        self._write()

    def end(self, status: str, message: str | None = None) -> None:
        """End the session.

        Args:
            status: ``finished``, ``interrupted`` or ``failed``.
            message: why, if it did not finish.
        """
        if not self.content["sessions"]:
            return
        self.content["sessions"][-1]["ended"] = _now()
        self.note(status=status, message=message)

    def _write(self) -> None:
        if not self.enabled:
            return
        with only_warn(f"{RUN_FILE} is not written"), atomic_path(self.folder / RUN_FILE) as file:
            file.write_text(json.dumps(self.content, indent=1, default=str))

    def write_config(self, sections: Mapping[str, Any]) -> None:
        """Write the config with every interpolation resolved.

        Args:
            sections: plain containers by top-level key.
        """
        if not self.enabled:
            return
        final = self.folder / CONFIG_FILE
        with only_warn(f"{CONFIG_FILE} is not written"), atomic_path(final) as file:
            file.write_text(yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
