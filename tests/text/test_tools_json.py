"""The reader of JSON objects agrees with Python's, and knows the first character that cannot be."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sampan.text.tools.json_prefix import JsonPrefix

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def after(text):
    scanner = JsonPrefix()
    scanner.read(text, 0)
    return scanner


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans())
def test_takes_every_object_and_stops_after_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    scanner = JsonPrefix()
    assert scanner.read(text + "}", 0) == len(text)
    assert scanner.complete


@settings(deadline=None)
@given(
    st.text(st.sampled_from('{}[]:,"\\ /u0019eE+-.tfnrualsx\n\x01'), max_size=12).map(lambda text: "{" + text)
)
@example('{"a":01}')
@example('{"a":1.}')
@example('{"a":-}')
@example('{"a":1,}')
@example('{"a":[1,]}')
@example('{"a":truf}')
@example('{"a":"\\x"}')
@example('{"a":"\\u00g0"}')
@example('{"a":tru')
def test_takes_nothing_else(text):
    scanner = JsonPrefix()
    place = scanner.read(text, 0)
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        assert not scanner.complete
    else:
        assert (scanner.complete, place) == (True, end)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (" {", 9),
        ('{"a":01', 6),
        ('{"a":1.}', 7),
        ('{"a":-]', 6),
        ('{"a":1e+x', 8),
        ('{"a":1,}', 7),
        ('{"a":[1,]', 8),
        ('{"a":[,', 6),
        ('{"a":1]', 6),
        ('{"a":truf', 8),
        ('{"a":NaN', 5),
        ('{"a" 1', 5),
        ("{a", 1),
        ('{"\\x', 3),
        ('{"\\u00g', 6),
        ('{"\n', 2),
    ],
)
def test_the_first_wrong_character_is_known(text, place):
    scanner = after(text)
    assert scanner.failed == (place < len(text))
    assert JsonPrefix().read(text, 0) == min(place, len(text))


def test_depth_has_an_end():
    assert not after('{"a":' * 100).failed
    assert after('{"a":' * 101).failed
