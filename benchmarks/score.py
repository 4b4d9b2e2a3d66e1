"""Scoring beside generating: `python benchmarks/score.py [MODEL]`.

Prints three ratios. `shared`: seconds to score 16 texts of 512 common and 8 own tokens over those of
`generate(max_tokens=1)` on as many, all tokens (`from 0`) and their own alone (`from 512`). `apart`: tokens a
second of scoring 64 texts without anything in common, over those of reading them as prompts; the head
computes logits for every token of a score, and for one of a prompt. `beside`: the longest wait of a stream
while a long text is scored, in steps of an ordinary prompt's chunk."""

import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from sampan import LLM, SamplingParams

ROUNDS = 3
APART = 128  # tokens of each of 64 texts without anything in common
ONE = SamplingParams(max_tokens=1, temperature=0)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


class Texts:
    """Random token ids; no two texts begin alike."""

    def __init__(self, vocabulary: int) -> None:
        self._draw = random.Random(1)
        self._vocabulary = vocabulary

    def ids(self, count: int) -> list[int]:
        return [self._draw.randrange(10, self._vocabulary) for _ in range(count)]

    def sharing(self) -> list[list[int]]:
        common = self.ids(512)
        return [common + self.ids(8) for _ in range(16)]


def waits(llm: LLM, texts: Texts) -> tuple[float, float]:
    """Seconds of a chunk of a prompt, and the longest time between a stream's tokens beside a score."""
    chunk = min(seconds(lambda: llm.generate(texts.ids(512), ONE)) for _ in range(ROUNDS))
    endless = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True)
    longest = 0.0
    with llm.stream(texts.ids(5), endless) as stream:
        next(stream)
        score = threading.Thread(target=llm.score, args=(texts.ids(4000),))
        score.start()
        last = time.perf_counter()
        for _ in stream:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            if not score.is_alive():
                break
        score.join()
    return chunk, longest


def main() -> None:
    options = {"context": 4200, "max_sequences": 64, "cache_tokens": 80_000}
    with LLM(*sys.argv[1:2], **options) as llm:  # type: ignore[arg-type]
        texts = Texts(llm.config.vocab)
        llm.generate(texts.ids(600), ONE)
        for _ in range(ROUNDS):
            one, whole, own = texts.sharing(), texts.sharing(), texts.sharing()
            generated = seconds(partial(llm.generate, one, ONE))
            from_0 = seconds(partial(llm.score, whole)) / generated
            from_512 = seconds(partial(llm.score, own, start=512)) / generated
            print(f"shared: from 0 {from_0:.2f}, from 512 {from_512:.2f} (generate {generated:.3f} s)")
        for _ in range(ROUNDS):
            prompts, scored = ([texts.ids(APART) for _ in range(64)] for _ in range(2))
            read = seconds(partial(llm.generate, prompts, ONE))
            score = seconds(partial(llm.score, scored))
            print(
                f"apart: {read / score:.2f} "
                f"({64 * APART / read:.0f} and {64 * APART / score:.0f} tokens a second)"
            )
        chunk, longest = waits(llm, texts)
        print(f"beside: {longest / chunk:.2f} chunks ({longest:.3f} s, a chunk takes {chunk:.3f} s)")


if __name__ == "__main__":
    main()
