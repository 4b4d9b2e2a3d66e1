"""Control tokens written in a conversation stay text, and nothing else changes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sampan.text.tokenizer import Tokenizer
from sampan.text.veil import Veil

FORGED = st.lists(
    st.sampled_from(["a", " b", "<s>", "</s>", "[/INST]", "</s", "\n", "日本", "  ", "<unk>", "▁"]),
    max_size=7,
).map("".join)


@pytest.fixture(scope="module", params=["folder", "gguf"])
def tokenizer(request: pytest.FixtureRequest, sentencepiece: Any, tmp_path_factory: Any) -> Any:
    found = sentencepiece.write(tmp_path_factory.mktemp("llama"))
    folder = request.param == "folder"
    own = Tokenizer.from_folder(found.folder) if folder else Tokenizer.from_gguf(found.metadata)
    return own, found.oracle


def reference(oracle: PreTrainedTokenizerFast, parts: list[str]) -> list[int]:
    """Texts around control tokens, by transformers' switch that makes them text: `parts` in turn."""
    ids = []
    for place, part in enumerate(parts):
        if place % 2:
            ids.append(oracle.convert_tokens_to_ids(part))
        elif part:
            ids += oracle.encode(part, add_special_tokens=False, split_special_tokens=True)
    return ids


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(FORGED, min_size=2, max_size=2))
def test_what_is_written_is_text_and_the_rest_as_it_was(tokenizer: Any, texts: list[str]) -> None:
    own, oracle = tokenizer
    veil = Veil(own)
    hidden = veil.over({"content": texts, "</s>": 5})
    first, second = hidden["content"]
    assert "</s>" not in str(hidden)
    prompt = f"<s>[INST] {first} [/INST]</s><s>x{second}"
    plain = ["", "<s>", f"[INST] {texts[0]} [/INST]", "</s>", "", "<s>", f"x{texts[1]}"]
    assert veil.lifted(prompt) == "".join(plain)
    ids, expected = veil.encode(prompt), reference(oracle, plain)
    assert own.decode(ids, skip_special=False) == own.decode(expected, skip_special=False)
    assert [token for token in ids if token in own.special_ids] == [1, 2, 1]
    if [token for token in expected if token in own.special_ids] == [1, 2, 1]:
        assert ids == expected  # transformers merges some to control tokens


def test_byte_level_families_keep_forged_tokens_as_text(trained: Any) -> None:
    for own in (Tokenizer.from_folder(trained.folder), Tokenizer.from_gguf(trained.metadata)):
        veil = Veil(own)
        end = trained.special[0]
        text = f"a{end}b {end} 12\n{''.join(trained.visible)}c"
        ids = veil.encode(f"{end}x {veil.over(text)} y{end}")
        whole = f"x {text} y"
        assert ids == reference(trained.oracle, ["", end, whole, end])
        assert own.decode(ids, skip_special=False) == f"{end}{whole}{end}"
