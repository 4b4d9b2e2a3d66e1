"""No chat template takes more time or memory than its budget, however it is written.

Each hostile template runs in a child process of its own, so that its time and its peak of memory are its own.
"""

import json
import os
import re
import resource
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from sampan.core.errors import TemplateError
from sampan.text.chat import ChatTemplate

HELLO = [{"role": "user", "content": "hi there"}]
MOST_SECONDS = 10
MOST_BYTES = 500_000_000


def often(body):
    return "{% for i in range(99999) %}" + body + "{% endfor %}"


def forever(body):
    return often(often(body))


def kept(value):
    """A list that grows by `value` with every pass."""
    return "{% set ns = namespace(x=[]) %}" + often("{% set ns.x = [ns.x, " + value + "] %}")


def big(body):
    return "{% set b = 'a' * 15999999 %}" + body


def nested(body, pair="[ns.x, ns.x]", first="['ab']"):
    """Sixty levels that hold the level below twice: 2 ** 60 texts, were they written out."""
    build = "{% for i in range(60) %}{% set ns.x = " + pair + " %}{% endfor %}"
    return "{% set ns = namespace(x=" + first + ") %}" + build + body


def tuples(body):
    return nested(body, "(ns.x, ns.x)", "('ab',)")


def deep(body):
    return "{% set ns = namespace(x=()) %}" + often("{% set ns.x = (ns.x,) %}") + body


LONG = "makes a text of more than 16000000 characters"
MANY = "makes a list of more than 1000000 items"
STEPS = "takes more than 500000 steps"
SECONDS = "computes for more than 5 seconds"
ENOUGH = f"{STEPS}|{SECONDS}"
ONE = "one operation takes too long"
KEPT = "keeps more than 256 MB"
BITS = "a number of more than 1024 bits"
WIDE = "too wide|can hold no"
PIECES = "more than 500000 pieces"
DEEP = "nested deeper than 200 levels"
REFUSED = "not offered the filter|cannot call|is undefined|has no attribute|no autoescape|cannot use -"
COMPILING = "does not compile|has more than"

