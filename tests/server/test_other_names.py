"""The same said otherwise: what clients of vLLM and llama.cpp call an answer's constraints and limits."""

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Running

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
GBNF = 'root ::= "a" [bc]{3} end\nend ::= "!" | "?"\n'
CONSTRAINTS: list[tuple[dict[str, Any], str]] = [
    ({"guided_json": SCHEMA}, r'\{\s*"a"\s*:\s*[12]\s*\}'),
    ({"guided_json": json.dumps(SCHEMA)}, r'\{\s*"a"\s*:\s*[12]\s*\}'),
    ({"guided_regex": "[0-9]{3}-x", "guided_decoding_backend": "xgrammar"}, "[0-9]{3}-x"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"guided_grammar": GBNF}, r"a[bc]{3}[!?]"),
    ({"grammar": GBNF}, r"a[bc]{3}[!?]"),
    ({"structured_outputs": {"json": SCHEMA, "regex": None}}, r'\{\s*"a"\s*:\s*[12]\s*\}'),
    ({"structured_outputs": {"regex": "[0-9]{3}-x", "disable_fallback": True}}, "[0-9]{3}-x"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"structured_outputs": {"grammar": 'start: "a" /[bc]{3}/'}}, "a[bc]{3}"),
]


def ask(service: "Running", path: str = "chat/completions", **fields: Any) -> httpx.Response:
    asked = {"prompt": "Hi"} if path == "completions" else {"messages": [{"role": "user", "content": "Hi"}]}
    body = {"model": service.model, **asked, **fields}
    return httpx.post(f"{service.url}/v1/{path}", json=body, timeout=60)


@pytest.mark.parametrize(("fields", "pattern"), CONSTRAINTS)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_the_answer_is_held_to_it(
    service: "Running", path: str, fields: dict[str, Any], pattern: str
) -> None:
    answer = ask(service, path, max_tokens=40, temperature=0, **fields)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert re.fullmatch(pattern, choice["text"] if path == "completions" else choice["message"]["content"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA, "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"guided_grammar": "a ::= b " + "x" * 70_000}, "guided_grammar"),
    ],
)
def test_what_cannot_be_held_is_refused(service: "Running", fields: dict[str, Any], param: str) -> None:
    answer = ask(service, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_minus_one_is_no_limit(service: "Running") -> None:
    def answered(path: str, **fields: Any) -> tuple[int, str]:
        reply = ask(service, path, temperature=0, guided_regex="([0-9][a-z]){20}", **fields).json()
        return reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]

    whole = answered("chat/completions")
    assert whole[0] > 16
    assert whole[1] == "stop"
    assert answered("chat/completions", max_tokens=-1, top_k=-1) == whole
    assert answered("chat/completions", max_completion_tokens=-1) == whole
    assert answered("completions") == (16, "length")
    assert answered("completions", max_tokens=-1)[1] == "stop"
    for field, value in (("max_tokens", -2), ("top_k", -2), ("max_completion_tokens", 0)):
        refused = ask(service, **{field: value})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field


@pytest.mark.parametrize("path", ["responses", "messages"])
def test_minus_one_elsewhere(service: "Running", path: str) -> None:
    fields: dict[str, Any] = {"top_k": -1, "max_tokens": 2}
    if path == "responses":
        fields = {"input": "Hi", "max_output_tokens": -1, "messages": None, "temperature": 0}
    assert ask(service, path, **fields).status_code == 200
