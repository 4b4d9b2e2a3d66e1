"""The default model behind the Python API, loaded once, and what tells whether it is at rest."""

import time
from collections.abc import Callable, Iterator

import pytest

from sampan import LLM
from sampan.core.types import ModelFiles


@pytest.fixture(scope="session")
def llm(default_model: ModelFiles) -> Iterator[LLM]:
    with LLM(default_model, context=512, cache_tokens=4096, max_sequences=16) as llm:
        yield llm


@pytest.fixture
def at_rest(llm: LLM) -> Iterator[Callable[[], None]]:
    """Waits until no request is left; every test must end like this, with all pages given back."""

    def wait() -> None:
        end = time.monotonic() + 30
        while not (llm.engine.idle and llm.engine.pool.free == llm.engine.pool.count):
            assert time.monotonic() < end, "requests are left"
            time.sleep(0.01)

    yield wait
    wait()
