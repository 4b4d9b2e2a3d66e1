"""Calls are found in any streamed answer, and nothing of an answer is lost or changed on the way."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sampan.text.tools import Call, CallPiece, TextPiece, ToolFormat, ToolParser
from sampan.text.tools.deepseek import DEEPSEEK, DEEPSEEK_V31
from sampan.text.tools.json_call import HERMES, LLAMA

SYNTAXES = {syntax.name: syntax for syntax in (HERMES, LLAMA, DEEPSEEK, DEEPSEEK_V31)}
NAMES = ("weather", "now", 'odd "name"')
DEEP = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"


def parsed(syntax, pushes, *, names=NAMES, cut=False, **options):
    """The text, and the calls as (name, arguments)."""
    parser = ToolParser(ToolFormat(SYNTAXES[syntax], True, True), names, **options)
    pieces = [piece for text in pushes for piece in parser.push(text)] + parser.finish(cut=cut)
    return joined(pieces)


def joined(pieces):
    text, calls = "", []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            assert piece.text
            text += piece.text
        elif piece.name is not None:
            assert piece.index == len(calls)
            calls.append((piece.name, piece.arguments))
        else:
            assert piece.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.arguments)
    return text, calls


PARIS = '{"city": "Paris", "days": [1, 2.5e3], "deep": {"a": {"b": null}}, "q": "} </tool_call> \\" {"}'
PUBLISHED = {
    "hermes": [
        '<tool_call>\n{"name": "weather", "arguments": ' + PARIS + "}\n</tool_call>",
        '<tool_call>{"name":"weather","arguments":' + PARIS + "}</tool_call>",
        'Let me look.\n\n<tool_call>\n{"arguments": ' + PARIS + ', "name": "weather"}\n</tool_call>\n',
        '<tool_call>\n{"type": "function", "name": "weather", "parameters": ' + PARIS + " }\n</tool_call>",
        '<tool_call>\n{"name": "weather", "arguments": ' + PARIS + "}",  # a stop text ended it
        '<tool_call>\n{"name": "weather", "arguments": ' + PARIS + "\n</tool_call>",  # a brace too few
    ],
    "llama": [
        '{"name": "weather", "parameters": ' + PARIS + "}",
        '<|python_tag|>{"name": "weather", "parameters": ' + PARIS + "}",
        '\n\n{"type": "function", "name": "weather", "parameters": ' + PARIS + "}\n",
        'Let me look.\n<|python_tag|>{"name": "weather", "arguments": ' + PARIS + "}",
    ],
    "deepseek": [
        DEEP + f"function<｜tool▁sep｜>weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        DEEP + f"weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        f"Let me look.\n{DEEP}function<｜tool▁sep｜>weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜>",
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{PARIS}",
    ],
}
PUBLISHED["deepseek-v3.1"] = PUBLISHED["deepseek"]
CASES = [(name, text) for name, texts in PUBLISHED.items() for text in texts]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("syntax", "text"), CASES)
def test_a_call_is_found_however_it_is_cut(syntax, text, whole):
    expected = ("Let me look." if text.startswith("Let") else "", [("weather", PARIS)])
    assert parsed(syntax, [text], whole=whole) == expected
    assert parsed(syntax, text, whole=whole) == expected
    for cut in range(len(text)):
        assert parsed(syntax, [text[:cut], text[cut:]], whole=whole) == expected


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_calls_side_by_side(syntax):
    calls = [Call("weather", PARIS), Call("now", "{}"), Call("weather", '{"city": "Łódź"}')]
    text = SYNTAXES[syntax].write(calls)
    expected = [(call.name, call.arguments) for call in calls]
    assert parsed(syntax, [text]) == ("", expected)
    assert parsed(syntax, text) == ("", expected)
    assert parsed(syntax, ["  ", text, "\n And that is all.\n"]) == ("And that is all.\n", expected)


def test_a_function_without_parameters_may_be_called_without_arguments():
    for syntax in ("hermes", "llama"):
        text = SYNTAXES[syntax].openers[0] + '{"name": "now"}'
        assert parsed(syntax, text) == ("", [("now", "{}")])


def test_names_are_read_as_json():
    call = Call('odd "name"', '{"a": 1}')
    assert HERMES.write([call]).count('odd \\"name\\"') == 1
    assert parsed("hermes", HERMES.write([call])) == ("", [(call.name, call.arguments)])


@pytest.mark.parametrize(("syntax", "text"), [case for case in CASES if ', "name"' not in case[1]])
def test_arguments_come_as_they_grow(syntax, text):
    parser = ToolParser(ToolFormat(SYNTAXES[syntax], True, True), NAMES)
    delivered = ""
    for place, character in enumerate(text, 1 - text.index(PARIS)):
        pieces = parser.push(character)
        delivered += "".join(piece.arguments for piece in pieces if isinstance(piece, CallPiece))
        assert delivered == PARIS[: max(place, 0)]


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("hermes", "<tool_call>"),
        ("hermes", "a  <tool_call>  b"),
        ("hermes", "<tool_call>\n{'name': 'weather', 'arguments': {}}\n</tool_call>"),
        ("hermes", '<tool_call>\n{"name": "nobody", "arguments": {"city": "x"}}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": ["weather"], "arguments": {}}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": "{}"}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": [1]}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"arguments": {}, "arguments": {}, "name": "now"}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "weather", "argum'),
        ("hermes", '<tool_call>\n{"x": ' + "9" * 5000 + ', "name": "now"}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"x": ' + "[" * 5000),
        ("hermes", '<tool_call>[{"name": "weather", "arguments": {}}]</tool_call>'),
        ("hermes", '{"name": "weather", "arguments": {}}'),
        ("llama", "<|python_tag|>print('hello')"),
        ("llama", '<|python_tag|>brave_search.call(query="x")'),
        ("llama", '{"name": "nobody", "parameters": {}}'),
        ("llama", '{"city": {"name": "weather"}}\n\n'),
        ("llama", 'As JSON: {"name": "weather", "parameters": {}}'),
        ("llama", "  \n{ and } are braces; so\n"),
        ("llama", " \n "),
        ("deepseek", "<｜tool▁calls▁begin｜>weather"),
        ("deepseek", DEEP + "function<｜tool▁sep｜>nobody\n```json\n{}\n```<｜tool▁call▁end｜>"),
        ("deepseek", DEEP + "type<｜tool▁sep｜>weather\n```json\n{}\n```<｜tool▁call▁end｜>"),
        ("deepseek", DEEP + "function<｜tool▁sep｜>weather\n{}<｜tool▁call▁end｜>"),
        ("deepseek", DEEP + "function<｜tool▁sep｜>weather\n```json\n[]\n```<｜tool▁call▁end｜>"),
        ("deepseek", DEEP + "function" + " " * 300 + "<｜tool▁sep｜>weather\n```json\n{}"),
        ("deepseek", DEEP + "a line\n" * 200),
    ],
)
def test_what_is_no_call_is_text_and_nothing_is_lost(syntax, text):
    assert parsed(syntax, [text]) == (text, [])
    assert parsed(syntax, text) == (text, [])
    assert parsed(syntax, text, whole=True) == (text, [])


def test_a_call_is_found_after_one_that_failed():
    good = HERMES.write([Call("now", "{}")])
    for bad in (
        "<tool_call>",
        '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>',
        '<tool_call>{"x"',
    ):
        assert parsed("hermes", bad + good) == (bad, [("now", "{}")])
    broken = DEEPSEEK.write([Call("now", "{}"), Call("nobody", "{}"), Call("weather", '{"a": 1}')])
    text, calls = parsed("deepseek", broken)
    assert calls == [("now", "{}"), ("weather", '{"a": 1}')]
    assert "nobody" in text


@pytest.mark.parametrize("rest", ["oops}}\n</tool_call>", "", '"\n', " and so on <tool_call>"])
def test_arguments_that_break_off(rest):
    head = '<tool_call>\n{"name": "weather", "arguments": '
    begun = '{"city": "Paris", '
    fits = '"' if rest.startswith('"') else " " if rest.startswith(" ") else ""
    text = head + begun + rest
    assert parsed("hermes", text) == (rest.removeprefix(fits), [("weather", begun + fits)])
    assert parsed("hermes", text, whole=True) == (text, [])


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize(("syntax", "text"), [case for case in CASES if ', "name"' not in case[1]])
def test_a_call_that_is_cut_leaves_no_markup(syntax, text, forced):
    """As llama.cpp has it: what has come of a call's arguments, or nothing."""
    text = text.removeprefix("Let me look.") if forced else text
    words = "Let me look." if text.startswith("Let") else ""
    begin = text.index(PARIS)
    for end in range(len(text)):
        found, calls = parsed(syntax, text[:end], cut=True, forced=forced)
        assert words.startswith(found.strip()) or (not forced and _may_be_an_answer(syntax, text[:end]))
        assert calls == ([("weather", PARIS[: max(end - begin, 0)])] if calls else [])
        assert bool(calls) or end <= begin
        assert parsed(syntax, [text[:end]], cut=True, forced=forced) == (found, calls)