HOSTILE = {
    LONG: [
        "{{ 'a' * 10**10 }}",
        "{% if 'a' * 10**10 == 'b' %}{% endif %}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ 'a\\nb' | indent(10**9) }}",
        "{{ ('0{0}' * 100000).format('a' * 10000) }}",
        "{{ ('{0!a}' * 200).format('😀' * 80000) }}",
        "{{ ('<' * 8000000) | e }}",
        "{{ ('%s' | safe) % ('<' * 4000000) }}",
        "{{ ('&' * 4000000) + ('' | safe) }}",
        "{{ (',' | safe).join(['<' * 1000000] * 10) }}",
        "{{ ['\U000e0001' * 8000000] | string | length }}",
        "{{ ('\\x01' * 8000000) | tojson | length }}",
        "{{ ('😀' * 8000000) | tojson(ensure_ascii=true) | length }}",
        "{{ ('ΐ' * 15900000) | upper | length }}",
        "{% set ns = namespace(s='ab') %}" + often("{% set ns.s = ns.s.replace('a', 'aa') %}"),
        "{{ ('a' * 100000).replace('a', 'b' * 1000000, 1000) }}",
        big("{{ b.replace('', b) }}"),
        big("{{ b | replace('', 'xxx') }}"),
        big("{{ b.join(['x'] * 100) }}"),
        big("{{ range(1000) | join(b) }}"),
        big("{{ b }}{{ b }}"),
        big("{% macro f() %}" + "{{ b }}" * 100 + "{% endmacro %}{{ f() | length }}"),
        "{% macro f(n) %}{% if n %}{% set x = f(n - 1) %}{{ x }}{{ x }}{% else %}x{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        often("{{ 'abcdefghij' * 100 }}"),
        *map(
            nested, ("{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x | tojson(indent=2) }}", "{{ ns.x ~ '' }}")
        ),
        *map(nested, ("{{ '{}'.format(ns.x) }}", "{{ '%s' % [ns.x] }}", "{{ [1].index(ns.x) }}")),
        *map(nested, ("{{ [ns.x] | join }}", "{{ ns.x | upper }}", "{{ raise_exception(ns.x) }}")),
        nested("{{ ns.x | safe }}", "{'a': ns.x, 'b': ns.x}", "{'a': 1}"),
        "{% set l = range(99999) | list %}{{ ([l] * 200) | tojson }}",
    ],
    MANY: [
        "{{ [0] * 10**10 }}",
        "{% set ns = namespace(x=[0]) %}" + often("{% set ns.x = ns.x + ns.x %}"),
        big("{{ b | list }}"),
        big("{{ ', '.join(b) }}"),
        big("{{ range(*b) }}"),
    ],
    ENOUGH: [
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% else %}x{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call m() %}" * 60
        + "{% endcall %}" * 60,
        "{% for i in range(9) recursive %}{{ loop(range(9)) if loop.depth < 30 }}{% endfor %}",
        "{% macro f() %}" + forever("{% if 1 %}x{% endif %}" * 900) + "{% endmacro %}{{ f() | length }}",
        "{% macro f() %}" + forever("{{ i }}" * 900) + "{% endmacro %}{{ f() | length }}",
        "{% set x %}" + forever("{% if 1 %}{% endif %}x" * 900) + "{% endset %}",
        "{% macro f() %}{% set ns.x = [ns.x, kwargs] %}{% endmacro %}{% set ns = namespace(x=[]) %}"
        + often("{{ f(" + ", ".join(f"a{k}=i" for k in range(60)) + ") }}"),
        forever("{{ '' }}" * 500),
        forever("{% if messages[0].role == 'x' and 'y' in messages[0].content %}{% endif %}" * 300),
        "{% set l = range(99999) | list %}" + often("{{ (l | tojson) | length }}"),
        big(often("{% set x = b.upper() %}")),
        big(often("{% set x = b[1:] %}")),
        big(often("{% set x = b.count('b') + b.find('c') %}")),
        big(often("{% set x = b ~ 'c' %}")),
        big(often("{% set x = b + '' == b[:-1] + 'a' %}")),
        big(often("{% set x | upper %}{{ b }}{% endset %}")),
        big("{% for c in b %}{% endfor %}"),
        "{{ ([[0] * 1000] * 1000) | sum(start=[]) | length }}",
    ],
    ONE: [
        "{% set b = 'a' * 8000000 %}{{ b.rfind('b' ~ 'a' * 4000000) }}",
        "{% set b = 'a' * 8000000 %}{{ b | trim('b' * 4000000 ~ 'a') }}",
        "{{ (['a'] * 900000) | map('list') | list | length }}",
        *map(nested, ("{{ ns.x == [ns.x] }}", "{{ [ns.x, ns.x] | sort }}", "{{ ns.x in [ns.x, 1] }}")),
        *map(
            nested, ("{% for j in range(3) %}{{ loop.changed(ns.x) }}{% endfor %}", "{{ ns.x is eq ns.x }}")
        ),
        *map(
            tuples,
            ("{{ {ns.x: 1} }}", "{{ {}.get(ns.x) }}", "{{ messages[ns.x].y }}", "{{ dict([(ns.x, 1)]) }}"),
        ),
        *map(tuples, ("{{ [ns.x] | unique | list }}", "{{ 'a'.startswith(ns.x) }}", "{{ ns.x in {} }}")),
    ],
    KEPT: [
        kept("'a' * 10000000"),
        kept("'😀' * 10000000"),
        kept("range(99999) | list"),
        kept("('ab ' * 400000).split()"),
        kept("('a' * 8000000 ~ 'b' ~ 'a' * 7000000).partition('b')[0]"),
        kept("(range(99999) | map('string'))"),
        big("{{ ([b] * 99999) | map('replace', 'a', 'b') | list | length }}"),
        big("{{ ([b] * 99999) | map('the part', 1, none, none) | list | length }}"),
        kept("[" + "[1]," * 3000 + "]"),
        "{% set ns = namespace(x=none) %}" + often("{% set ns.x = namespace(a=ns.x, b='a' * 1000000) %}"),
        "{% set ns = namespace(x=[]) %}"
        + often("{% macro m() %}{% endmacro %}" * 20 + "{% set ns.x = [ns.x" + ", m" * 20 + "] %}"),
    ],
    BITS: ["{{ 9**9**9**9 }}", "{% set ns = namespace(x=1) %}" + often("{% set ns.x = ns.x - (-ns.x) %}")],
    WIDE: [
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d' is odd }}",
        "{{ '%(a%b)1000000000d' % {'a%b': 1} }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10**9) }}",
    ],
    PIECES: ["{{ ('a ' * 7000000).split() }}", "{{ ('a\\n' * 1000000).splitlines() }}"],
    DEEP: [
        # A short way into each level is found first, and the level's own way down begins there.
        "{% set ns = namespace(x=('a',)) %}{% for i in range(150) %}{% set ns.y = ns.x %}"
        "{% for j in range(150) %}{% set ns.y = (ns.y,) %}{% endfor %}"
        "{% set ns.x = (ns.x, ns.y) %}{% endfor %}{{ {ns.x: 1} }}",
        *[deep("{{ {ns.x: 1} }}"), deep("{{ ns.x | tojson }}"), deep("{{ [ns.x] | unique | list }}")],
    ],
    REFUSED: [
        "{{ lipsum(n=10**8) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ 'a'.translate({97: 'b' * 10000000}) }}",
        "{{ ['a'.encode][0]('utf-32') }}",
        "{{ {'a': 1}.keys() - [] }}",
        "{% autoescape true %}{{ '<' * 9000000 }}{% endautoescape %}",
        *(
            "{{ 'a' | " + name + " }}"
            for name in ("center(10**9)", "wordwrap", "urlize", "striptags", "pprint")
        ),
        *(
            "{{ [1] | " + name + " | list }}"
            for name in ("batch(10**9, 'x')", "slice(10**9)", "groupby('x')")
        ),
    ],
    COMPILING: [
        "x" * 10**7,
        "{{x}}" * 19_999 + "{{y}}",
        *("{{ " + text * 20_000 + "1 }}" for text in ("-", "not ", "1 +", "1 if 1 else ", "(")),
        "{% if a %}" + "{% elif b %}x" * 7000 + "{% endif %}",
        "{% filter upper %}" * 2000 + "{% endfilter %}" * 2000,
    ],
    r"renders \d{1,6} characters|RecursionError": [
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(x=[1]) %}"
        + often("{% set ns.x = ns.x | map('string') %}")
        + "{{ ns.x | list }}",
        "{% set ns = namespace(x=1) %}" + often("{% set ns.x = {'a': ns.x} | items %}"),
        "".join(f"{{%set a{i}=1%}}" for i in range(3000)) + "{%if a%}{%endif%}" * 2900,
    ],
}
CASES = [(expected, source) for expected, sources in HOSTILE.items() for source in sources]


