"""Every example of docs/api.md runs, on the default model, in the order in which it is read."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/api.md, example {number}", "exec"), names)
    said = capsys.readouterr().out
    assert len(BLOCKS) >= 9
    assert "Paris" in said
    assert "tokens of bf16 cache would fit" in said
    assert "the prompt has 2000 tokens, the context holds 1024" in said
