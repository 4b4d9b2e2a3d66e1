"""A conversation with tools reaches the model in the form that its template, or its lack of one, asks for.

The templates are written here with the constructs of the published ones of Qwen2.5, Qwen3, Llama 3.1,
DeepSeek-R1 and DeepSeek-V3.1; those of tests/text/templates and the default model's own come with them.
"""

import copy
import json
from pathlib import Path

import pytest

from sampan.core.errors import RequestError
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import CallPiece, ToolParser, for_template, instructions, tool_format
from sampan.weights.gguf import read_gguf

QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\n' }}
    {%- endfor %}
    {{- 'Answer with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if '</think>' in message.content %}{{ raise_exception('thinking') }}{% endif %}
        {%- if message.content %}{{- '\n' + message.content }}{% endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}
                {{- 'a string: ' + tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments | tojson }}
            {%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}"""

LLAMA = """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if tools is not none %}{{ 'ipython ' + tools | tojson(indent=4) }}{% endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{ raise_exception('one call a turn') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {%- for name, value in call.arguments | items %}{% endfor %}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content | tojson + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}"""

R1 = """{%- set ns = namespace(is_first=false) %}{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{{ message['content'] }}{% endif %}
    {%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% endif %}
    {%- if message['role'] == 'assistant' and message['tool_calls'] %}
        {%- set ns.is_first = false %}
        {%- for tool in message['tool_calls'] %}
            {{- '\n' if ns.is_first else '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
            {{- '<｜tool▁call▁begin｜>' }}
            {{- tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n```json\n' }}
            {{- tool['function']['arguments'] + '\n```<｜tool▁call▁end｜>' }}
            {%- set ns.is_first = true %}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜>' + eos_token }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {{- '<｜Assistant｜>' + message['content'] + eos_token }}
    {%- endif %}
    {%- if message['role'] == 'tool' %}
        {{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}
    {%- endif %}
{%- endfor %}"""

V31 = R1.replace(
    "tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n```json\n'",
    "tool['function']['name'] + '<｜tool▁sep｜>'",
)
V31 = V31.replace("'\n```<｜tool▁call▁end｜>'", "'<｜tool▁call▁end｜>'").replace("'\n' if", "'' if")

FILES = {path.stem: path.read_text("utf-8") for path in (Path(__file__).parent / "templates").glob("*.jinja")}
PUBLISHED = {"qwen": QWEN, "llama": LLAMA, "r1": R1, "v3.1": V31}


def tool(name, **more):
    return {"type": "function", "function": {"name": name, "description": f"Gives the {name}.", **more}}


TOOLS = [
    tool("weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}, strict=True),
    tool("time"),
]


def call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = [("weather", '{"city": "Łódź", "unit": "<C>"}'), ("time", "{}")]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is it in Łódź?"},
    {"role": "assistant", "content": None, "tool_calls": [call("a", *CALLS[0]), call("b", CALLS[1][0], "")]},
    {"role": "tool", "tool_call_id": "b", "content": "noon"},
    {"role": "tool", "tool_call_id": "a", "content": '{"degrees": 7}'},
    {"role": "assistant", "content": "Cold, at noon."},
    {"role": "user", "content": "And now?"},
]  # fmt: skip


def prompt(source, messages=CONVERSATION, tools=TOOLS):
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    given, told = for_template(tool_format(source), messages, tools)
    return template.render(given, tools=told)


@pytest.mark.parametrize(
    ("source", "syntax", "lists", "writes", "arguments"),
    [
        (QWEN, "hermes", True, True, "object"),
        (LLAMA, "llama", True, True, "object"),
        (R1, "deepseek", False, True, "text"),
        (R1.replace("['arguments'] +", "['arguments'] | tojson +"), "deepseek", False, True, "object"),
        (V31, "deepseek-v3.1", False, True, "text"),
        (FILES["tools"], "hermes", True, True, "object"),
        (FILES["headers"], "llama", True, True, "object"),
        (FILES["thinking"], "hermes", False, False, None),
        (FILES["distilled"], "hermes", False, False, None),
        (
            "{% for tool in tools %}<tool_call>\n<function=f>{% endfor %}{{ messages[0].tool_calls }}",
            "hermes",
            False,
            False,
            None,
        ),
        ("{{ 'no tools if you please' }}", "hermes", False, False, None),
        (None, "hermes", False, False, None),
    ],
)
def test_the_template_tells_the_format(source, syntax, lists, writes, arguments):
    format = tool_format(source)
    assert (format.syntax.name, format.lists_tools, format.writes_calls) == (syntax, lists, writes)
    assert arguments in (None, format.arguments)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_template_writes_of_earlier_calls_is_what_the_parser_reads(name):
    written = prompt(PUBLISHED[name])
    parser = ToolParser(tool_format(PUBLISHED[name]), ["weather", "time"], whole=True)
    turns = written.replace("<|eot_id|>", "<|im_end|>").split("assistant<|end_header_id|>\n\n")
    if name == "llama":
        pieces = [piece for turn in turns[1:] for piece in parser.push(turn.split("<|im_end|>")[0])]
    else:
        pieces = parser.push(written[written.index("How is it") :])
    pieces += parser.finish()
    calls = [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, CallPiece)]
    assert calls == [(name, json.loads(arguments)) for name, arguments in CALLS]
    assert "a string" not in written


@pytest.mark.parametrize("name", [*PUBLISHED, "tools", "headers", "thinking"])
def test_every_part_of_a_conversation_is_told_in_order(name):
    source = PUBLISHED.get(name) or FILES[name]
    written = prompt(source)
    parts = ["How is it", "Łódź", "<C>", "degrees", "noon", "Cold, at noon.", "And now?"]
    places = [written.index(part, written.index("How is it")) for part in parts]
    assert places == sorted(places)
    assert '"city"' in written[: places[0]]
    assert "strict" not in written


def test_llama_is_told_one_call_at_a_time():
    given, _ = for_template(tool_format(LLAMA), CONVERSATION, TOOLS)
    turns = [
        (each["role"], [one["function"]["name"] for one in each.get("tool_calls", [])]) for each in given
    ]
    expected = [
        ("assistant", ["weather"]),
        ("tool", []),
        ("assistant", ["time"]),
        ("tool", []),
        ("assistant", []),
    ]
    assert turns[2:7] == expected
    assert [given[3]["content"], given[5]["content"]] == ['{"degrees": 7}', "noon"]
    unanswered, _ = for_template(tool_format(LLAMA), CONVERSATION[:3], TOOLS)
    assert len(unanswered) == 4


def test_results_are_named_after_their_functions():
    given, _ = for_template(tool_format(QWEN), CONVERSATION)
    assert [each.get("name") for each in given if each["role"] == "tool"] == ["weather", "time"]


@pytest.fixture(scope="module")
def metadata(default_model):
    return read_gguf(default_model.path).metadata


class TestDefaultModel:
    """Its template knows no tools: all is text, in Hermes' form."""

    def test_a_whole_conversation(self, metadata):
        template = ChatTemplate.from_gguf(metadata)
        format = tool_format(metadata["tokenizer.chat_template"], Tokenizer.from_gguf(metadata))
        assert (format.syntax.name, format.lists_tools, format.writes_calls) == ("hermes", False, False)
        assert not format.control
        given, told = for_template(format, CONVERSATION, TOOLS)
        assert told is None
        assert template.render(given) == (
            "<|im_start|>system\nBe brief.\n\n" + instructions(format, TOOLS) + "<|im_end|>\n"
            "<|im_start|>user\nHow is it in Łódź?<|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": ' + CALLS[0][1] + "}\n"
            '</tool_call>\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call><|im_end|>\n'
            '<|im_start|>user\n<tool_response>\n{"degrees": 7}\n</tool_response>\n'
            "<tool_response>\nnoon\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\nCold, at noon.<|im_end|>\n"
            "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_a_conversation_without_tools_is_left_as_it_is(self, metadata):
        format = tool_format(metadata["tokenizer.chat_template"])
        plain = [each for each in CONVERSATION if each["role"] in ("system", "user")]
        assert for_template(format, plain) == (plain, None)

    def test_a_system_message_is_made_where_there_is_none(self, metadata):
        format = tool_format(metadata["tokenizer.chat_template"])
        given, _ = for_template(format, CONVERSATION[1:2], TOOLS)
        assert given == [{"role": "system", "content": instructions(format, TOOLS)}, CONVERSATION[1]]


@pytest.mark.parametrize("source", [None, *PUBLISHED.values()])
def test_instructions_show_every_tool_and_the_form_of_a_call(source):
    format = tool_format(source)
    told = instructions(format, TOOLS)
    for each in TOOLS:
        shown = {name: value for name, value in each["function"].items() if name != "strict"}
        assert json.dumps(shown) in told.splitlines()
    parser = ToolParser(format, ["function-name"], whole=True)
    begin = told.index("exactly this form:\n") + len("exactly this form:\n")
    pieces = parser.push(told[begin:]) + parser.finish()
    assert CallPiece(0, "function-name", '{"argument-name": "value"}') in pieces


@pytest.mark.parametrize("source", [None, *PUBLISHED.values()])
def test_text_beside_calls_and_empty_lists_of_calls(source):
    spoken = {"role": "assistant", "content": "Let me look.", "tool_calls": [call("a", *CALLS[0])]}
    given, _ = for_template(tool_format(source), [CONVERSATION[1], spoken])
    assert given[1]["content"].startswith("Let me look.")
    given, _ = for_template(tool_format(source), [{"role": "assistant", "content": "Hi.", "tool_calls": []}])
    assert given == [{"role": "assistant", "content": "Hi."}]


def test_arguments_may_be_an_object_already():
    for source in (QWEN, R1):
        messages = copy.deepcopy(CONVERSATION)
        messages[2]["tool_calls"][0]["function"]["arguments"] = json.loads(CALLS[0][1])
        assert prompt(source, messages) == prompt(source)


def told(arguments, source=QWEN):
    """What a template is given of these arguments."""
    message = {"role": "assistant", "tool_calls": [call("a", "time", arguments)]}
    given, _ = for_template(tool_format(source), [CONVERSATION[1], message])
    found = given[1]["tool_calls"][0]["function"]["arguments"]
    ChatTemplate(source, bos="<s>", eos="</s>").render(given)
    return json.loads(found) if isinstance(found, str) else found


@pytest.mark.parametrize("source", [QWEN, R1])
@pytest.mark.parametrize("arguments", ["", "null", None, "{}", " { } "])
def test_no_arguments_are_an_empty_object(source, arguments):
    assert told(arguments, source) == {}


@pytest.mark.parametrize("source", [QWEN, R1])
@pytest.mark.parametrize(
    "arguments",
    [
        "{", '{"city": "Par', '{"city": "Paris"', "[1]", '"x"', "7", "NaN", '{"a": NaN}', '{"a": 1e999}',
        '{"a": ' + "9" * 400 + "}", '{"a": "\\ud83d"}', '{"a":' * 90 + "1" + "}" * 90, "{" * 100_000,
        '{"a":' * 100_000, '{"a": 1} and so on',
    ],
)  # fmt: skip
def test_arguments_that_are_no_object_reach_the_model_as_they_were_written(source, arguments):
    assert told(arguments, source) == {"INVALID_JSON": arguments}


def test_any_beginning_of_arguments_is_taken():
    whole = CALLS[0][1]
    for end in range(1, len(whole)):
        assert told(whole[:end]) == {"INVALID_JSON": whole[:end]}
    assert told(whole) == json.loads(whole)


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_what_was_said_between_a_call_and_its_result_comes_after_it(role):
    between = {"role": role, "content": "By the way."}
    messages = [*CONVERSATION[:3], between, *CONVERSATION[3:]]
    given, _ = for_template(tool_format(QWEN), messages)
    assert [each["role"] for each in given[2:6]] == ["assistant", "tool", "tool", role]
    assert [each["name"] for each in given[3:5]] == ["weather", "time"]


def test_an_id_that_comes_again_is_of_the_last_call():
    turns = [
        {"role": "assistant", "tool_calls": [call("0", name, "{}")]} if name else
        {"role": "tool", "tool_call_id": "0", "content": "7"}
        for name in ("weather", None, "time", None)
    ]  # fmt: skip
    given, _ = for_template(tool_format(QWEN), [CONVERSATION[1], *turns])
    assert [each.get("name") for each in given] == [None, None, "weather", None, "time"]


@pytest.mark.parametrize("place", [1, 5])
def test_a_result_of_no_call_is_refused(place):
    messages = [*CONVERSATION[:place], {"role": "tool", "tool_call_id": "z", "content": "?"}]
    with pytest.raises(RequestError, match=rf"messages\[{place}\]\.tool_call_id is 'z'"):
        for_template(tool_format(QWEN), messages)


def test_messages_are_left_as_they_were():
    before = copy.deepcopy(CONVERSATION)
    for source in (None, *PUBLISHED.values()):
        for_template(tool_format(source), CONVERSATION, TOOLS)
    assert before == CONVERSATION
