"""A small HTTP front for OpenVINO GenAI: `serving_openvino.py MODEL.gguf THREADS SEQUENCES TOKENS PORT`.

OpenVINO's own model server comes as no Python package, so this stands in for it: the continuous batching
pipeline that it runs too, in a process of its own (a step holds Python's lock), behind `/health`,
`/v1/models` and a streaming `/v1/chat/completions` on uvicorn. It does less than a server must (no limits,
no keys, no disconnects, no text of characters that are split over tokens), and every choice is in its favour.
`TOKENS`: of a sequence at most. Needs openvino-genai, uvicorn, httptools and uvloop.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import uvicorn
import uvloop

NAME = "openvino"
Question = tuple[int, dict[str, Any]]  # the front's name for a request, its body
News = tuple[int, str, int, int, bool]  # name, new text, how many tokens, tokens of the prompt, the last


class Engine:
    """The pipeline: new requests go in between two steps, and a step's tokens come out at once."""

    def __init__(self, path: str, threads: int, sequences: int, tokens: int) -> None:
        import openvino_genai as genai

        from worker_openvino import BATCH, BLOCK

        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = sequences * -(-tokens // BLOCK)
        scheduler.max_num_batched_tokens = BATCH
        scheduler.max_num_seqs = sequences
        scheduler.dynamic_split_fuse = True
        options = {"INFERENCE_NUM_THREADS": threads}
        self.genai = genai
        self.pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", options)
        self.tokenizer = self.pipeline.get_tokenizer()
        self.live: dict[int, tuple[Any, int]] = {}
        self.texts: dict[int, str] = {}

    def run(self, front: Connection) -> None:
        """Step as long as there is something to do, until the front ends."""
        while True:
            while not self.live or front.poll():
                self.add(*front.recv())
            self.pipeline.step()
            if news := [news for name in list(self.live) if (news := self.news(name)) is not None]:
                front.send(news)

    def add(self, name: int, body: dict[str, Any]) -> None:
        """Take a request."""
        import numpy as np
        import openvino as ov

        config = self.genai.GenerationConfig(
            max_new_tokens=body["max_tokens"], ignore_eos=body.get("ignore_eos", False), do_sample=False
        )
        text = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
        ids = np.array(self.tokenizer.encode(text, add_special_tokens=False).input_ids.data, dtype=np.int64)
        self.live[name] = self.pipeline.add_request(name, ov.Tensor(ids), config), ids.size

    def news(self, name: int) -> News | None:
        """A request's new tokens, and whether they are the last."""
        handle, prompted = self.live[name]
        ids: list[int] = []
        while handle.can_read():
            ids += [id for output in handle.read().values() for id in output.generated_ids]
        ended = handle.get_status() != self.genai.GenerationStatus.RUNNING
        if ended:
            del self.live[name]
        return (name, "".join(map(self.text, ids)), len(ids), prompted, ended) if ids or ended else None

    def text(self, id: int) -> str:
        """A token's text; each is looked up once."""
        if id not in self.texts:
            self.texts[id] = self.tokenizer.decode([id])
        return self.texts[id]


def run_engine(front: Connection, path: str, sizes: list[int]) -> None:
    """The engine's process."""
    engine = Engine(path, *sizes)
    front.send(None)
    engine.run(front)


class App:
    """The ASGI application."""

    def __init__(self, engine: Connection) -> None:
        self.engine = engine
        self.queues: dict[int, asyncio.Queue[News]] = {}
        self.count = 0

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bring the engine's news to who waits, on a thread of its own; end the process with the engine."""
        try:
            while True:
                loop.call_soon_threadsafe(self.deliver, self.engine.recv())
        except EOFError:
            os._exit(1)

    def deliver(self, news: list[News]) -> None:
        """From the event loop's thread."""
        for each in news:
            self.queues[each[0]].put_nowait(each)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        if scope["path"] == "/v1/chat/completions":
            await self.chat(json.loads(body), send)
            return
        found = {"/health": {"status": "ok"}, "/v1/models": {"data": [{"id": NAME}]}}.get(scope["path"])
        await _start(send, 404 if found is None else 200, b"application/json")
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})

    async def chat(self, request: dict[str, Any], send: Any) -> None:
        """Answer with a stream of events."""
        self.count += 1
        name = self.count
        queue = self.queues[name] = asyncio.Queue()
        self.engine.send((name, request))
        await _start(send, 200, b"text/event-stream")
        given, prompted, ended = 0, 0, False
        while not ended:
            _, text, tokens, prompted, ended = await queue.get()
            given += tokens
            await _event(send, choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])
        del self.queues[name]
        await _event(send, choices=[{"index": 0, "delta": {}, "finish_reason": "length"}])
        usage = {"prompt_tokens": prompted, "completion_tokens": given, "total_tokens": prompted + given}
        await _event(send, choices=[], usage=usage)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _start(send: Any, status: int, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})


async def _event(send: Any, **fields: Any) -> None:
    body = b"data: " + json.dumps({"object": "chat.completion.chunk", "model": NAME, **fields}).encode()
    await send({"type": "http.response.body", "body": body + b"\n\n", "more_body": True})


async def _serve(engine: Connection, port: int) -> None:
    app = App(engine)
    threading.Thread(target=app.listen, args=(asyncio.get_running_loop(),), daemon=True).start()
    config = uvicorn.Config(
        app, port=port, loop="none", http="httptools", lifespan="off", log_level="warning", access_log=False
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Start both processes."""
    path, *sizes, port = sys.argv[1:]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    engine = context.Process(target=run_engine, args=(theirs, path, [int(s) for s in sizes]), daemon=True)
    engine.start()
    theirs.close()
    ours.recv()
    uvloop.run(_serve(ours, int(port)))


if __name__ == "__main__":
    main()