def _may_be_an_answer(syntax, text):
    """An object, as long as it has not begun to name a function."""
    return syntax == "llama" and "<|" not in text and '"name": "' not in text


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_must_be_a_call_is_nothing_else_where_it_is_cut(syntax):
    text = SYNTAXES[syntax].write([Call("weather", PARIS), Call("now", "{}")])
    for end in range(len(text)):
        found, calls = parsed(syntax, text[:end], cut=True, forced=True)
        assert found == ""
        assert [name for name, _ in calls] == ["weather", "now"][: len(calls)]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("text", ["Is 1 <", "a\n\n", '{"a": 1', '{"name": "Bob', "It is <tool_cal led"])
def test_text_that_is_cut_is_not_lost(syntax, text):
    shown, calls = parsed(syntax, text, cut=True)
    assert calls == []
    assert shown == text or (text == "Is 1 <" and shown == "Is 1")  # that may have begun a call


LOOSE = [
    '{"name": "weather", "arguments": ' + PARIS + "}",
    '{"name":"weather","parameters":' + PARIS + "}",
    '```json\n{"name": "weather", "arguments": ' + PARIS + "}\n```",
    '```\n{\n  "name": "weather",\n  "arguments": ' + PARIS + "\n}\n```\n",
    '<tools>\n{"name": "weather", "arguments": ' + PARIS + "}\n</tools>",
    '<function_call> {"name": "weather", "arguments": ' + PARIS + "} </function_call>",
    '```xml\n<tool>\n{"name": "weather", "arguments": ' + PARIS + "}\n</tool>\n```",
    'Let me look.\n\n```json\n{"name": "weather", "arguments": ' + PARIS + "}\n```",
    'Let me look.\n{"name": "weather", "arguments": ' + PARIS + "}",
]


