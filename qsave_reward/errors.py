"""Typed errors: a failure is never a number.

    QSaveError            anything this package raises on purpose
    ├── ConfigError       a wrong option, argument, checkpoint or data file; also a ValueError
    ├── VideoError        a clip that cannot be read; `code` says why
    ├── AnswerError       a generated answer that does not have the agreed form
    └── ServerError       a reward server that cannot be reached or refuses

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class QSaveError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: short machine-readable reason, stable between releases, for example `"no_video"`.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code

    def detach(self) -> None:
        """Let go of where it came from: the frames of a traceback hold the clips that were worked on."""
        self.__traceback__ = self.__cause__ = self.__context__ = None

    def to_dict(self) -> dict[str, str]:
        """`{"code": ..., "message": ...}`, the form used in JSON output."""
        return {"code": self.code, "message": str(self)}


class ConfigError(QSaveError, ValueError):
    """A wrong option, argument, checkpoint or data file."""

    default_code = "bad_config"


class VideoError(QSaveError):
    """A clip that cannot be read or is not acceptable."""

    default_code = "bad_video"


class AnswerError(QSaveError):
    """A generated answer that does not have the agreed form."""

    default_code = "bad_answer"


class ServerError(QSaveError):
    """A reward server that cannot be reached or refuses."""

    default_code = "server"
