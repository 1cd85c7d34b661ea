"""The OpenAPI document, made from the same classes that read requests."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from .fields import ChatRequest, CompletionRequest

_ERROR_STATUSES = {
    400: "The request is at fault; `param` names the field",
    401: "There is no API key, or none that is valid",
    403: "The key is not for this",
    404: "There is no such model",
    408: "The body did not come in time",
    413: "The body is too long",
    429: "Too busy; `Retry-After` says when to come again",
    500: "The gateway or a server is at fault",
    503: "No server is ready",
    504: "The deadline passed",
}

_NULLABLE_STRING = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _array(of: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}


_USAGE = _object(
    ["prompt_tokens", "completion_tokens", "total_tokens"],
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
)


def _answer(kind: str, choice: str) -> dict[str, Any]:
    return _object(
        ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"],
        id={"type": "string"},
        object={"const": kind},
        created={"type": "integer"},
        model={"type": "string"},
        system_fingerprint={"type": "string", "description": "The release that answered"},
        choices=_array(choice),
        usage={"$ref": "#/components/schemas/Usage"},
    )


_FINISH_REASON = {"enum": ["stop", "length"]}
_LOG_PROBS = {"type": ["object", "null"]}

_ANSWERS: dict[str, Any] = {
    "Usage": _USAGE,
    "ChatChoice": _object(
        ["index", "message", "logprobs", "finish_reason"],
        index=_COUNT,
        message=_object(["role", "content"], role={"const": "assistant"}, content={"type": "string"}),
        logprobs=_LOG_PROBS,
        finish_reason=_FINISH_REASON,
    ),
    "CompletionChoice": _object(
        ["index", "text", "logprobs", "finish_reason"],
        index=_COUNT,
        text={"type": "string"},
        logprobs=_LOG_PROBS,
        finish_reason=_FINISH_REASON,
    ),
    "ChatAnswer": _answer("chat.completion", "ChatChoice"),
    "CompletionAnswer": _answer("text_completion", "CompletionChoice"),
    "Model": _object(
        ["id", "object", "created", "owned_by", "releases"],
        id={"type": "string"},
        object={"const": "model"},
        created={"type": "integer"},
        owned_by={"type": "string"},
        releases={"type": "array", "items": {"type": "string"}},
    ),
    "Models": _object(["object", "data"], object={"const": "list"}, data=_array("Model")),
    "Status": _object(["status"], status={"type": "string"}),
    "Error": _object(
        ["error"],
        error=_object(
            ["message", "type", "param", "code"],
            message={"type": "string"},
            type={"type": "string"},
            param=_NULLABLE_STRING,
            code=_NULLABLE_STRING,
        ),
    ),
}

_HEADERS = [
    ("x-request-id", {"type": "string", "maxLength": 128}, "Comes back with the answer, and stands in the log"),
    ("x-trireme-priority", {"type": "integer", "minimum": -10, "maximum": 10}, "The highest goes first"),
    ("x-trireme-deadline-ms", {"type": "integer", "minimum": 1}, "After which the answer is of no use"),
    ("x-trireme-session", {"type": "string"}, "What belongs together goes to the same server and release"),
]


def _json_of(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): {"description": _ERROR_STATUSES[status], "content": _json_of("Error")} for status in statuses}


#: With "stream": true, each event.
_EVENT = _object(["data"], data={"type": "string", "description": "A chunk as JSON, an error, or in the end [DONE]"})


def _post(summary: str, body: str, answer: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {**_json_of(answer), "text/event-stream": {"schema": _EVENT}}
    media = _json_of(body)
    media["application/json"]["examples"] = {
        "whole": {"value": example},
        "streamed": {"value": {**example, "stream": True, "stream_options": {"include_usage": True}}},
    }
    return {
        "post": {
            "summary": summary,
            "operationId": body,
            "parameters": [
                {"name": name, "in": "header", "schema": schema, "description": description}
                for name, schema, description in _HEADERS
            ],
            "requestBody": {"required": True, "content": media},
            "responses": {"200": {"description": "The answer", "content": content}, **_errors(*_ERROR_STATUSES)},
        }
    }


def _get(
    summary: str, name: str, answers: dict[str, Any], parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {"get": {"summary": summary, "operationId": name, "parameters": parameters or [], "responses": answers}}


def _ok(schema: str) -> dict[str, Any]:
    return {"200": {"description": "As asked for", "content": _json_of(schema)}}


def openapi_document(models: Sequence[str]) -> dict[str, Any]:
    """The document, as of OpenAPI 3.1, of a gateway that has these models."""
    _, definitions = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    for body in ("ChatRequest", "CompletionRequest"):
        definitions["$defs"][body]["properties"]["model"] = {"enum": list(models)}
    chat = {"model": models[0], "messages": [{"role": "user", "content": "What is 37 + 58?"}], "max_tokens": 16}
    text = {"model": models[0], "prompt": "What is 37 + 58?", "max_tokens": 16}
    busy = {"503": {"description": _ERROR_STATUSES[503], "content": _json_of("Status")}}
    model_id = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    plain = {"200": {"description": "As asked for", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trireme", "version": version("trireme"), "description": "OpenAI's API over Triton servers."},
        "paths": {
            "/v1/chat/completions": _post("Answer a chat", "ChatRequest", "ChatAnswer", chat),
            "/v1/completions": _post("Continue a text", "CompletionRequest", "CompletionAnswer", text),
            "/v1/models": _get("The models", "models", {**_ok("Models"), **_errors(401)}),
            "/v1/models/{id}": _get("One model", "model", {**_ok("Model"), **_errors(401, 403, 404)}, model_id),
            "/health/live": _get("Whether the gateway runs", "live", _ok("Status")),
            "/health/ready": _get("Whether it can answer", "ready", {**_ok("Status"), **busy}),
            "/metrics": _get("For Prometheus", "metrics", plain),
        },
        "components": {"schemas": {**definitions["$defs"], **_ANSWERS}},
    }
