"""What the process logs and how, changed while it runs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal

LogFormat = Literal["default", "ISO8601"]
OURS = "batchyard"
"""The logger above all of ours."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """By the protocol's names."""

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    """1: also what this program says for debugging; 2: and what its libraries say."""
    log_format: LogFormat = "default"
    """default: as the process began."""


class LogSettings:
    """The options of one process's root logger; `close` puts everything back."""

    def __init__(self, root: logging.Logger) -> None:
        self._root = root
        self._level: int | None = None
        self._levels = _Levels()
        self._formats: dict[logging.Handler, logging.Formatter | None] = {}
        self.options = LogOptions()

    def change(self, options: LogOptions) -> None:
        """From now on. Logged before it counts, so that the log itself tells why it falls silent."""
        if options == self.options:
            return
        log.warning("a client changes the log settings: %s", options)
        self.options = options
        self._levels.options = options
        for handler in self._root.handlers:
            self._formats.setdefault(handler, handler.formatter)
            if self._levels not in handler.filters:
                handler.addFilter(self._levels)
            iso = options.log_format == "ISO8601"
            handler.setFormatter(_iso_formatter() if iso else self._formats[handler])
        logging.getLogger(OURS).setLevel(logging.DEBUG if options.log_verbose_level >= 1 else logging.NOTSET)
        self._let_libraries_speak(options.log_verbose_level >= 2)

    def close(self) -> None:
        """As it was."""
        self.options = LogOptions()
        for handler, formatter in self._formats.items():
            handler.removeFilter(self._levels)
            handler.setFormatter(formatter)
        if self._formats:
            logging.getLogger(OURS).setLevel(logging.NOTSET)
        self._let_libraries_speak(False)
        self._formats.clear()

    def _let_libraries_speak(self, speak: bool) -> None:
        if speak and self._level is None:
            self._level = self._root.level
            self._root.setLevel(logging.DEBUG)
        elif not speak and self._level is not None:
            self._root.setLevel(self._level)
            self._level = None


class _Levels(logging.Filter):
    """Each level by its own switch, unlike a logger's level, which takes the lower ones along."""

    options = LogOptions()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return self.options.log_error
        if record.levelno >= logging.WARNING:
            return self.options.log_warning
        return record.levelno < logging.INFO or self.options.log_info


def _iso_formatter() -> logging.Formatter:
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter
