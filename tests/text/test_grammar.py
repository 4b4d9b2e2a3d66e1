"""Grammars over a real vocabulary: what they let through."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf

Accepts = Callable[..., bool]
LETTERS = 'abcz 09"\\\n\t{}()[]|/<>#éß…日😀'
ODD = ["a", "ab", "abc", 'q"u\\o\n\té😀', "<|im_end|>", " space ", "日本語", "{5}", "/x/", "a|b"]


@pytest.fixture(scope="module")
def tokenizer(default_model: ModelFiles) -> Tokenizer:
    return Tokenizer.from_gguf(read_gguf(default_model.path).metadata)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.fixture(scope="module")
def accepts(compiler: GrammarCompiler) -> Accepts:
    """Whether a text is a whole answer, spelt by the longest tokens that are allowed."""
    tokenizer = compiler.tokenizer
    words: dict[bytes, set[int]] = {}
    for token in set(range(tokenizer.vocab_size)) - tokenizer.special_ids:
        words.setdefault(tokenizer.token_bytes(token), set()).add(token)

    def check(kind: str, source: str, text: str, *, thinking: bool = False) -> bool:
        constraint = compiler.compile(Grammar(kind, source), thinking=thinking)  # type: ignore[arg-type]
        rest = text.encode()
        while rest:
            found = set() if constraint.done else allowed(constraint.allowed())
            assert constraint.error is None
            lengths = range(min(len(rest), 20), 0, -1)
            chosen = next((n for n in lengths if words.get(rest[:n], set()) & found), 0)
            if not chosen:
                return False
            constraint.accept(min(words[rest[:chosen]] & found))
            rest = rest[chosen:]
        return constraint.done or tokenizer.eos_ids <= allowed(constraint.allowed())

    return check


def allowed(mask: bytes | None) -> set[int]:
    assert mask is not None
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def test_regular_expressions_match_whole_answers(accepts: Accepts) -> None:
    pattern = r"[A-Z][a-z]+ (is|was) [0-9]{1,3}(\.[0-9])?"
    assert accepts("regex", pattern, "Paris is 42")
    assert accepts("regex", pattern, "Paris was 4.5")
    assert not accepts("regex", pattern, "Paris is 42 years")
    assert not accepts("regex", pattern, "paris is 42")
    assert not accepts("regex", pattern, "Paris is")
    assert accepts("regex", "(é|😀)+", "é😀é")


def test_lark_grammars(accepts: Accepts) -> None:
    sums = 'start: term ("+" term)*\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]+/'
    assert accepts("lark", sums, "1+(22+3)+4")
    assert not accepts("lark", sums, "1+(22+3")
    assert not accepts("lark", sums, "1++2")


@given(st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
@settings(max_examples=40, deadline=None)
def test_a_choice_is_one_of_its_texts(accepts: Accepts, texts: list[str]) -> None:
    source = json.dumps(texts)
    assert all(accepts("choice", source, text) for text in texts)
    assert not accepts("choice", source, texts[0] + "\0\0 and more")


def test_a_choice_of_odd_texts(accepts: Accepts) -> None:
    source = json.dumps(ODD)
    assert [text for text in [*ODD, "", "abcd", "Q", "<", "aab"] if accepts("choice", source, text)] == ODD


def test_json_is_as_people_write_it(accepts: Accepts) -> None:
    value = {"name": 'a "b" \\ é 😀\n', "list": [1, -2.5e3, True, None, {}, []], "": {"x": [[]]}}
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2)):
        assert accepts("json_object", "", text)
    assert accepts("json_object", "", "{}")
    for text in (
        "[]",
        "1",
        '{"a": 1',
        '{"a": 1,}',
        "{'a': 1}",
        '{"a":   1}',
        '{"a": 01}',
        '{"a": NaN}',
        " {}",
    ):
        assert not accepts("json_object", "", text)


def test_a_key_has_one_spelling(accepts: Accepts) -> None:
    """Otherwise `\\u0061` would be another property than `a`, for the grammar alone."""
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    source = json.dumps({"type": "object"} | schema)
    assert accepts("json_schema", source, '{"a": 1, "b": "x"}')
    assert not accepts("json_schema", source, '{"\\u0061": "x"}')
    assert not accepts("json_schema", source, '{"a": 1, "a": "x"}')


def test_behind_reasoning(accepts: Accepts) -> None:
    for kind, source, answer in (
        ("json_object", "", '{"a": 1}'),
        ("regex", "[a-z]+", "yes"),
        ("choice", '["yes", "no"]', "no"),
        ("lark", 'start: "a" B\nB: /b+/', "abb"),
        ("json_schema", '{"type": "integer"}', "12"),
    ):
        assert accepts(kind, source, f"Let me <b>think</b>.\n\nWell</think>{answer}", thinking=True)
        assert not accepts(kind, source, answer, thinking=True)
        assert not accepts(kind, source, f"Hm.</think>{answer}", thinking=False)
        assert not accepts(kind, source, "Hm.</think>?", thinking=True)


def test_control_tokens_and_padding_are_never_allowed(trained_folder: Path) -> None:
    """Of a vocabulary with rows that only pad."""
    tokenizer = Tokenizer.from_folder(trained_folder)
    padding = {token for token in range(tokenizer.vocab_size) if not tokenizer.token_text(token)}
    assert len(padding) > 10
    constraint = GrammarCompiler(tokenizer).compile(Grammar("regex", r"(.|\n)*"))
    found = allowed(constraint.allowed())
    assert not found & padding
    assert found & tokenizer.special_ids == tokenizer.eos_ids
    assert len(found) > 1000


@pytest.fixture
def trained_folder(trained: object, tmp_path: Path) -> Path:
    """A family's tokenizer whose model has more rows than the tokenizer has entries."""
    folder = trained.folder  # type: ignore[attr-defined]
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    size = Tokenizer.from_folder(folder).vocab_size
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size + 64}))
    return tmp_path


SHAPES = st.recursive(
    st.sampled_from(
        [
            {"type": "integer", "minimum": -5, "maximum": 300},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
            {"type": "string", "maxLength": 4},
            {"type": "boolean"},
            {"enum": ["a", 1, None]},
        ]
    ),
    lambda inner: (
        st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 3))
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
        | st.dictionaries(st.text("abc é", min_size=1, max_size=3), inner, min_size=1, max_size=3).map(
            lambda p: {
                "type": "object",
                "properties": p,
                "required": [*p],
                "additionalProperties": False,
            }
        )
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 400)
    | st.sampled_from([0.5, 2.25, "", "ab", "a", "long text"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é", max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(SHAPES, VALUES)
@settings(max_examples=150, deadline=None)
def test_what_is_accepted_is_valid(accepts: Accepts, schema: object, value: object) -> None:
    if accepts("json_schema", json.dumps(schema), json.dumps(value, ensure_ascii=False)):
        jsonschema.validate(value, schema)


def test_each_constraint_goes_its_own_way(compiler: GrammarCompiler) -> None:
    grammar = Grammar("regex", "[ab]{3}")
    first, second = compiler.compile(grammar), compiler.compile(grammar)
    token = compiler.tokenizer.encode("a", add_bos=False)[0]
    before = second.allowed()
    for _ in range(3):
        first.accept(token)
    assert first.done
    assert not second.done
    assert second.allowed() == before == compiler.compile(grammar).allowed()


def test_threads_may_compile_at_once(compiler: GrammarCompiler) -> None:
    grammars = [Grammar("regex", f"[a-{chr(98 + n % 9)}]{{{n % 5 + 1}}}") for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(lambda g: compiler.compile(g).allowed(), grammars))
    assert masks == [compiler.compile(grammar).allowed() for grammar in grammars]


def test_the_forced_text_is_guessed(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar("choice", '["the only possible answer"]'))
    assert compiler.tokenizer.decode(constraint.forced()) == "the only possible answer"


def test_a_wrong_token_is_an_error_and_not_an_end(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar("regex", "a+"))
    constraint.accept(compiler.tokenizer.encode("x", add_bos=False)[0])
    assert not constraint.done
    assert constraint.error is not None
    assert "\n" not in constraint.error
