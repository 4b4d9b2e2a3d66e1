"""What ends an answer besides the model itself."""

from typing import Any

import openai
import pytest

FILE_SEP, COMMA = 6, 28  # of the default model's vocabulary
TALK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(params=["completions", "chat"])
def ask(request: pytest.FixtureRequest, service: Any) -> Any:
    """Text and reason of an answer that begins with a token."""

    def asked(token: int, **fields: Any) -> tuple[str, str]:
        common = {"model": service.model, "max_tokens": 4, "temperature": 0, "logit_bias": {str(token): 100}}
        if request.param == "chat":
            done = service.openai.chat.completions.create(**common, messages=TALK, **fields).choices[0]
            return done.message.content, done.finish_reason
        done = service.openai.completions.create(**common, prompt="a", **fields).choices[0]
        return done.text, done.finish_reason

    return asked


def test_a_control_token_is_a_stop_text(ask: Any, model_text: Any) -> None:
    name = model_text.tokenizer.token_text(FILE_SEP)
    assert FILE_SEP in model_text.tokenizer.special_ids
    assert ask(FILE_SEP) == ("", "length")
    assert ask(FILE_SEP, stop=["zz", name]) == ("", "stop")


def test_stop_token_ids_end_answers(ask: Any, model_text: Any) -> None:
    assert ask(FILE_SEP, extra_body={"stop_token_ids": [COMMA, FILE_SEP]}) == ("", "stop")
    text = model_text.tokenizer.decode([COMMA])
    assert ask(COMMA) == (4 * text, "length")
    assert ask(COMMA, extra_body={"stop_token_ids": [COMMA]}) == (text, "stop")
    assert ask(COMMA, extra_body={"stop_token_ids": None})[1] == "length"
    for wrong in ([model_text.vocabulary], [-1], ["a"], 5):
        with pytest.raises(openai.BadRequestError, match="stop_token_ids"):
            ask(COMMA, extra_body={"stop_token_ids": wrong})
