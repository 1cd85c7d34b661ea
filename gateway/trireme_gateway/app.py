"""The gateway as an ASGI application."""

import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trireme_client import TriremeError

from .accounts.token import masked
from .api.document import openapi_document
from .api.errors import body_of, error_object, headers_of, status_of
from .api.fields import ChatRequest, CompletionRequest
from .api.translate import wish_of_chat, wish_of_completion
from .api.wording import ChatWording, CompletionWording
from .errors import Forbidden
from .identity import Caller, has_key_in_query
from .metrics import CONTENT_TYPE, Metrics
from .service import Service
from .web.completions import Completions
from .web.reading import Receive, Scope, Send


class Gateway:
    """The application, and whether it is to be sent requests."""

    def __init__(self, service: Service, metrics: Metrics, connections: Callable[[], int] = lambda: 0) -> None:
        self.service = service
        self.draining = False
        self._metrics = metrics
        self._connections = connections
        self._created = int(time.time())
        chat = Completions(service, metrics, "chat", ChatRequest, wish_of_chat, ChatWording)
        plain = Completions(service, metrics, "completions", CompletionRequest, wish_of_completion, CompletionWording)
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/completions", plain, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{id:path}", self._model, methods=["GET"]),
                Route("/health/live", self._live, methods=["GET"]),
                Route("/health/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics_page, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _http_error, TriremeError: _known_error},
        )
        self.asgi = self._without_keys_in_urls
        self.app.router.redirect_slashes = False

    async def _without_keys_in_urls(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, as it is served."""
        if scope["type"] == "http" and scope["query_string"] and has_key_in_query(scope["query_string"]):
            message = (
                "a key in the URL stands in the logs of everybody on the way: revoke it, and send one as the header "
            )
            response = _error(400, message + "Authorization: Bearer KEY", "invalid_request_error", None, "key_in_url")
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _entry(self, number: int) -> dict[str, Any]:
        model = self.service.settings.model[number]
        releases = sorted({release.name for release in self.service.fleet.live(model.llm)})
        return {
            "id": model.id,
            "object": "model",
            "created": self._created,
            "owned_by": "trireme",
            "releases": releases,
        }

    async def _caller(self, request: Request) -> Caller:
        """Who asks for anything but an answer. Raises TriremeError."""
        return await self.service.accounting.caller_of(dict(request.scope["headers"]), request.scope.get("client"))

    async def _models(self, request: Request) -> Response:
        caller, may_ask = await self._caller(request), self.service.accounting.may_ask
        models = enumerate(self.service.settings.model)
        data = [self._entry(number) for number, model in models if may_ask(caller, model.id)]
        return JSONResponse({"object": "list", "data": data})

    async def _model(self, request: Request) -> Response:
        caller = await self._caller(request)
        wanted = request.path_params["id"]
        for number, model in enumerate(self.service.settings.model):
            if model.id == wanted:
                self.service.accounting.check_model(caller, wanted)
                return JSONResponse(self._entry(number))
        names = ", ".join(model.id for model in self.service.settings.model)
        message = f"there is no model {masked(wanted)[:80]!r}; there are {names}"
        return _error(404, message, "invalid_request_error", "model", "model_not_found")

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "draining"}, 503)
        ready = self.service.fleet.is_ready
        return JSONResponse({"status": "ok" if ready else "no server is ready"}, 200 if ready else 503)

    async def _metrics_page(self, request: Request) -> Response:
        if self.service.accounting.is_key_required:
            caller = await self._caller(request)
            if caller.key is None or not caller.key.may_read_metrics:
                raise Forbidden(
                    "the key is not for metrics; `trireme keys create --metrics` makes one that is",
                    "metrics_not_allowed",
                )
        self.service.accounting.gauges()
        text = self._metrics.text(self.service.fleet.waiting(), self._connections())
        return Response(text, media_type=CONTENT_TYPE)

    async def _openapi(self, _request: Request) -> Response:
        return JSONResponse(openapi_document([model.id for model in self.service.settings.model]))


def _error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> Response:
    return JSONResponse(error_object(message, kind, param, code), status)


async def _known_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TriremeError)
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    return Response(body_of(error), status_of(error), headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"there is no {masked(request.url.path)[:80]!r}; GET /openapi.json lists what there is",
        405: f"{request.method[:20]} is not allowed on {request.url.path[:80]!r}",
    }.get(error.status_code, error.detail)
    response = _error(error.status_code, message, "invalid_request_error")
    response.headers.update(error.headers or {})
    return response
