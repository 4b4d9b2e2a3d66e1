"""Answers on their way from the driver: streamed or collected, for threads and for asyncio's tasks.

Each waits for its own ticket only. However waiting ends (an interrupt, a cancelled task, a dropped
iterator), the ticket is withdrawn, and its requests are gone by the next step.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Self

from sampan.core.types import Completion, Delta
from sampan.engine.constraint import Constraint
from sampan.llm.answer import Answer, Prompt
from sampan.llm.driver import Driver, Generation, Gone, News, Request
from sampan.llm.thinking import limited
from sampan.text.grammar.compiler import GrammarCompiler


class Answers:
    """The answers of one ticket, fed with its news once it has been started.

    `slow`: starting takes a while, for there is a grammar to compile.
    """

    def __init__(
        self,
        driver: Driver,
        grammars: GrammarCompiler,
        prompts: Sequence[Prompt],
        deliver: Callable[[News], None],
    ) -> None:
        self._driver = driver
        self._grammars = grammars
        self._prompts = prompts
        self._answers = [Answer(grammars.tokenizer, prompt) for prompt in prompts]
        self._open = len(prompts)
        self.require_here = driver.require_here
        self.slow = any(prompt.grammar for prompt in prompts)
        self.ticket = Generation([], deliver)

    def start(self) -> None:
        """Compile the grammars and hand the ticket in; RequestError for a grammar that is refused."""
        self.ticket.requests = [
            Request(p.ids, p.sampling, self._constraint(p), p.adapter) for p in self._prompts
        ]
        self._driver.submit(self.ticket)

    async def astart(self) -> None:
        """The same without blocking the event loop."""
        import asyncio

        if self.slow:
            await asyncio.to_thread(self.start)
        else:
            self.start()

    def _constraint(self, prompt: Prompt) -> Constraint | None:
        grammar = None
        if prompt.grammar is not None:
            grammar = self._grammars.compile(prompt.grammar, thinking=prompt.thinking)
            grammar.continues = prompt.continues
        return limited(
            self._grammars.tokenizer,
            prompt.sampling,
            grammar,
            thinking=prompt.thinking,
            closing=prompt.closing,
        )

    @property
    def finished(self) -> bool:
        """Every answer is whole."""
        return self._open == 0

    def take(self, news: News) -> list[Delta]:
        """What this step added, or the error that ended the ticket."""
        if isinstance(news, Exception):
            raise news
        deltas = []
        for place, event in news:
            answer = self._answers[place]
            if answer.finished:
                continue  # steps that ran before a stop text was known
            deltas.append(answer.take(event))
            if answer.finished:
                self._open -= 1
                if event.finish_reason is None:
                    self._driver.abort(self.ticket, place)
        return deltas

    def completions(self) -> list[Completion]:
        """The answers as far as they got."""
        return [answer.completion() for answer in self._answers]

    def close(self) -> None:
        """Nothing more is wanted."""
        if not self.finished:
            self._driver.withdraw(self.ticket)


def collect(driver: Driver, grammars: GrammarCompiler, prompts: Sequence[Prompt]) -> list[Completion]:
    """Whole answers, made side by side."""
    if not prompts:
        return []
    box: SimpleQueue[News] = SimpleQueue()
    answers = Answers(driver, grammars, prompts, box.put)
    try:
        answers.start()
        while not answers.finished:
            answers.take(box.get())
    finally:
        answers.close()
    return answers.completions()


async def acollect(driver: Driver, grammars: GrammarCompiler, prompts: Sequence[Prompt]) -> list[Completion]:
    """The same without blocking the event loop."""
    if not prompts:
        return []
    box = AsyncBox()
    answers = Answers(driver, grammars, prompts, box.put)
    try:
        await answers.astart()
        while not answers.finished:
            answers.take(await box.get())
    finally:
        answers.close()
    return answers.completions()


class Stream(Iterator[Delta]):
    """One answer as it is made: an iterator of `Delta`, one a token. Closing or dropping it stops the answer.

    `prompt_tokens`: how long the prompt is. `completion`: the answer as far as it got.
    """

    def __init__(self, driver: Driver, grammars: GrammarCompiler, prompt: Prompt) -> None:
        self.prompt_tokens = len(prompt.ids)
        self._box: SimpleQueue[News] = SimpleQueue()
        self._ready: deque[Delta] = deque()
        self._answers = Answers(driver, grammars, [prompt], self._box.put)
        self._answers.start()

    @property
    def completion(self) -> Completion:
        """The answer as far as it was read from the engine."""
        return self._answers.completions()[0]

    def __next__(self) -> Delta:
        try:
            while not self._ready:
                if self._answers.finished or self._answers.ticket.closed:
                    raise StopIteration
                self._answers.require_here()
                self._ready.extend(self._answers.take(self._box.get()))
        except BaseException:
            self.close()
            raise
        return self._ready.popleft()

    def close(self) -> None:
        """Stop the answer."""
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_answers"):
            self.close()


class AsyncStream:
    """`Stream` for `async for`; made inside the event loop that reads it.

    A grammar is compiled when the first delta is asked for.
    """

    def __init__(self, driver: Driver, grammars: GrammarCompiler, prompt: Prompt) -> None:
        self.prompt_tokens = len(prompt.ids)
        self._box = AsyncBox()
        self._ready: deque[Delta] = deque()
        self._answers = Answers(driver, grammars, [prompt], self._box.put)
        self._waits = self._answers.slow
        if not self._waits:
            self._answers.start()

    @property
    def completion(self) -> Completion:
        """The answer as far as it was read from the engine."""
        return self._answers.completions()[0]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        try:
            if self._waits:
                self._waits = False
                await self._answers.astart()
            while not self._ready:
                if self._answers.finished or self._answers.ticket.closed:
                    raise StopAsyncIteration
                self._answers.require_here()
                self._ready.extend(self._answers.take(await self._box.get()))
        except BaseException:
            self._answers.close()
            raise
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop the answer."""
        self._answers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._answers.close()

    def __del__(self) -> None:
        if hasattr(self, "_answers"):
            self._answers.close()


class AsyncBox:
    """A queue that another thread fills and the event loop empties."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[News] = asyncio.Queue()
        self.get = self._queue.get

    def put(self, news: News) -> None:
        """`Gone` when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, news)
        except RuntimeError:
            raise Gone from None
