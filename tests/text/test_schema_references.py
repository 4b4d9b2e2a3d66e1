"""References lead where the document as it was given has it: jsonschema is the oracle."""

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.grammar.source import read_grammar

OLD = "http://json-schema.org/draft-%s/schema#"
TEXT, NUMBER = {"type": "string", "minLength": 2}, {"type": "integer"}
VALUES: list[Any] = [
    None, 1, 2.5, "a", "ab", [], ["ab"], ["a"], [1], [["ab"]], [[1]], {"a": 1}, {"a": "ab"}, {"b": "ab"},
    {"a": "ab", "b": "ab"}, {"a": [{"a": "ab"}]}, {"data": 1, "children": [{"data": 2}]},
    {"data": 1, "children": [{"daat": 2}]}, {"a": 1, "b": 1}, {"list": [1]}, {"list": ["ab"]},
]  # fmt: skip
LED: dict[str, dict[str, Any]] = {
    "an option": {"oneOf": [TEXT, {"type": "array", "items": {"$ref": "#/oneOf/0"}}]},
    "a condition": {"if": TEXT, "then": {"maxLength": 2}, "else": {"items": {"$ref": "#/if"}}},
    "a consequence": {
        "if": {"type": "object"},
        "then": {"required": ["a"]},
        "else": {"items": {"$ref": "#/then"}},
    },
    "what is not": {"not": {"type": "null"}, "items": {"$ref": "#/not"}},
    "what depends": {
        "properties": {"a": True, "b": True},
        "dependentSchemas": {"a": {"required": ["b"]}},
        "additionalProperties": {"items": {"$ref": "#/dependentSchemas/a"}},
    },
    "what is contained": {
        "type": "array",
        "maxItems": 2,
        "contains": TEXT,
        "items": {"anyOf": [{"$ref": "#/contains"}, NUMBER]},
    },
    "names": {"propertyNames": {"enum": ["a"]}, "properties": {"a": {"$ref": "#/propertyNames"}}},
    "itself": {"type": ["array", "string"], "items": {"$ref": "#"}},
    "both ways": {
        "properties": {"a": {"$ref": "#/additionalProperties/not"}},
        "additionalProperties": {"not": {"type": "integer", "minimum": 5}},
    },
    "signs in names": {"items": {"$ref": "#/$defs/a~1b%25~0c%22d e"}, "$defs": {'a/b%~c"d e': TEXT}},
    "an unknown place": {"items": {"$ref": "#/components/schemas/A"}, "components": {"schemas": {"A": TEXT}}},
    "an unknown list": {"items": {"$ref": "#/parts/1"}, "parts": [NUMBER, TEXT]},
    "a definition inside": {
        "properties": {"a": {"$ref": "#/properties/b/$defs/c"}, "b": {"$defs": {"c": TEXT}}},
    },
    "a name": {"items": {"$ref": "#t"}, "$defs": {"a": {"$anchor": "t", **TEXT}}},
    "a name of an option": {"anyOf": [{"$anchor": "t", **TEXT}, {"items": {"$ref": "#t"}, "type": "array"}]},
    "ids": {
        "$id": "http://a.example/b/c.json",
        "items": {"$ref": "d.json#/$defs/t"},
        "$defs": {"x": {"$id": "d.json", "$defs": {"t": TEXT}}},
    },
    "an id's own root": {
        "$id": "http://a.example/root",
        "properties": {"list": {"$ref": "list"}},
        "$defs": {
            "x": {"$id": "list", "type": "array", "items": {"$ref": "#/$defs/t"}, "$defs": {"t": TEXT}},
            "t": NUMBER,
        },
    },
    "a name of an id": {
        "items": {"$ref": "other#t"},
        "$defs": {
            "a": {"$anchor": "t", **NUMBER},
            "b": {"$id": "other", "$defs": {"c": {"$anchor": "t", **TEXT}}},
        },
    },
    "a number's name": {
        "items": {"$ref": "urn:uuid:123e4567-e89b-12d3-a456-426614174000#t"},
        "$defs": {
            "a": {
                "$id": "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
                "$defs": {"c": {"$anchor": "t", **TEXT}},
            }
        },
    },
    "draft 4's id": {
        "$schema": OLD % "04",
        "id": "http://a.example/b",
        "items": {"$ref": "c#t"},
        "definitions": {"x": {"id": "c", "definitions": {"y": {"id": "#t", **TEXT}}}},
    },
    "draft 7's name": {
        "$schema": OLD % "07",
        "items": {"$ref": "#t"},
        "definitions": {"x": {"$id": "#t", **TEXT}},
    },
    "draft 7's list": {"$schema": OLD % "07", "items": [TEXT, {"$ref": "#/items/0"}]},
    "an id that is none": {
        "items": {"$ref": "#/$defs/a"},
        "$defs": {"a": {"id": "b", "items": {"$ref": "#/$defs/t"}}, "t": TEXT},
    },
    "a tree that is extended": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "http://a.example/strict",
        "$dynamicAnchor": "node",
        "$ref": "tree",
        "properties": {"data": True, "children": True},
        "additionalProperties": False,
        "$defs": {
            "tree": {
                "$id": "tree",
                "$dynamicAnchor": "node",
                "type": "object",
                "properties": {
                    "data": NUMBER,
                    "children": {"type": "array", "items": {"$dynamicRef": "#node"}},
                },
            }
        },
    },
    "a generic list": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "http://a.example/texts",
        "$ref": "list",
        "$defs": {
            "t": {"$dynamicAnchor": "t", **TEXT},
            "list": {
                "$id": "list",
                "type": "array",
                "items": {"$dynamicRef": "#t"},
                "$defs": {"t": {"$dynamicAnchor": "t", **NUMBER}},
            },
        },
    },
    "one dynamic name": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "items": {"$dynamicRef": "#t", "minLength": 1},
        "$defs": {"t": {"$dynamicAnchor": "t", **TEXT}},
    },
    "a dynamic reference to a plain name": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "items": {"$dynamicRef": "#t"},
        "$defs": {"t": {"$anchor": "t", **TEXT}},
    },
    "a recursive tree": {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "$id": "http://a.example/strict",
        "$recursiveAnchor": True,
        "$ref": "tree",
        "properties": {"data": True, "children": True},
        "additionalProperties": False,
        "$defs": {
            "tree": {
                "$id": "tree",
                "$recursiveAnchor": True,
                "type": "object",
                "properties": {
                    "data": NUMBER,
                    "children": {"type": "array", "items": {"$recursiveRef": "#"}},
                },
            }
        },
    },
    "a tree that is not recursive": {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "$id": "http://a.example/root",
        "additionalProperties": {"$ref": "list"},
        "$defs": {"list": {"$id": "list", "type": ["array", "string"], "items": {"$recursiveRef": "#"}}},
    },
}


