"""Arguments of tools have the keys that their schemas list, and no others that were never asked for."""

import copy

import jsonschema
import pytest

from sampan.text.tools.listed import only_listed

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
GOOD = {"city": "Paris"}
JUNK = {"city": "Paris", "junk": 1}


def takes(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def inside(schema, more=None):
    return {"type": "object", "properties": {"a": schema}, **(more or {})}


@pytest.mark.parametrize(
    "schema",
    [
        CITY,
        {**CITY, "required": ["city"], "description": "x", "title": "y"},
        {"properties": CITY["properties"]},
        {"$ref": "#/$defs/c", "$defs": {"c": CITY}},
        {"anyOf": [CITY, {"type": "null"}]},
        {"oneOf": [CITY, {"type": "null"}]},
        {"allOf": [{"$ref": "#/definitions/c"}], "description": "x", "definitions": {"c": CITY}},
        {"$defs": {"a/b~c": CITY}, "$ref": "#/$defs/a~1b~0c"},
    ],
)
def test_only_the_listed_keys(schema):
    before = copy.deepcopy(schema)
    closed = only_listed(schema)
    assert schema == before
    assert takes(schema, JUNK)
    assert takes(closed, GOOD)
    assert not takes(closed, JUNK)


@pytest.mark.parametrize(
    ("nested", "wrap"),
    [
        (inside(CITY), lambda value: {"a": value}),
        (inside({"type": "array", "items": CITY}), lambda value: {"a": [value]}),
        (inside({"prefixItems": [CITY]}), lambda value: {"a": [value]}),
        (inside({"anyOf": [CITY, {"type": "null"}]}), lambda value: {"a": value}),
        (inside({"$ref": "#/$defs/c"}, {"$defs": {"c": CITY}}), lambda value: {"a": value}),
        ({"additionalProperties": CITY}, lambda value: {"any": value}),
        ({"patternProperties": {"^x": CITY}}, lambda value: {"xy": value}),
    ],
)
def test_also_within(nested, wrap):
    assert takes(only_listed(nested), wrap(GOOD))
    assert not takes(only_listed(nested), wrap(JUNK))


def test_a_schema_that_refers_to_itself():
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"properties": {"left": {"$ref": "#/$defs/t"}}}}}
    closed = only_listed(tree)
    assert takes(closed, {"left": {"left": {}}})
    assert not takes(closed, {"left": {"left": {"junk": 1}}})


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {**CITY, "additionalProperties": True},
        {**CITY, "additionalProperties": {"type": "integer"}},
        {**CITY, "patternProperties": {"^j": {}}},
        {**CITY, "unevaluatedProperties": True},
        {**CITY, "minProperties": 2},
        {"allOf": [CITY, inside({})]},
        {"allOf": [{"$ref": "#/$defs/c"}, {"properties": {"junk": {}}}], "$defs": {"c": CITY}},
        {**CITY, "anyOf": [{"required": ["city"]}, {"properties": {"junk": {}}}]},
        {"required": ["junk"], "anyOf": [CITY, {"type": "null"}]},
        {**CITY, "$ref": "#/$defs/j", "$defs": {"j": {"properties": {"junk": {}}}}},
        {**CITY, "not": {"properties": {"city": {"const": "Rome"}}}},
        {"const": JUNK},
        {"enum": [JUNK]},
        {"$ref": "https://example.org/elsewhere", "properties": CITY["properties"]},
    ],
)
def test_more_where_it_is_asked_for(schema):
    closed = only_listed(schema)
    assert closed == schema
    if "http" not in str(schema):
        assert takes(closed, JUNK)


def test_what_is_required_is_asked_for():
    closed = only_listed({**CITY, "required": ["city", "junk"]})
    assert takes(closed, JUNK)
    assert not takes(closed, {**JUNK, "other": 1})


def test_no_properties_are_no_arguments():
    assert not takes(only_listed({"type": "object", "properties": {}}), JUNK)


@pytest.mark.parametrize("odd", [{"properties": 1}, {"properties": {"a": 1}}, {"required": "a"}, {"$ref": 7}])
def test_what_is_no_schema_is_left_to_others(odd):
    assert isinstance(only_listed({**CITY, **odd}), dict)
