"""Whatever is chosen among the allowed tokens, a finished answer obeys its schema, says jsonschema.

The schemas are `schemas.json`, of shapes that people use, and three hundred that a small program puts
together from every keyword. What answers cannot be held to is refused by the keyword's name.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf

WRITTEN: dict[str, Any] = json.loads((Path(__file__).parent / "schemas.json").read_text("utf-8"))
GENERATED = 300
PATTERNS = (
    "^[a-z]{2,4}$",
    "[0-9]",
    "^(yes|no)+$",
    "^\\w+@\\w+$",
    '^[^"\\\\]*$',
    "x|y",
    "^\\d{3}-\\d{4}$",
    "^a|b$",
)
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
WORDS = ("id", "name", "größe", "a b", "Ünit", "is_ok", "x", "list", "data", "kind", "$ref", "type", 'q"')
UNSUPPORTED: dict[str, Any] = {
    "not": {"not": {"pattern": "a"}},
    "if": {"if": {"type": "array", "items": {"type": "null"}}, "then": {"maxItems": 3}},
    "contains": {"contains": {"type": "null"}},
    "maxContains": {"contains": True, "maxContains": 1},
    "uniqueItems": {"uniqueItems": True},
    "propertyNames": {"propertyNames": {"format": "email"}},
    "unevaluatedItems": {"unevaluatedItems": False, "allOf": [{"items": [True]}]},
    "unevaluatedProperties": {"unevaluatedProperties": False, "allOf": [{"properties": {"a": True}}]},
    "$ref": {"$ref": "#/x"},
    "$dynamicRef": {"$dynamicRef": "#node"},
    "$recursiveRef": {"$recursiveRef": "other#"},
    "divisibleBy": {"divisibleBy": 3},
    "disallow": {"disallow": "string"},
    "extends": {"extends": {"type": "null"}},
    "x-guidance": {"x-guidance": {"lenient": True}},
}


class Maker:
    """Schemas from every feature, each from its number."""

    def __init__(self, number: int) -> None:
        self.rng = random.Random(number)

    def schema(self, depth: int = 3) -> Any:
        makers = [self.string, self.integer, self.number, self.literal, self.simple]
        if depth > 0:
            makers += [self.object, self.object, self.array, self.tuple, self.map, self.union, self.merged]
        made = self.rng.choice(makers)(depth)
        if self.rng.random() < 0.2 and isinstance(made, dict):
            made["description"] = self.rng.choice(WORDS)
        return made

    def top(self) -> Any:
        """A schema, sometimes with definitions, one of which may lead back to itself."""
        if self.rng.random() < 0.6:
            return self.schema()
        leaf = {"type": "object", "properties": {"leaf": self.schema(1)}, "additionalProperties": False}
        tree = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": self.rng.randint(1, 3)}
        defs = {"leaf": leaf, "tree": self.rng.choice([tree, {"anyOf": [{"type": "null"}, tree]}])}
        used = {name: {"$ref": f"#/$defs/{name}"} for name in defs}
        return {"type": "object", "properties": used, "required": ["leaf"], "$defs": defs}

    def string(self, _depth: int) -> Any:
        kind = self.rng.randrange(4)
        if kind == 0:
            least = self.rng.randint(0, 4)
            return {"type": "string", "minLength": least, "maxLength": least + self.rng.randint(0, 6)}
        if kind == 1:
            return {"type": "string", "pattern": self.rng.choice(PATTERNS)}
        if kind == 2:
            return {"type": "string", "format": self.rng.choice(FORMATS)}
        return {"type": "string", "pattern": "^[a-m]*$", "minLength": self.rng.randint(1, 3)}

    def integer(self, _depth: int) -> Any:
        least = self.rng.randint(-1000, 1000)
        most = least + self.rng.choice([0, 7, 99, 12345])
        made = {"type": "integer", "minimum": least, "exclusiveMaximum": most + 1}
        return made | ({"multipleOf": self.rng.choice([2, 3, 7])} if most > least + 6 else {})

    def number(self, _depth: int) -> Any:
        low = self.rng.choice([0, -1.5, 0.25, 100])
        made = {"type": "number", "exclusiveMinimum": low, "maximum": low + self.rng.choice([1, 2.5, 1000])}
        return made | self.rng.choice([{}, {}, {"multipleOf": 0.5}])

    def literal(self, _depth: int) -> Any:
        values = ["yes", "no", 1, -2, 0.5, None, True, "é", [1, 2], {"a": "b"}, ""]
        if self.rng.random() < 0.3:
            return {"const": self.rng.choice(values)}
        return {"enum": self.rng.sample(values, self.rng.randint(1, 5))}

    def simple(self, _depth: int) -> Any:
        return {
            "type": self.rng.choice(["null", "boolean", "integer", "number", "string", ["string", "null"]])
        }

    def object(self, depth: int) -> Any:
        names = self.rng.sample(WORDS, self.rng.randint(1, 4))
        made: dict[str, Any] = {"type": "object", "properties": {n: self.schema(depth - 1) for n in names}}
        made["required"] = names[: self.rng.randint(0, len(names))]
        extra = self.rng.choice([False, False, True, None, {"type": "integer"}])
        return made if extra is None else made | {"additionalProperties": extra}

    def map(self, depth: int) -> Any:
        if self.rng.random() < 0.5:
            return {"type": "object", "patternProperties": {"^[a-z]{1,3}$": self.schema(depth - 1)}} | {
                "additionalProperties": self.rng.choice([False, {"type": "null"}])
            }
        sizes = self.rng.choice([{}, {"minProperties": 1}, {"maxProperties": 2}])
        return {"type": "object", "additionalProperties": self.schema(depth - 1)} | sizes

    def array(self, depth: int) -> Any:
        least = self.rng.randint(0, 2)
        return {"type": "array", "items": self.schema(depth - 1), "minItems": least, "maxItems": least + 2}

    def tuple(self, depth: int) -> Any:
        first = [self.schema(depth - 1) for _ in range(self.rng.randint(1, 3))]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}

    def union(self, depth: int) -> Any:
        if self.rng.random() < 0.3:
            return {"oneOf": [{"type": "null"}, self.integer(0), self.string(0), self.array(depth)]}
        return {"anyOf": [self.schema(depth - 1) for _ in range(self.rng.randint(1, 3))]}

    def merged(self, depth: int) -> Any:
        low, high = sorted(self.rng.sample(range(-50, 50), 2))
        return self.rng.choice(
            [
                {"type": "integer", "allOf": [{"minimum": low}, {"maximum": high}]},
                {"allOf": [self.object(depth - 1) | {"additionalProperties": True}, {"minProperties": 0}]},
                {"type": "string", "allOf": [{"minLength": 2}, {"maxLength": 5}]},
            ]
        )


CORPUS = [*WRITTEN.items(), *((f"generated {n}", Maker(n).top()) for n in range(GENERATED))]


@pytest.fixture(scope="module")
def compiler(default_model: ModelFiles) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.from_gguf(read_gguf(default_model.path).metadata))


@pytest.fixture(scope="module")
def walk(compiler: GrammarCompiler) -> Callable[[Grammar, int], str | None]:
    """A text of tokens chosen by chance among the allowed ones; None where it would not end."""
    tokenizer = compiler.tokenizer
    texts = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    ending = np.array([bool(re.fullmatch(rb'["}\],:0-9]+', text)) for text in texts])
    ends = tokenizer.eos_ids

    def go(grammar: Grammar, seed: int, most: int = 200) -> str | None:
        rng = random.Random(seed)
        constraint = compiler.compile(grammar)
        chosen: list[int] = []
        for step in range(most):
            mask = np.frombuffer(constraint.allowed(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
            short = allowed[ending[allowed]] if rng.random() < step / 40 else allowed
            token = int(rng.choice(short if short.size else allowed))
            if token in ends:
                break
            constraint.accept(token)
            assert constraint.error is None
            chosen.append(token)
            if constraint.done:
                break
        else:
            return None
        return tokenizer.decode(chosen)

    return go


def problem(schema: Any, text: str) -> str | None:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    error = jsonschema.exceptions.best_match(
        kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(json.loads(text))
    )
    return None if error is None else f"{error.message}: {text!r}"


def test_walks_yield_only_valid_documents(walk: Callable[[Grammar, int], str | None]) -> None:
    assert len(CORPUS) >= 340
    bad, unfinished = [], []
    for number, (name, schema) in enumerate(CORPUS):
        grammar = Grammar("json_schema", json.dumps(schema))
        for seed in (number, -number):
            text = walk(grammar, seed)
            if text is None:
                unfinished.append(name)
            elif (wrong := problem(schema, text)) is not None:
                bad.append(f"{name}: {wrong}")
    assert not bad, "\n".join(bad)
    assert len(unfinished) < 0.1 * len(CORPUS)


def test_json_objects_are_objects(walk: Callable[[Grammar, int], str | None]) -> None:
    texts = [walk(Grammar("json_object"), seed) for seed in range(20)]
    found = [json.loads(text) for text in texts if text is not None]
    assert len(found) > 10
    assert all(isinstance(value, dict) for value in found)


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_a_keyword_that_cannot_be_ensured_is_refused_by_name(compiler: GrammarCompiler, keyword: str) -> None:
    part = UNSUPPORTED[keyword]
    for schema, place in (
        (part, "#"),
        (
            {"type": "object", "properties": {"a/b": {"type": "array", "items": part}}},
            "#/properties/a~1b/items",
        ),
        ({"$ref": "#/$defs/d", "$defs": {"d": {"anyOf": [{"type": "null"}, part]}}}, "#/$defs/d/anyOf/1"),
    ):
        with pytest.raises(RequestError, match=re.escape(f'at {place}: the keyword "{keyword}"')):
            compiler.compile(Grammar("json_schema", json.dumps(schema)))


@pytest.mark.parametrize("name", ["http-date", "regex", "idn-email", "idn-hostname"])
def test_a_format_that_cannot_be_ensured_is_refused_by_name(compiler: GrammarCompiler, name: str) -> None:
    message = (
        f"""at #: the keyword "format" is '{name}', which is not supported, only base64url, byte, char, """
    )
    with pytest.raises(RequestError, match=re.escape(message)):
        compiler.compile(Grammar("json_schema", json.dumps({"type": "string", "format": name})))
