"""The loggers of gatelink. A program may set up structlog as it likes; what its set-up raises must harm no session."""

import structlog


class Logger:
    """A structlog logger that raises nothing. A line that can't be written is counted.

    name: of the logger, as in `structlog.get_logger`.
    """

    lost = 0
    """Lines of all loggers that the program's own set-up of structlog could not take."""

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)

    def info(self, event: str, **keys: object) -> None:
        try:
            self._log.info(event, **keys)
        except (Exception, SystemExit):
            Logger.lost += 1

    def warning(self, event: str, **keys: object) -> None:
        try:
            self._log.warning(event, **keys)
        except (Exception, SystemExit):
            Logger.lost += 1

    def error(self, event: str, **keys: object) -> None:
        try:
            self._log.error(event, **keys)
        except (Exception, SystemExit):
            Logger.lost += 1
