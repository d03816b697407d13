"""What the OpenAPI page says of bodies and replies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from qsave_reward.server.settings import Settings
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, LEVELS, Provenance
from qsave_reward.wire import MAX_ITEMS, MAX_PROMPT, MEDIA_TYPE, MODES

_ERROR_BODY = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "type": {"type": "string"}},
}
_SCORE = {
    "type": "object",
    "required": ["mean", "std", "probs"],
    "properties": {
        "mean": {"type": "number", "minimum": 1, "maximum": 5},
        "std": {"type": "number", "minimum": 0, "maximum": 2},
        "probs": {"type": "array", "items": {"type": "number"}, "minItems": 5, "maxItems": 5},
    },
}
_RESULT = {
    "type": "object",
    "required": ["id", "scores", "overall", "error"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "scores": {"type": ["object", "null"], "properties": dict.fromkeys(DIMENSIONS, _SCORE)},
        "overall": {"type": ["number", "null"]},
        "defects": {"type": ["array", "null"], "items": {"type": "object"}},
        "reasoning": {"type": ["string", "null"]},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "provenance": {"type": "object"},
        "error": {"oneOf": [_ERROR_BODY, {"type": "null"}]},
    },
}
_RESULTS = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "request_id": {"type": ["string", "null"]},
        "results": {"type": "array", "items": _RESULT},
        "provenance": {"type": "object"},
    },
}
_RANKING = {
    "type": "object",
    "required": ["results", "ranking"],
    "properties": {**_RESULTS["properties"], "ranking": {"type": "object"}},  # type: ignore[dict-item]
}

ERROR: dict[str, Any] = {
    "description": "Not done; the code says why.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": _ERROR_BODY}}
        }
    },
}


def _replies(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    done = {"content": {"application/json": {"schema": schema}}}
    either = {"oneOf": [schema, ERROR["content"]["application/json"]["schema"]]}
    # A request whose every clip failed gets the status of the first error and the same body.
    failed = {"description": ERROR["description"], "content": {"application/json": {"schema": either}}}
    errors: dict[int | str, dict[str, Any]] = dict.fromkeys(
        (400, 401, 408, 409, 411, 413, 415, 422, 429, 500, 503, 504), failed
    )
    return {200: {"description": "At least one clip was scored.", **done}, **errors}


METRICS_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The text format of Prometheus.", "content": {"text/plain": {}}},
    401: ERROR,
}
SCORE_REPLIES = _replies(_RESULTS)
RANK_REPLIES = _replies(_RANKING)

_PATHS = {
    "type": "object",
    "required": ["items"],
    "additionalProperties": False,
    "properties": {
        "mode": {"type": "string", "enum": list(MODES)},
        "request_id": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_ITEMS,
            "items": {
                "type": "object",
                "required": ["prompt", "path"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
                    "prompt": {"type": "string", "maxLength": MAX_PROMPT},
                    "path": {"type": "string", "minLength": 1},
                },
            },
        },
    },
    "example": {"items": [{"path": "batch7/0001.mp4", "prompt": "a red circle moves left"}]},
}
_BINARY = {"type": "string", "format": "binary"}
_MANY = {
    "application/json": {"schema": _PATHS},
    MEDIA_TYPE: {
        "schema": {
            **_BINARY,
            "description": "4-byte big-endian length, JSON header of that length, then the bytes (uint8 RGB) "
            'its items announce: {"items": [{"prompt": "...", "shape": [16, 256, 256, 3], "fps": 8}]}',
        }
    },
}
_ONE = dict.fromkeys(("video/mp4", "video/webm", "image/gif", "image/webp"), {"schema": _BINARY})

BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {**_MANY, **_ONE}}}
RANK_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _MANY}}


def model_card(provenance: Provenance, plan: FramePlan, settings: Settings) -> dict[str, Any]:
    """What `GET /v1/model` says."""
    return {
        **asdict(provenance),
        "dimensions": list(DIMENSIONS),
        "levels": list(LEVELS),
        "score_range": [1, len(LEVELS)],
        "max_frames": plan.max_frames,
        "expected_fps": plan.fps,
        "media_root": settings.media_root is not None,
        "limits": {
            name: getattr(settings, name)
            for name in ("max_queue", "max_body", "max_pixels", "body_timeout", "item_timeout")
        },
    }
