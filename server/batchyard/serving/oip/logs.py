"""LogSettings: what the server logs. Reading and changing it is open to every caller; each change is logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchyard.endpoint.errors import FieldViolation, ForbiddenError, InvalidInputError
from batchyard.oip import messages
from batchyard.serving.log_settings import LogOptions, LogSettings
from batchyard.serving.shown import shown

HIGHEST_VERBOSE_LEVEL = 2


class Logging:
    """The extension's one call."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings

    async def LogSettings(self, request: messages.LogSettingsRequest, context: Any) -> messages.LogSettingsResponse:
        """Changes what is given and answers with everything. Raises InvalidInputError, ForbiddenError for log_file."""
        changes = {name: _read(name, value) for name, value in request.settings.items()}
        options = {**vars(self._settings.options), **changes}
        self._settings.change(LogOptions(**options))
        value = messages.LogSettingsResponse.SettingValue
        options = vars(self._settings.options)
        return messages.LogSettingsResponse(
            settings={
                "log_file": value(string_param=""),  # standard error; whoever started the process decides where to
                **{name: value(**{FIELDS[name]: known}) for name, known in options.items()},
            }
        )


FIELDS = {
    "log_info": "bool_param",
    "log_warning": "bool_param",
    "log_error": "bool_param",
    "log_verbose_level": "uint32_param",
    "log_format": "string_param",
}
"""Setting -> the field that carries it."""
LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "log_verbose_level": (lambda level: level <= HIGHEST_VERBOSE_LEVEL, f"0 to {HIGHEST_VERBOSE_LEVEL}"),
    "log_format": (lambda name: name in ("default", "ISO8601"), "default or ISO8601"),
}


def _read(name: str, given: messages.LogSettingsRequest.SettingValue) -> bool | int | str:
    """The setting's new value; without one, its default. Raises InvalidInputError, ForbiddenError."""
    if name == "log_file":
        raise ForbiddenError(
            "log_file cannot be changed by a client: the log goes to standard error", reason="LOG_FILE_FORBIDDEN"
        )
    if name not in FIELDS:
        raise _invalid(shown(name), f"unknown; expected one of {', '.join(FIELDS)}")
    kind = given.WhichOneof("parameter_choice")
    if kind is None:
        default: bool | int | str = getattr(LogOptions(), name)
        return default
    if kind != FIELDS[name]:
        raise _invalid(name, f"got {kind}; expected {FIELDS[name]}")
    value: bool | int | str = getattr(given, kind)
    legal, expected = LEGAL.get(name, (lambda _: True, ""))
    if not legal(value):
        raise _invalid(name, f"got {shown(str(value))}; expected {expected}")
    return value


def _invalid(name: str, problem: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(f"settings[{name}]", problem)])