def wrong(schemas: Any, schema: dict[str, Any], values: list[Any]) -> list[Any]:
    """The values that are taken and not valid, or the other way round."""
    matcher = schemas.ours(schema)
    assert matcher is not None
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    return [value for value in values if schemas.takes(matcher, value) != validator.is_valid(value)]


@pytest.mark.parametrize("case", LED)
def test_a_reference_leads_where_the_document_has_it(schemas: Any, case: str) -> None:
    assert wrong(schemas, LED[case], VALUES) == []


NAMES = st.text(st.sampled_from('ab~/%" #ü?'), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_any_name_can_be_pointed_at(schemas: Any, names: list[str]) -> None:
    part: Any = TEXT
    for name in reversed(names):
        part = {name: part}
    tokens = [name.replace("~", "~0").replace("/", "~1").replace("%", "%25") for name in names]
    schema = {"items": {"$ref": "#/x/" + "/".join(tokens)}, "x": part}
    assert wrong(schemas, schema, [["ab"], ["a"], [1], []]) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nowhere": (
        {"items": {"$ref": "#/$defs/a"}},
        "the JSON schema at #/items: the keyword \"$ref\" is '#/$defs/a', which leads to nothing in this",
    ),
    "elsewhere": ({"$ref": "http://a.example/b"}, "leads to nothing in this document"),
    "no schema": ({"$ref": "#/$defs", "$defs": [1]}, "leads to nothing in this document"),
    "no text": ({"$dynamicRef": 3}, '"$dynamicRef" is 3: give a text'),
    "two dynamic names": (
        {
            "properties": {"a": {"$ref": "a"}, "b": {"$ref": "b"}},
            "$defs": {
                "a": {"$id": "a", "$dynamicAnchor": "t", "items": {"$ref": "list"}},
                "b": {"$id": "b", "$dynamicAnchor": "t", "items": {"$ref": "list"}},
                "list": {
                    "$id": "list",
                    "items": {"$dynamicRef": "#t"},
                    "$defs": {"t": {"$dynamicAnchor": "t"}},
                },
            },
        },
        "the JSON schema at list/items: the keyword \"$dynamicRef\" is '#t', which leads elsewhere",
    ),
    "a slip behind a reference": (
        {"oneOf": [{"$ref": "#/x/y"}, {"type": "null"}], "x": {"y": {"maxlength": 3}}},
        'the JSON schema at #/x/y: the keyword "maxlength" is unknown',
    ),
    "what cannot be ensured behind a reference": (
        {"items": {"$ref": "#/x/y"}, "x": {"y": {"not": {"pattern": "a"}}}},
        'the JSON schema at #/x/y: the keyword "not" cannot be ensured',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reference_that_leads_nowhere_is_refused_by_name(case: str) -> None:
    schema, message = REFUSED[case]
    with pytest.raises(RequestError, match=re.escape(message)):
        read_grammar(Grammar("json_schema", json.dumps(schema)), False)


def test_what_references_bring_together_may_not_grow_without_bound() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for n in range(60):
        schema = {"$anchor": f"a{n}", "title": "b" * 1000, "properties": {"a": schema}}
    schema["properties"] |= {str(n): {"$ref": f"#a{n}"} for n in range(60)}
    with pytest.raises(RequestError, match="too large, its conditions written out"):
        read_grammar(Grammar("json_schema", json.dumps(schema)), False)
