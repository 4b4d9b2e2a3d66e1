"""The prompt before its completion, where a client asks for it: text and log-probabilities."""

from collections.abc import Sequence
from typing import Any

from sampan.core.types import TokenScore
from sampan.server.openai.replies import prompt_rows, token_text
from sampan.server.openai.schemas import CompletionRequest
from sampan.text.tokenizer import Tokenizer


class Echo:
    """Of one answer. `prompt`: its text as it was given, or None where it was given as token ids."""

    def __init__(
        self, body: CompletionRequest, tokenizer: Tokenizer, ids: Sequence[int], prompt: str | None
    ) -> None:
        self._body, self._tokenizer, self._ids = body, tokenizer, ids
        self._prompt = prompt
        self.scores: list[TokenScore] = []

    @property
    def text(self) -> str:
        """What stands before the completion."""
        if not self._body.echo:
            return ""
        return self._tokenizer.decode(list(self._ids)) if self._prompt is None else self._prompt

    def rows(self) -> dict[str, list[Any]] | None:
        """Log-probabilities as this API has them, without offsets; None where the prompt is not among
        them."""
        if not self._body.echo or self._body.logprobs is None:
            return None
        top = [
            {
                token_text(self._tokenizer, token): logprob
                for token, logprob in score.top[: self._body.logprobs]
            }
            for score in self.scores
        ]
        return {
            "tokens": [token_text(self._tokenizer, token) for token in self._ids],
            "token_logprobs": [None, *(score.logprob for score in self.scores)],
            "top_logprobs": [None, *top],
        }

    def prompt_logprobs(self) -> dict[str, Any]:
        """The field of that name, where it is asked for."""
        if self._body.prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": prompt_rows(self._tokenizer, self.scores)}
