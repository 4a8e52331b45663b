"""A model's window, as servers state it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlm.models.window import entry_window, find_entry, listed_names, native_path, native_window

LLAMA_CPP = {"id": "/models/q.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 32768}}
OLD_LLAMA_CPP = {"id": "/models/q.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 32768}}


def window(entry: dict[str, Any]) -> int | None:
    return entry_window(entry)


@pytest.mark.parametrize(
    ("entry", "stated"),
    [
        (LLAMA_CPP, 4096),  # what is served, not what was trained; hermes-agent#64897
        (OLD_LLAMA_CPP, None),
        ({"id": "m", "owned_by": "vllm", "max_model_len": 8192}, 8192),
        ({"id": "m", "context_length": 131072}, 131072),
        ({"id": "m", "context_length": 200000, "top_provider": {"context_length": 32768}}, 32768),
        ({"id": "m", "context_length": 65536, "top_provider": {"context_length": None}}, 65536),
        ({"id": "m", "context_window": 131072, "max_completion_tokens": 8192}, 131072),
        ({"id": "m", "max_context_length": 32768}, 32768),
        ({"id": "m", "state": "loaded", "loaded_context_length": 4096, "max_context_length": 131072}, 4096),
        ({"id": "m", "state": "loaded", "max_context_length": 131072}, None),
        ({"id": "m", "state": "not-loaded", "max_context_length": 131072}, None),
        ({"id": "m"}, None),
        ({"id": "m", "max_model_len": 0}, None),
        ({"id": "m", "max_model_len": -1}, None),
        ({"id": "m", "max_model_len": True}, None),
        ({"id": "m", "max_model_len": "8192"}, None),
        ({"id": "m", "max_model_len": 1e9}, None),
        ({"id": "m", "meta": None, "max_model_len": None}, None),
        ({"id": "m", "meta": [1]}, None),
    ],
)
def test_the_window_of_an_entry_is_what_the_server_serves(entry: dict[str, Any], stated: int | None) -> None:
    assert window(entry) == stated


@pytest.mark.parametrize(
    ("answer", "model", "found"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, "b", "b"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, "c", None),
        ({"data": [{"id": "a"}]}, "c", "a"),  # one model that answers to any name
        ([{"id": "a"}, {"id": "b"}], "b", "b"),  # Together
        ({"data": [{"id": "b:latest"}, {"id": "b:7b"}]}, "b", "b:latest"),
        ({"data": [{"id": "b:latest"}, {"id": "b"}]}, "b", "b"),
        ({"data": [{"id": "a"}, {"id": "x.gguf", "aliases": ["b"]}]}, "b", "x.gguf"),
        ({"data": []}, "b", None),
        ({"data": None}, "b", None),
        ({"data": ["b"]}, "b", None),
        ("text", "b", None),
    ],
)
def test_the_entry_is_that_of_the_name_or_the_only_one(answer: object, model: str, found: str | None) -> None:
    entry = find_entry(json.dumps(answer).encode(), model)
    assert (None if entry is None else entry["id"]) == found


def test_what_is_no_list_states_nothing() -> None:
    for body in (b"", b"<html>", b"\xff", b"[" * 100_000, b"null", b"3"):
        assert find_entry(body, "m") is None
        assert native_window(body, "m") is None
        assert listed_names(body) == []


def test_servers_without_a_window_in_their_list_have_it_elsewhere() -> None:
    assert native_path(OLD_LLAMA_CPP) == "/props"
    assert native_window(b'{"default_generation_settings": {"n_ctx": 1024}, "total_slots": 4}', "m") == 1024
    assert native_path({"id": "m", "owned_by": "organization_owner"}) == "/api/v0/models"
    loaded = {"id": "m", "state": "loaded", "loaded_context_length": 4096, "max_context_length": 32768}
    assert native_window(json.dumps({"data": [loaded, {"id": "n"}]}).encode(), "m") == 4096
    assert native_path({"id": "m", "owned_by": "library"}) == "/api/ps"
    running = {"name": "m:latest", "model": "m:latest", "context_length": 4096}
    assert native_window(json.dumps({"models": [running]}).encode(), "m") == 4096
    assert native_window(b'{"models": []}', "m") is None
    assert native_path({"id": "m", "owned_by": "vllm"}) is None
