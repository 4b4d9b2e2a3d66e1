"""Markers of calls that a vocabulary has as control tokens are known by their ids."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import tool_format

LLAMA = "{% for m in messages %}{{ m.tool_calls }}<|python_tag|>{% endfor %}"
HERMES = "{% for m in messages %}{{ m.tool_calls }}<tool_call>{% endfor %}"


def test_markers_that_are_control_tokens_are_known(tmp_path):
    alphabet = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("<|python_tag|>", special=True), AddedToken("<tool_call>", special=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tool_format(LLAMA, tokenizer).control == {"<|python_tag|>": 256}
    assert tool_format(LLAMA, tokenizer).shown == {256}
    assert tool_format(HERMES, tokenizer).shown == frozenset()
    assert tool_format(LLAMA).shown == frozenset()