def attempt(source):
    """Seconds of processor time, bytes that memory has grown by at its peak, and what came of it."""
    start, before = time.process_time(), psutil.Process().memory_info().rss
    try:
        outcome = f"renders {len(ChatTemplate(source, bos='', eos='').render(HELLO))} characters"
    except TemplateError as error:
        outcome = str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return time.process_time() - start, peak - before, outcome


def attempt_apart(source):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps(attempt(source)).encode())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 100_000) if select.select([reading], [], [], 60)[0] else b""
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reading)
    return json.loads(found or b'[1e9, 1e18, "it crashed, or did not end"]')


def attempt_all(sources):
    """What became of each source; a process imports the package once and forks a child for each."""
    ran = subprocess.run(
        [sys.executable, __file__], input=json.dumps(sources), capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def attempts():
    sources = [source for _, source in CASES]
    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(attempt_all, (sources[::2], sources[1::2])))
    return [halves[place % 2][place // 2] for place in range(len(CASES))]


@pytest.mark.parametrize("place", range(len(CASES)), ids=[source[:60] for _, source in CASES])
def test_a_hostile_template_ends_within_its_bounds(attempts, place):
    seconds, grown, outcome = attempts[place]
    assert seconds < MOST_SECONDS
    assert grown < MOST_BYTES
    assert re.search(CASES[place][0], outcome)


def test_looking_through_all_messages_at_each_of_a_thousand_is_no_runaway():
    """As published templates do, to find the last question or the next result of a tool."""
    messages = [{"role": role, "content": "x" * 1000} for _ in range(500) for role in ("user", "assistant")]
    source = (
        "{% for m in messages %}{% set outer = loop.index0 %}{% for other in messages %}"
        "{% if loop.index0 > outer %}{% break %}{% endif %}{% endfor %}"
        "{{ m.content if messages[loop.index0:] | selectattr('role', 'eq', 'user') | list | length }}"
        "{% endfor %}"
    )
    assert len(ChatTemplate(source, bos="", eos="").render(messages)) == 999_000


if __name__ == "__main__":
    print(json.dumps([attempt_apart(source) for source in json.load(sys.stdin)]))
