"""The prompt in which Qwen3-Reranker judges a document (arXiv:2506.05176, and the model's card): the answer
is one token, yes or no."""

from sampan.core.errors import UnsupportedModel
from sampan.text.tokenizer import Tokenizer

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Judging:
    """Token ids of the prompts. `yes`, `no`: of the answers. `before` and `behind`: what stands around what
    `body` gives, whose own special tokens are plain text.

    Raises `UnsupportedModel` where the vocabulary has no such answers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.before = tokenizer.encode(_BEFORE, add_bos=False)
        self.behind = tokenizer.encode(_BEHIND, add_bos=False)
        yes, no = (tokenizer.encode(word, add_bos=False) for word in ("yes", "no"))
        if len(yes) != 1 or len(no) != 1:
            raise UnsupportedModel("this vocabulary has no tokens yes and no: the model cannot rerank")
        self.yes, self.no = yes[0], no[0]

    @staticmethod
    def body(query: str, document: str, instruction: str | None) -> str:
        """What is judged."""
        return f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"

    def prompt(self, query: str, document: str, instruction: str | None) -> list[int]:
        """Up to where the answer stands."""
        body = self._tokenizer.encode(self.body(query, document, instruction), add_bos=False, special=False)
        return [*self.before, *body, *self.behind]
