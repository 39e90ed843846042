"""What a run of the workflow says on the terminal: one line a step, and errors in a paragraph.

Snakemake finds the package by its name, for `--logger loraport` (profiles/default says so). All
that Snakemake says is in its own log, .snakemake/log/, as ever; with --verbose it is here as well.
"""

import logging
import os
import sys
from typing import Any

from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.base import LogHandlerBase

from .steps import QUIET, Steps


class LogHandler(LogHandlerBase):
    """Snakemake's records as lines of `Steps`; as they are with --verbose."""

    def __post_init__(self) -> None:
        """Pick the form once; rules are told by the environment to be as brief."""
        about = self.common_settings
        stream = sys.stdout if about.stdout else sys.stderr
        self._whole: logging.Handler | None = None
        if about.verbose or about.debug_dag or about.printshellcmds:
            self._whole = ColorizingTextHandler(nocolor=about.nocolor, stream=stream)
            self._whole.setFormatter(DefaultFormatter(about.quiet, about.show_failed_logs))
            self._whole.addFilter(
                DefaultFilter(
                    about.quiet,
                    about.debug_dag,
                    about.verbose,
                    about.dryrun,
                    about.printshellcmds,
                )
            )
            return
        self._steps = Steps(stream, plain=about.nocolor, dryrun=about.dryrun)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a record comes to, if anything."""
        try:
            if self._whole is not None:
                if self._whole.filter(record):
                    self._whole.emit(record)
            else:
                self._steps.tell(record)
        except Exception:
            self.handleError(record)

    @property
    def writes_to_stream(self) -> bool:
        """In place of Snakemake's own lines."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's own log is the file."""
        return False

    @property
    def has_filter(self) -> bool:
        """Records are chosen here."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Records are put into words here."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """No graph is shown."""
        return False


__all__: list[Any] = ["LogHandler"]
