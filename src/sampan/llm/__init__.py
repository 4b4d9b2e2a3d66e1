"""A model ready to use: catalogue, weights, tokenizer, template and engine put together."""

from sampan.llm.model import LLM

__all__ = ["LLM"]