@pytest.mark.parametrize("text", LOOSE)
def test_a_call_without_its_opener(text):
    """As Qwen2.5-Coder writes them, and as llama.cpp's parser of Hermes' calls reads them."""
    expected = ("Let me look." if text.startswith("Let") else "", [("weather", PARIS)])
    assert parsed("hermes", [text], loose="lines") == expected
    assert parsed("hermes", text, loose="lines") == expected
    for cut in range(len(text)):
        assert parsed("hermes", [text[:cut], text[cut:]], loose="lines") == expected
    assert parsed("hermes", text) == (text, [])


@pytest.mark.parametrize("text", LOOSE)
def test_a_call_without_its_opener_at_the_beginning_only(text):
    expected = (text, []) if text.startswith("Let") else ("", [("weather", PARIS)])
    assert parsed("hermes", text, loose="first") == expected
    again = HERMES.write([Call("now", "{}")]) + "\n" + text
    assert parsed("hermes", again, loose="first") == (text, [("now", "{}")])


def test_calls_without_their_openers_side_by_side():
    one, two = '{"name": "weather", "arguments": {"city": "Łódź"}}', '{"name": "now", "arguments": {}}'
    expected = "", [("weather", '{"city": "Łódź"}'), ("now", "{}")]
    for text in (f"{one}\n{two}", f"<tools>\n{one}\n{two}\n</tools>", f"```json\n{one}\n{two}\n```\n"):
        assert parsed("hermes", text, loose="lines") == expected
        assert parsed("hermes", [text], loose="lines") == expected
    hermes = HERMES.write([Call(*call) for call in expected[1]])
    assert parsed("hermes", hermes, loose="lines") == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "nobody", "arguments": {}}',
        '{"name": "weather"}',
        '{"name": "weather", "arguments": "{}"}',
        '{"name": "weather", "age": 4}',
        '{"arguments": {}, "name": "weather"}',
        '{"city": "Paris", "name": "weather", "arguments": {}}',
        '[{"name": "weather", "arguments": {}}]',
        'As JSON: {"name": "weather", "arguments": {}}',
        'Use `{"name": "weather", "arguments": {}}` for it.',
        "```c\nint main()\n{\n    return 0;\n}\n```",
        '```json\n{"name": "Bob"}\n```\n',
        "<tools> are <json>",
        '```\n<xml>\n{"a": 1}\n</xml>\n```',
        "{",
        "```",
        '{"name": "' + "x" * 1000 + '"',
    ],
)
def test_an_answer_in_json_or_code_stays_text(text):
    assert parsed("hermes", text, loose="lines") == (text, [])
    assert parsed("hermes", [text], loose="lines") == (text, [])


