"""A rendered prompt is the one that transformers renders, and no template can hang or break out."""

import json
import time
from pathlib import Path

import gguf
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from sampan.core.errors import TemplateError, TokenizerError
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning
from sampan.weights.gguf import read_gguf

TEMPLATES = {
    path.stem: path.read_text("utf-8") for path in (Path(__file__).parent / "templates").glob("*.jinja")
}
HELLO = {"role": "user", "content": "Hello <b>&</b> \"quotes\" — 日本 'x'"}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź", "unit": "<C>"}}}
CONVERSATIONS = {
    "one question": [HELLO],
    "a system prompt": [SYSTEM, HELLO],
    "several turns": [
        SYSTEM,
        HELLO,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n Hi. "},
        {"role": "user", "content": " And\n\nnow?  "},
    ],
    "reasoning given apart": [
        HELLO,
        {"role": "assistant", "content": "Hi.", "reasoning_content": "a greeting"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Yes.", "reasoning": "\nlonger\n"},
    ],
    "a call and its result": [
        HELLO,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"degrees": 7, "sky": "grey"}'},
        {"role": "tool", "content": "second result"},
    ],
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = "Today's weather in a <city> & around it – “now”."
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY, "description": WEATHER}},
    {"type": "function", "function": {"name": "time", "parameters": {}}},
]


@pytest.fixture(scope="module")
def oracle():
    return PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[])),
        bos_token="<s>",
        eos_token="</s>",
    )


def chat(source, **options):
    return ChatTemplate(source, bos="<s>", eos="</s>", **options)


@pytest.mark.parametrize("extra", [{}, {"enable_thinking": False, "date_string": "1 May 2025"}])
@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_prompts_are_transformers(oracle, name, messages, tools, generation, extra):
    source = TEMPLATES[name]
    expected = oracle.apply_chat_template(
        messages, chat_template=source, tools=tools, add_generation_prompt=generation, tokenize=False, **extra
    )
    assert chat(source).render(messages, add_generation_prompt=generation, tools=tools, **extra) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}|{{ tools | tojson(sort_keys=true, ensure_ascii=true) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}\n {{ loop.index }}{{ loop.length }}\n{% else %}none{% endfor %}",
        "{% for m in messages %}{% if not loop.last %}{{ loop.nextitem.role }}{% endif %}{% endfor %}",
        "{% for m in messages if m.role != 'system' %}{{ loop.cycle(1, 2) }}{{ loop.revindex }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for c in 'abc' %}{{ c }}{% endfor %}{% for x in missing %}{{ x }}{% else %}nothing{% endfor %}",
        "{% for n in [1, [2, [3]]] recursive %}{{ loop(n) if n is sequence else n }}{% endfor %}",
        "{{ 1 ~ none ~ missing ~ [2] ~ 'x' ~ 1.5 }}{{ 'a' * 3 + 'b' }}{{ 2 ** 8 * 3 }}",
        "{{ [1] + [2] }}{{ 3 * [0] }}{{ 0.5 * 3 }}{{ true + 1 }}",
        "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ tools is none }}{{ documents is none }}",
        "{% generation %}{% set x = 1 %}said{% endgeneration %}{{ x is defined }}",
        "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}",
        "{{ range(3) | list }}{{ dict(a=1) }}{{ namespace(self=2).self }}",
    ],
)
def test_the_language_is_that_of_published_templates(oracle, source):
    messages = CONVERSATIONS["several turns"]
    expected = oracle.apply_chat_template(messages, chat_template=source, tools=TOOLS, tokenize=False)
    assert chat(source).render(messages, add_generation_prompt=False, tools=TOOLS) == expected


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_found_under_each_of_its_names(oracle, name):
    messages = [HELLO, {"role": "assistant", "content": "Hi.", name: "a greeting", "more": [1, {"x": None}]}]
    source = "{{ messages | tojson }}"
    expected = oracle.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert chat(source).render(messages) == expected


def test_null_fields_are_missing_fields_except_a_null_content(oracle):
    message = {"role": "assistant", "content": "Hi.", "tool_calls": None, "name": None, "reasoning": None}
    source = "{% for m in messages %}{{ 'tool_calls' in m }}{{ m | tojson }}{% endfor %}"
    expected = oracle.apply_chat_template([message], chat_template=source, tokenize=False)
    assert chat(source).render([message]) == expected
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert chat("{{ messages[0].content is none }}").render([call]) == "True"


def test_a_model_without_special_tokens_defines_none():
    source = "{{ bos_token is defined }}{{ eos_token is defined }}"
    assert ChatTemplate(source, bos="", eos="").render([HELLO]) == "FalseFalse"


def test_reasoning_that_the_template_opens_is_seen():
    assert starts_inside_reasoning(chat(TEMPLATES["distilled"]).render([HELLO]))
    assert not starts_inside_reasoning(chat(TEMPLATES["thinking"]).render([HELLO], enable_thinking=False))


