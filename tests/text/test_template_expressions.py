"""Whatever expression a chat template holds, it gives what Jinja gives, or an error within its bounds."""

import re
import resource
import sys
import time

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from sampan.core.errors import TemplateError
from sampan.text.chat import ChatTemplate
from sampan.text.template import budget as template_budget

ORACLE = PreTrainedTokenizerFast(tokenizer_object=Backend(models.BPE(vocab={"a": 0}, merges=[])))
MESSAGES = [
    {"role": "user", "content": " Hello <b>&</b>, 'you'\n— 日本  x "},
    {"role": "assistant", "content": "Hi.", "n": [3, 1.5, None, True]},
]


def words(text):
    return text.split()


NAMES = (  # variables, as Jinja works constants out by other rules than values
    "{% set a, b, c, d = 'a B-c,d', 'ΐ<é>\\n\\tx', '', messages[0].content | safe %}"
    "{% set e, f, g, h = 7, -2.5, none, true %}{% set k, l = [3, 'b', 1], {'b': 1, 'A': [2]} %}"
    "{% set m, n = ('x', 'y'), range(4) %}"
)
SMALL = words("a b c d e f g h k l m n missing messages messages[0] messages[0].content messages[1].n")
FILTERS = words("""
    abs capitalize count default('x') d('x',true) dictsort dictsort(true,'value') e escape first float
    indent indent(2,true) int int(5) items join join('--') join(',',attribute='role') last length list lower
    map('string') map('upper') map(attribute='role') max min reject('string') rejectattr('role','eq','user')
    replace('a','bb') replace('','-',2) reverse round round(1,'floor') safe select select('string')
    selectattr('role') selectattr('role','==','user') sort sort(reverse=true,attribute='role') string sum
    title tojson tojson(indent=2) tojson(ensure_ascii=true,separators=(',',':')) trim trim('a') unique upper
    attr('upper')""")
METHODS = words("""
    capitalize() copy() count('a') endswith('c') find('B') format(1,a=2) get('b') get('role','x') index('b')
    isalpha() isdigit() items() join(['x','y']) keys() ljust(9) lower() lstrip() partition('B')
    removeprefix('a') replace('a','b') rfind('a') rpartition(',') rsplit(',',1) rstrip() split() split(',')
    split(',',1) splitlines() startswith('a') startswith(('a','H')) strip() strip('a') swapcase() title()
    upper() values() zfill(5)""")
TESTS = words("""
    boolean callable defined divisibleby(3) eq(7) escaped even filter float ge(2) in('abc') in([7,3]) integer
    iterable lower mapping none number odd sameas(none) sequence string test true undefined upper""")
SLICES = ["1:", ":-1", "::-1", "0:2", "-1", "0", "'role'"]
SIGNS = words("+ - ~ == != < <= in and or % //")
REFUSALS = "SecurityError|is not iterable"  # Jinja's filters look at their input when it is read


def wider(inner, signs=SIGNS, methods=METHODS, filters=FILTERS):
    return st.one_of(
        st.builds("({}) | {}".format, inner, st.sampled_from(filters)),
        st.builds("({}).{}".format, inner, st.sampled_from(methods)),
        st.builds("({})[{}]".format, inner, st.sampled_from(SLICES)),
        st.builds("({}) is {}".format, inner, st.sampled_from(TESTS)),
        st.builds("({}) {} ({})".format, inner, st.sampled_from(signs), inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{'k': {}, {}: 1}}".format, inner, inner),
        st.builds("({}) if ({}) else ({})".format, inner, inner, inner),
    )


def rendered(source):
    try:
        return ChatTemplate(source, bos="", eos="").render(MESSAGES, add_generation_prompt=False)
    except TemplateError as error:
        return error


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(st.sampled_from(SMALL), wider, max_leaves=4))
@example("1 < 2 < 3")
@example("1 < 2 > 3 < missing")
@example("'%s-%d' % ('a', 3)")
@example("'%(a)s' % {'a': 3}")
@example("'%s' | format(messages)")
@example("([[1], [2, 3]] | sum(start=[]))")
def test_an_expression_gives_what_jinja_gives(expression):
    check(expression)


def check(expression):
    source = NAMES + "{% set x = " + expression + " %}{{ x }}|{% for y in x %}{{ y }};{% endfor %}"
    try:
        expected = ORACLE.apply_chat_template(MESSAGES, chat_template=source, tokenize=False)
    except Exception:
        expected = None
    found = rendered(source)
    if expected is None:
        assert isinstance(found, TemplateError)
    elif not re.search("gener|0x", expected.lower()):  # the names and addresses of Python's objects differ
        assert found == expected or re.search(REFUSALS, str(found))


@pytest.mark.parametrize("end", [f" | {name}" for name in FILTERS] + [f".{name}" for name in METHODS])
def test_filters_and_methods_give_what_jinja_gives(end):
    for value in SMALL:
        check(f"({value}){end}")


LARGE = ["b", "w", "l", "s", "t", "messages", "10**9", "'%999999999d'", "'{:>999999999}'", "[b, b]", "1"]
LARGE_FILTERS = [
    *FILTERS,
    "join(b)",
    "replace('a',b)",
    "format(1)",
    "map('list')",
    "map('tojson')",
    "trim(b)",
]
LARGE_METHODS = [*METHODS, "rfind(b)", "replace('a',b)", "ljust(10**9)", "join(l)", "split('a')", "index(s)"]
LARGE_SIGNS = [*SIGNS, "*", "**", "*"]
PRELUDE = """{% set b = 'ab c' * 3000000 %}{% set w = '😀é' * 2000000 %}{% set l = range(90000) | list %}
{% set ns = namespace(s=['a'], t=('a',), x=[]) %}
{% for i in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}
{% set s = ns.s %}{% set t = ns.t %}"""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.recursive(
        st.sampled_from(LARGE),
        lambda inner: wider(inner, LARGE_SIGNS, LARGE_METHODS, LARGE_FILTERS),
        max_leaves=5,
    )
)
def test_no_expression_leaves_the_bounds(expression):
    """Time is bounded at half a second here, so that many expressions can be tried."""
    usual, template_budget.MAX_SECONDS = template_budget.MAX_SECONDS, 0.5
    before = max(psutil.Process().memory_info().rss, peak())
    start = time.thread_time()
    try:
        keep = "{% set ns.x = [ns.x, " + expression + "] %}"
        found = rendered(PRELUDE + "{% for i in range(40) %}" + keep + "{% endfor %}")
    finally:
        template_budget.MAX_SECONDS = usual
    assert isinstance(found, TemplateError) or found.strip() == ""
    assert time.thread_time() - start < 5
    assert peak() - before < 500_000_000


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
