"""What each keyword and format of a schema comes to: obeyed, read over, or refused by its name and place."""

import json
import re
from typing import Any

import jsonschema
import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.grammar.source import read_grammar

ANNOTATIONS: dict[str, Any] = {
    "a vendor's": {
        "x-order": 1,
        "markdownDescription": "*",
        "tsType": "A",
        "optional": True,
        "enumNames": ["a"],
    },
    "of editors": {"multiple": True, "options": {"a": 1}, "note": "b", "readonly": True, "units": "m"},
    "of other drafts": {
        "$vocabulary": {},
        "links": [],
        "media": {},
        "$recursiveAnchor": True,
        "$dynamicAnchor": "a",
    },
    "of contents": {"contentMediaType": "text/html", "contentSchema": {"type": "null"}},
    "without effect": {"uniqueItems": False, "nullable": False, "then": {"type": "null"}, "else": False},
    "null": {"maxLength": None, "enum": None, "format": None, "items": None, "$ref": None},
    "unused": {"$defs": {"a": {"not": {"pattern": "b"}, "formatt": 1}}, "definitions": {"b": 3}},
    "of numbers": {"format": "double", "type": ["number", "object", "string"]},
    "of nobody": {"format": "licence-plate"},
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_what_asserts_nothing_is_read_over(schemas: Any, case: str) -> None:
    for schema in (ANNOTATIONS[case], {"type": "object", "properties": {"a": ANNOTATIONS[case]}}):
        matcher = schemas.ours(schema)
        assert matcher is not None
        assert schemas.takes(matcher, {"a": "b"})


REFUSED: dict[str, tuple[Any, str]] = {
    "capitals": ({"maxlength": 3}, '#: the keyword "maxlength" is unknown and resembles "maxLength"'),
    "a letter": (
        {"items": {"additonalProperties": False}},
        '#/items: the keyword "additonalProperties" is unknown',
    ),
    "two letters": ({"requierd": ["a"]}, 'resembles "required": correct it or take it out'),
    "underscores": ({"any_of": [{}]}, 'resembles "anyOf"'),
    "a format": ({"format": "datetime"}, """is 'datetime', which resembles "date-time": correct it"""),
    "a list of formats": ({"format": ["date"]}, "#: the keyword \"format\" is ['date']: give a text"),
    "no list": ({"allOf": 1}, '#: the keyword "allOf" is 1: give a list of schemas'),
    "no object": ({"patternProperties": True}, '"patternProperties" is True: give an object of schemas'),
    "no names": ({"properties": {"a": {"required": True}}}, '#/properties/a: the keyword "required" is True'),
    "no size": ({"maxItems": -1}, '"maxItems" is -1: give a whole number, 0 or more'),
    "no number": ({"minimum": "3"}, "\"minimum\" is '3': give a number"),
    "no schema": ({"not": {"items": 3}}, '#/not: the keyword "items" is 3: give a schema'),
    "no type": ({"type": ["string", "any"]}, "give one or more of null, boolean, object"),
    "no truth": ({"uniqueItems": 1}, '"uniqueItems" is 1: give true or false'),
    "many items": ({"uniqueItems": True}, '#: the keyword "uniqueItems" cannot be ensured but of items'),
    "a long text": ({"not": {"maxLength": 20_000}}, "minLength is 20001: 10000 is the most"),
    "long names": ({"propertyNames": {"maxLength": 20_000}}, "repeats 20000 times: 10000 are the most"),
    "no opposite": (
        {"not": {"pattern": "a"}},
        '"not" cannot be ensured: "pattern" inside of it has no opposite',
    ),
    "a condition": ({"if": {"format": "date"}, "then": {"maxLength": 3}}, '"if" cannot be ensured: "format"'),
    "what is evaluated": (
        {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {}}},
        "beside $ref",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_slip_or_what_cannot_be_ensured_is_refused_with_its_place(case: str) -> None:
    schema, message = REFUSED[case]
    with pytest.raises(RequestError, match=re.escape(message)):
        read_grammar(Grammar("json_schema", json.dumps(schema)), False)


# As the standards have it: RFC 3339 (2.4 and appendix A), 5321, 1123, 3986, 6570, 6901, 4648.
FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "date": (
        ["2024-02-29", "2000-02-29", "2023-02-28", "2023-12-31", "2023-10-10", "1996-02-29"],
        ["2023-02-29", "1900-02-29", "2100-02-29", "2024-02-30", "2023-04-31", "2023-00-10", "2023-13-01"],
    ),
    "date-time": (
        ["2024-02-29T23:59:59Z", "2023-10-10T00:00:00.5+01:00"],
        ["2023-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2024-02-29T24:00:00Z", "2024-02-29T10:00:00"],
    ),
    "time": (["10:00:00Z", "23:59:59-23:59"], ["24:00:00Z", "10:00:00", "10:00:00+24:00", "10:60:00Z"]),
    "duration": (["P1Y2M3D", "PT1H2M", "P3W", "P1DT1S"], ["P", "PT", "P1Y2D", "PT1H2S", "P1W1D", "1D"]),
    "email": (
        ["a.b+c@d.example", "a" * 64 + "@b.example", "a@[127.0.0.1]"],
        ["a", "a@", ".a@b.c", "a..b@c.d", "a" * 65 + "@b.example", "a@" + "b" * 64 + ".example", "a@-b.c"],
    ),
    "hostname": (
        ["a", "a-b.c-d.example", "1a.b2", "a." + "b" * 63],
        ["", "-a", "a-", "a..b", "a_b", "a." + "b" * 64, ".".join(["a" * 60] * 5), "1.2.3.4", "xn--0.a"],
    ),
    "ipv4": (["0.0.0.0", "255.10.1.99"], ["256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"]),
    "ipv6": (["::", "1::2", "a:b:c:d:e:f:0:1"], [":", "1::2::3", "a:b:c:d:e:f:0", "12345::"]),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]),
    "uri": (["http://a.example/b?c#d", "urn:a:b", "mailto:a@b.c"], ["/a", "a", "http://a b", "http://a/%zz"]),
    "uri-reference": (["/a?b#c", "", "#a", "a/b:c", "//h:1/x", "a:b"], ["a b", "%zz", "1:2", "\\a"]),
    "uri-template": (["/a/{b}", "{?a,b*}", "{+a:3}"], ["{", "/{}", "{a b}", "{a"]),
    "json-pointer": (["", "/a/0", "/~0~1"], ["a", "/~", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["", "01", "/a", "-1"]),
    "byte": (["", "YQ==", "YWI=", "YWJj"], ["Y", "YQ", "YQ=", "Y=Q="]),
    "base64url": (["", "YQ", "_-8"], ["Y", "YQ==", "+a"]),
    "iri": (["http://ä.example/ü?é#日", "urn:ñ:b", "http://a/b"], ["/ä", "ä", "http://ä b", "http://a/%zz"]),
    "iri-reference": (["/ä?b#c", "", "#日", "//ü:1/x", "a/b:c"], ["ä b", "%zz", "1:2", "\\ä"]),
    "date-time-local": (
        ["2024-02-29T23:59:59", "2023-12-31T00:00:00.25", "2000-02-29T10:00:00"],
        ["2023-02-29T00:00:00", "2023-04-31T00:00:00", "0000-01-01T00:00:00", "2024-02-29T10:00:00Z"],
    ),
    "time-local": (["23:59:59", "00:00:00.125"], ["24:00:00", "10:00", "10:60:00", "10:00:00Z"]),
    "char": (["a", "é", "👩", " "], ["", "ab"]),
    "media-range": (
        ["*/*", "text/*", "text/html;level=1", 'a/b; c="d\\"e"', "application/ld+json"],
        ["text", "*/html", "a/b;c", "a /b", "a/b;c="],
    ),
    "decimal": (["0", "-1.50", "12345678901234567890.1"], ["", "01", "1.", ".5", "+1", "1e3"]),
    "decimal128": (["0", "-1.50", "9" * 17 + "." + "9" * 17], ["9" * 35, "01", "1e3"]),
    "sf-binary": ([":YQ==:", "::"], ["YQ==", ":YQ:", ":a"]),
    "sf-boolean": (["?0", "?1"], ["0", "?2", "true"]),
    "sf-decimal": (["0.5", "-123456789012.125"], ["1", "1.1234", "1234567890123.0", ".5"]),
    "sf-integer": (["0", "-999999999999999"], ["1000000000000000", "01", "1.0"]),
    "sf-string": (['""', '"a b"', '"a\\"b\\\\"'], ["a", '"', '"a"b"', '"é"', '"\\a"']),
    "sf-token": (["a", "*a/b:c", "text/html"], ["", "1a", "a b", '"a"']),
    "color": (["#fff", "#00FF7f", "red"], ["#ff", "#ggg", "reddish", "RED "]),
    "phone": (
        ["+22 607 123 4567", "+1 212 555 01"],
        ["607 123", "+0 12 34", "+22-607-123", "+22 607 123 4567 8901 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_those_of_their_standards(schemas: Any, name: str) -> None:
    matcher = schemas.ours({"type": "string", "format": name})
    assert matcher is not None
    right, wrong = FORMATS[name]
    assert [text for text in right if not schemas.takes(matcher, text)] == []
    assert [text for text in wrong if schemas.takes(matcher, text)] == []


def test_formats_of_whole_numbers_bound_them(schemas: Any) -> None:
    for name, inside, outside in (
        ("int32", 2**31 - 1, 2**31),
        ("uint8", 255, 256),
        ("int64", -(2**62), 2**63),
    ):
        matcher = schemas.ours({"type": "integer", "format": name})
        assert matcher is not None
        assert (schemas.takes(matcher, inside), schemas.takes(matcher, outside)) == (True, False)


def test_formats_of_structured_fields_bound_numbers_too(schemas: Any) -> None:
    matcher = schemas.ours({"type": "integer", "format": "sf-integer"})
    assert matcher is not None
    assert [schemas.takes(matcher, value) for value in (10**15 - 1, 10**15)] == [True, False]


UNIQUE: list[dict[str, Any]] = [
    {"items": {"type": "integer", "minimum": 1, "maximum": 3}},
    {"items": {"type": ["boolean", "null"]}},
    {"items": {"anyOf": [{"type": "null"}, {"enum": [1, 2]}]}},
    {"items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"oneOf": [{"const": 1}, {"type": "null"}]}}},
    {"items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 2, "minItems": 1},
    {"prefixItems": [{"enum": [1, 2]}, {"enum": [1, "a"]}], "items": False},
    {"prefixItems": [{"const": 1}], "items": {"enum": [1, 2, None]}},
    {"prefixItems": [{"type": "integer"}, {"type": "string"}, {"type": "null"}], "items": False},
    {"prefixItems": [{"type": "integer"}, {"type": "string"}], "maxItems": 1},
]


@pytest.mark.parametrize("part", UNIQUE, ids=lambda part: json.dumps(part)[:50])
def test_different_items_are_written_out_where_their_values_are_few(
    schemas: Any, part: dict[str, Any]
) -> None:
    schema = {**part, "uniqueItems": True}
    matcher, validator = schemas.ours(schema), jsonschema.Draft202012Validator(schema)
    assert matcher is not None
    values = [1, 2, 3, 9, None, True, False, "a"]
    arrays = [[], *([a] for a in values), *([a, b] for a in values for b in values), [1, 2, 3], [1, 2, 1]]
    arrays += [[1, "a", None], [1, 1, None], [3, 1, 2], [1, 2, None], [1, None, None]]
    assert [each for each in arrays if schemas.takes(matcher, each) != validator.is_valid(each)] == []


@pytest.mark.parametrize(
    "part",
    [
        {"items": {"type": "integer", "minimum": 1}},
        {"items": {"enum": list(range(6))}},
        {"prefixItems": [{"type": "string"}, {"type": "string"}], "items": False},
        {"prefixItems": [{"const": 1}]},
    ],
)
def test_different_items_of_many_values_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match='"uniqueItems" cannot be ensured but of items'):
        read_grammar(Grammar("json_schema", json.dumps({**part, "uniqueItems": True})), False)


def test_a_null_of_openapi_is_allowed_beside_the_type(schemas: Any) -> None:
    matcher = schemas.ours({"type": "string", "nullable": True, "maxLength": 2})
    assert matcher is not None
    assert [schemas.takes(matcher, value) for value in (None, "ab", "abc", 1)] == [True, True, False, False]


KINDS = [
    None,
    True,
    3,
    4,
    2.5,
    "a",
    "ab",
    "é",
    [],
    ["a"],
    ["a", "b"],
    {},
    {"a": 1},
    {"a": "a", "b": 2},
    {"b": 1},
]
OBEYED: list[dict[str, Any]] = [
    {"not": {"type": ["string", "object"]}},
    {"not": {"enum": ["a", "é", 3, None, True, []]}},
    {"not": {"const": {}}},
    {"not": {"minLength": 2}},
    {"not": {"minimum": 3}},
    {"not": {"required": ["a", "b"]}},
    {"not": {"properties": {"a": {"type": "string"}}}},
    {"not": {"anyOf": [{"type": "array"}, {"minProperties": 1}]}},
    {"not": {"allOf": [{"type": "array"}, {"minItems": 1}]}},
    {"not": {"not": {"type": "string"}}},
    {"not": {"$ref": "#/$defs/t"}, "$defs": {"t": {"type": "string"}}},
    {"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"maxItems": 1}},
    {"if": {"properties": {"a": {"const": "a"}}, "required": ["a"]}, "then": {"required": ["b"]}},
    {"if": {"required": ["a"]}, "else": {"required": ["b"]}},
    {"properties": {"a": True, "b": True}, "dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"a": {"properties": {"b": False}}}},
    {"propertyNames": {"pattern": "^a"}},
    {"propertyNames": {"enum": ["b"]}},
    {"propertyNames": False},
    {"contains": {"const": "b"}, "maxItems": 3},
    {"contains": True},
    {"items": {"enum": ["a", "b"]}, "uniqueItems": True},
    {"properties": {"a": True}, "unevaluatedProperties": False},
    {"prefixItems": [True], "unevaluatedItems": False},
    {"oneOf": [{"type": "string"}, {"enum": ["a", 3]}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 3}]},
    {"oneOf": [{"minLength": 2}, {"type": "string", "maxLength": 4}, {"type": "null"}]},
]


@pytest.mark.parametrize("schema", OBEYED, ids=lambda schema: json.dumps(schema)[:50])
def test_assertions_are_written_out_where_that_is_bounded(schemas: Any, schema: dict[str, Any]) -> None:
    matcher = schemas.ours(schema)
    assert matcher is not None
    validator = jsonschema.Draft202012Validator(schema)
    values = [*KINDS, ["a", "a"], ["b", "a"], ["a", "a", "b"], "abcde", "aa", 2, -1, {"b": 1}]
    wrong = [value for value in values if schemas.takes(matcher, value) != validator.is_valid(value)]
    assert wrong == []


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#"])
def test_arrays_are_written_out_in_the_words_of_their_draft(schemas: Any, draft: str) -> None:
    for part in (
        {"contains": {"const": "b"}, "maxItems": 3},
        {"items": {"enum": ["a", "b"]}, "uniqueItems": True},
    ):
        schema = {"$schema": f"http://json-schema.org/{draft}", **part}
        matcher, validator = schemas.ours(schema), jsonschema.Draft7Validator(schema)
        values = [[], ["a"], ["b"], ["a", "a"], ["a", "b"], ["b", "a"], ["b", "b"], "a"]
        assert [v for v in values if schemas.takes(matcher, v) != validator.is_valid(v)] == []