@pytest.mark.parametrize("syntax", ["hermes", "llama"])
def test_an_answer_in_json_does_not_wait_for_its_end(syntax):
    parser = ToolParser(ToolFormat(SYNTAXES[syntax], True, True), NAMES, loose="lines")
    assert joined(parser.push('{"city": "Paris, the capital')) == ('{"city": "Paris, the capital', [])


@pytest.mark.parametrize("text", ["Is 1 < 2", "a <tool", "b\n\n<", "plain", "<tool_calls"])
def test_only_what_may_begin_a_call_is_held_back(text):
    parser = ToolParser(ToolFormat(HERMES, True, True), NAMES)
    shown, _ = joined(parser.push(text))
    held = text.removeprefix(shown)
    assert "<tool_call>".startswith(held.strip())
    assert not held or parser.finish() == [TextPiece(held)]


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<|python_tag|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "function", "weather", "now", "\n", " ",
    '{"name": "weather", "arguments": ', '{"name": "now", "parameters": ', "{}", '{"a": "b"}', "}", "{", "[",
    '{"arguments": {"x": [1, 2]}, "name": "now"}', "```json\n", "```", "<tools>", "</tools>", '"', ",", "1",
    "\\", "é", ";",
    *(syntax.write([Call("weather", PARIS), Call("now", "{}")]) for syntax in SYNTAXES.values()),
]  # fmt: skip
answers = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SYNTAXES)),
    answers,
    cuts,
    st.booleans(),
    st.sampled_from(["", "first", "lines"]),
    st.booleans(),
)
@example("hermes", "<tool_call>" + '{"a": "<tool_call>{', [3], True, "", False)
def test_any_cutting_gives_the_same(syntax, answer, sizes, whole, loose, cut):
    options = {"whole": whole, "loose": loose, "cut": cut}
    pushes, place = [], 0
    while place < len(answer):
        size = sizes[len(pushes) % len(sizes)]
        pushes.append(answer[place : place + size])
        place += size
    text, calls = parsed(syntax, pushes, **options)
    assert (text, calls) == parsed(syntax, [answer], **options)
    for name, arguments in calls:
        assert name in NAMES
        assert arguments in answer or arguments == "{}"
        if whole:
            assert isinstance(json.loads(arguments), dict)
    if not calls:
        assert text == answer or (cut and answer.startswith(text))


@settings(deadline=None)
@given(st.sampled_from(sorted(SYNTAXES)), st.text(), st.text(max_size=3))
def test_text_without_calls_passes_unchanged(syntax, before, after):
    text = before + after
    assert parsed(syntax, [before, after]) == (text, [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SYNTAXES)),
    st.dictionaries(st.text(), json_values, max_size=4),
    st.booleans(),
    st.sampled_from([None, 0, 3]),
)
def test_any_arguments_come_through_as_written(syntax, arguments, ascii_only, indent):
    written = json.dumps(arguments, ensure_ascii=ascii_only, indent=indent)
    calls = [("weather", written), ("now", "{}")]
    text = SYNTAXES[syntax].write([Call(*call) for call in calls])
    assert parsed(syntax, text) == ("", calls)
