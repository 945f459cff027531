"""The OpenAPI document of the gateway."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from visionthink import __version__
from visionthink.serve.chat_models import ChatRequest
from visionthink.serve.responses_models import ResponsesRequest

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANSWER = {"type": "object", "required": ["id", "object", "model"], "properties": {"object": {"type": "string"}}}
_MODEL = {"type": "object", "required": ["id", "object"], "properties": {"id": {"type": "string"}}}
_MODELS = {"type": "object", "required": ["data"], "properties": {"data": {"type": "array", "items": _MODEL}}}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


def openapi(name: str) -> dict[str, Any]:
    """Paths, requests and answers.

    Args:
        name: what clients call the model that is served.
    """
    models = [(ChatRequest, "validation"), (ResponsesRequest, "validation")]
    names, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas = dict(definitions.get("$defs", {})) | {"Error": _ERROR}
    chat, responses = (names[model] for model in models)  # type: ignore[index]
    for model, _ in models:
        schema = schemas[model.__name__]
        schema["properties"]["model"] |= {"enum": [name], "examples": [name]}
        schema["examples"] = [example | {"model": name} for example in schema["examples"]]
    return {
        "openapi": "3.1.0",
        "info": {"title": "visionthink", "version": __version__},
        "paths": {
            "/v1/chat/completions": {"post": _asked("Answer a conversation with images.", chat)},
            "/v1/responses": {"post": _asked("The same in the form of the Responses API, without state.", responses)},
            "/v1/models": {"get": _told("The models that are served.", _MODELS)},
            "/health": {"get": _told("Whether the server runs.", _STATUS)},
            "/ready": {"get": _told("Whether an answer can be had.", _STATUS)},
            "/metrics": {"get": {"summary": "Counters for Prometheus.", "responses": {"200": _text(), "default": _failure()}}},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _asked(summary: str, request: dict[str, Any]) -> dict[str, Any]:
    answers = {
        "application/json": {"schema": _ANSWER},
        "text/event-stream": {"schema": {"description": "Events, each with JSON as its data."}},
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": {"description": "The answer, whole or as a stream.", "content": answers}, "default": _failure()},
    }


def _told(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}, "default": _failure()}}


def _text() -> dict[str, Any]:
    return {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}


def _failure() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": "What went wrong.", "content": content}