def test_messages_are_left_as_they_were():
    messages = [SYSTEM | {}, HELLO | {"reasoning": "x"}]
    before = json.dumps(messages)
    with pytest.raises(TemplateError, match="unsafe"):
        chat("{{ messages.append(1) }}").render(messages)
    chat("{{ messages }}").render(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("line one\n{% if %}", r"line 2: Expected an expression"),
        ("{% for m in messages %}", r"line 1: Unexpected end of template"),
        ("{{ messages | nosuch }}", r"No filter named 'nosuch'"),
        ("{{ raise_exception('Roles must\n alternate') }}", r"refuses these messages: Roles must alternate"),
        ("{{ nothing.at.all }}", r"'nothing' is undefined"),
        ("{{ messages[0].content + 1 }}", r"TypeError"),
        ("{% include 'other' %}", r"no loader"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", r"does not compile: RecursionError"),
        ("{{ ''.__class__.__mro__ }}", r"'__class__' of 'str' object is unsafe"),
        ("{{ raise_exception.__globals__.x }}", r"'__globals__' of 'function' object is unsafe"),
        ("{{ messages.clear() }}", r"'clear' of 'list' object is unsafe"),
        ("{% set ns = namespace(__class__=1) %}", r"cannot have an attribute '__class__'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", r"cannot have an attribute '_x'"),
    ],
)
def test_what_a_template_does_wrong_is_told_on_one_line(source, message):
    with pytest.raises(TemplateError, match=message) as caught:
        chat(source).render([HELLO])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = range(99999) | list %}{% for i in x %}{% for j in x %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(9) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(999) recursive %}{{ loop(range(99999)) if loop.depth < 2 }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{{ 'ab' * 10**11 }}",
        "{{ [1] * 10**11 }}",
        "{{ 10**11 * 'ab' }}",
        "{{ 7 ** (10 ** 9) }}",
        "{% for i in range(99999) %}{{ 'abcdefghij' * 100 }}{% endfor %}",
    ],
)
def test_a_template_that_runs_away_is_stopped(source):
    start = time.perf_counter()
    with pytest.raises(TemplateError, match="fails on these messages"):
        chat(source).render([HELLO])
    assert time.perf_counter() - start < 30


def test_a_long_conversation_is_no_runaway():
    messages = [
        {"role": role, "content": "word " * 500} for _ in range(1500) for role in ("user", "assistant")
    ]
    for name in TEMPLATES:
        assert len(chat(TEMPLATES[name]).render(messages)) > 7_000_000
    gather = "{% for m in messages %}{% set ns.s = ns.s + m.content %}{% endfor %}{{ ns.s }}"
    assert len(chat("{% set ns = namespace(s='') %}" + gather).render(messages[::3])) == 2_500_000


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (["hi"], "message 0 is a str"),
        ([{"role": "user", "content": b"x"}], "hold a bytes"),
        ([{"role": object()}], "object"),
    ],
)
def test_messages_that_are_no_messages_are_refused(messages, message):
    with pytest.raises(TemplateError, match=message):
        chat("{{ messages }}").render(messages)


def test_messages_nested_without_end_are_refused():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(TemplateError, match="nested deeper than 100 levels"):
        chat("{{ messages }}").render([{"role": "user", "content": nested}])


def write_config(folder, **config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


class TestFolder:
    def test_none_without_a_template(self, tmp_path):
        assert ChatTemplate.from_folder(tmp_path) is None
        write_config(tmp_path, bos_token="<s>")
        assert ChatTemplate.from_folder(tmp_path) is None

    def test_one_template(self, tmp_path):
        write_config(
            tmp_path,
            chat_template="{{ bos_token }}{{ eos_token }}!",
            bos_token="<s>",
            eos_token={"content": "</s>"},
        )
        assert ChatTemplate.from_folder(tmp_path).render([HELLO]) == "<s></s>!"

    def test_named_templates(self, tmp_path):
        named = {"default": "plain", "tool_use": "tools", "rag": "rag"}
        write_config(
            tmp_path, chat_template=[{"name": name, "template": text} for name, text in named.items()]
        )
        template = ChatTemplate.from_folder(tmp_path)
        assert template.render([HELLO]) == "plain"
        assert template.render([HELLO], tools=TOOLS) == "tools"

    def test_a_file_of_its_own_comes_first(self, tmp_path):
        write_config(tmp_path, chat_template="old", bos_token=None, eos_token="</s>")
        (tmp_path / "chat_template.jinja").write_text("new ü{{ eos_token }}", "utf-8")
        assert ChatTemplate.from_folder(tmp_path).render([HELLO], tools=TOOLS) == "new ü</s>"
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
        assert ChatTemplate.from_folder(tmp_path).render([HELLO], tools=TOOLS) == "with tools"

    def test_a_damaged_file_is_named(self, tmp_path):
        (tmp_path / "tokenizer_config.json").write_text("{")
        with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
            ChatTemplate.from_folder(tmp_path)
        write_config(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
        with pytest.raises(TokenizerError, match=r"chat_template\.jinja"):
            ChatTemplate.from_folder(tmp_path)


class TestGguf:
    def write(self, path, template):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_token_list(["<s>", "</s>"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        if template:
            writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return read_gguf(path).metadata

    def test_none_without_a_template(self, tmp_path):
        assert ChatTemplate.from_gguf(self.write(tmp_path / "m.gguf", None)) is None

    def test_one_template(self, tmp_path):
        template = ChatTemplate.from_gguf(self.write(tmp_path / "m.gguf", "{{ bos_token }}{{ eos_token }}!"))
        assert template.render([HELLO], tools=TOOLS) == "<s></s>!"

    def test_named_templates(self, tmp_path):
        named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
        template = ChatTemplate.from_gguf(self.write(tmp_path / "m.gguf", named))
        assert (template.render([HELLO]), template.render([HELLO], tools=TOOLS)) == ("plain", "tools")

    def test_an_id_outside_the_vocabulary_is_passed_over(self, tmp_path):
        metadata = self.write(tmp_path / "m.gguf", "{{ bos_token }}x") | {"tokenizer.ggml.bos_token_id": 2}
        with pytest.warns(UserWarning, match="bos_token_id: passed over 2: there are 2 tokens"):
            template = ChatTemplate.from_gguf(metadata)
        assert template.render([HELLO]) == "x"
