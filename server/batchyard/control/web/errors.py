"""Domain errors as JSON: {"error": {"code": 404, "reason": "JOB_NOT_FOUND", "message": "..."}}.

Bad input adds "violations", a list of {"field", "description"}.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from batchyard.endpoint import errors

CODES: dict[type[errors.DomainError], int] = {
    errors.InvalidInputError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.AlreadyExistsError: 409,
    errors.PreconditionError: 409,
    errors.OutOfRangeError: 416,
    errors.OverloadedError: 429,
    errors.UnsupportedError: 501,
    errors.UnavailableError: 503,
    errors.DeadlineError: 504,
}

log = logging.getLogger(__name__)


@web.middleware
async def answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns what a handler raises into an answer; an unforeseen error is logged, and its id told."""
    try:
        return await handler(request)
    except errors.DomainError as error:
        return _domain_answer(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_answer(error.status, "HTTP_ERROR", f"{request.method} {request.path}: {error.reason}")
    except ConnectionResetError:
        raise
    except Exception:
        incident = uuid.uuid4().hex[:12]
        log.exception("incident %s in %s %s", incident, request.method, request.path)
        return error_answer(500, "INTERNAL", f"internal error; the server's log has it as incident {incident}")


def error_answer(code: int, reason: str, message: str, **more: Any) -> web.Response:
    """An error as the whole answer."""
    return web.json_response({"error": {"code": code, "reason": reason, "message": message, **more}}, status=code)


def _domain_answer(error: errors.DomainError) -> web.Response:
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    more: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInputError):
        more["violations"] = [{"field": v.field, "description": v.description} for v in error.violations]
    answer = error_answer(code, error.reason, error.message, **more)
    if isinstance(error, errors.OverloadedError):
        answer.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return answer
