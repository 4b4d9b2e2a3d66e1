"""What is measured, with whom, against which target, and how fast the machine could be at best.

Each scenario is one request to a worker (`worker_*.py`), which answers with a value. `Work` is what the file
says a token costs, so a limit is the same for every engine, whatever it made of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Request = Mapping[str, Any]
Bound = Literal["memory", "arithmetic"]

SAMPAN, LLAMA_CPP, OPENVINO, VLLM = "Sampan", "llama.cpp", "OpenVINO GenAI", "vLLM"
PLAIN = "Sampan without drafts"
PEERS = (LLAMA_CPP, OPENVINO, VLLM)
CACHE_TOKENS = 16384  # of the long-lived workers
FRESH_TOKENS = 768  # of the processes that are measured whole


@dataclass(frozen=True)
class Series:
    """Who is asked: a worker, and fields that only its request has. `rounds`: only in the first of them."""

    engine: str
    fields: Request = field(default_factory=dict)
    rounds: int | None = None


@dataclass(frozen=True)
class Target:
    """At least `number` times a series' figure, or a bound on the figure itself.

    `against`: a series; "peak" for a part of the machine's peak; "file" for at most `number` times the file
    plus the cache.
    """

    against: str
    number: float


@dataclass(frozen=True)
class Scenario:
    """`unit`: "t/s", "s", "bytes" or "part". `times`: how often in a round. `fresh`: in a new process."""

    label: str
    unit: str
    request: Request
    series: Mapping[str, Series]
    targets: tuple[Target, ...] = ()
    times: int = 1
    fresh: bool = False
    models: tuple[str, ...] = ("q4_1", "bf16")

    @property
    def less_is_better(self) -> bool:
        """Seconds and bytes are better when there are fewer."""
        return self.unit in ("s", "bytes")

    def ratio(self, ours: float, other: float) -> float:
        """How many times better ours is."""
        return other / ours if self.less_is_better else ours / other


def _all(**rounds: int) -> dict[str, Series]:
    """Every engine; keywords limit the rounds of slow ones, by the name of their worker."""
    workers = {SAMPAN: "sampan", LLAMA_CPP: "llama_cpp", OPENVINO: "openvino", VLLM: "vllm"}
    return {name: Series(worker, rounds=rounds.get(worker)) for name, worker in workers.items()}


def _edit(text: str) -> dict[str, Any]:
    return {
        "request": {"request": "edit", "text": text},
        "series": {SAMPAN: Series("sampan", {"drafts": True}), PLAIN: Series("sampan", {"drafts": False})},
        "unit": "t/s",
        "models": ("q4_1",),
        "times": 2,
    }


def _decode(sequences: int, prompt: int, new: int) -> Request:
    return {"request": "decode", "sequences": sequences, "prompt": prompt, "new": new}


SCENARIOS: dict[str, Scenario] = {
    "decode": Scenario(
        "decode, 1 sequence", "t/s", _decode(1, 128, 128), _all(), (Target(LLAMA_CPP, 2.0),), times=2
    ),
    "prefill": Scenario(
        "prefill, 512 tokens", "t/s", {"request": "prefill", "prompt": 512}, _all(),
        (Target(OPENVINO, 1.3), Target(LLAMA_CPP, 6.0)), times=2,
    ),
    "decode32": Scenario(
        "decode, 32 sequences", "t/s", _decode(32, 128, 64), _all(), (Target(OPENVINO, 2.0),)
    ),
    "decode64": Scenario(
        "decode, 64 sequences", "t/s", _decode(64, 128, 64), _all(), (Target(OPENVINO, 2.0),)
    ),
    "context": Scenario(
        "decode, 1 sequence after 4,096 tokens", "t/s", _decode(1, 4096, 64), _all(),
        (Target(LLAMA_CPP, 1.5),),
    ),
    "prefix": Scenario(
        "64 requests sharing 1,024 tokens", "s",
        {"request": "prefix", "sequences": 64, "prefix": 1024, "tail": 32, "new": 32},
        _all(llama_cpp=1), (Target(OPENVINO, 3.0),),
    ),
    "edit": Scenario("edit of a notice, drafts by lookup", targets=(Target(PLAIN, 1.8),), **_edit("notice")),
    "edit_code": Scenario("edit of code, drafts by lookup", **_edit("code")),
    "kernel": Scenario(
        "matrix product alone, part of the peak", "part", {"request": "kernel"}, {SAMPAN: Series("sampan")},
        (Target("peak", 0.7),), times=3, models=("q4_1",),
    ),
    "memory": Scenario(
        "peak memory, 512 + 128 tokens", "bytes", {"request": "memory", "prompt": 512, "new": 128},
        _all(openvino=2, vllm=1), (Target("file", 1.3),), fresh=True,
    ),
    "first_token": Scenario(
        "start to first token, 32 tokens", "s", {"request": "first_token", "prompt": 32},
        _all(openvino=2, vllm=1), fresh=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Of a token, by the file: bytes of weights, multiply-adds, bytes of a bf16 cache; the file's size."""

    weight_bytes: int
    layer_macs: int
    head_macs: int
    cache_bytes: int
    file_bytes: int


def limit(request: Request, work: Work, read: float, peak: float) -> tuple[float, Bound] | None:
    """The value at the machine's limits (bytes and operations a second), and which limit it is.

    Attention's arithmetic is left out. None for what is not bound by the machine.
    """
    kind, n = request["request"], request.get("sequences", 1)

    def seconds(context: float, macs: float) -> tuple[float, Bound]:
        memory = (work.weight_bytes + context * work.cache_bytes) / read
        arithmetic = 2 * macs / peak
        return (memory, "memory") if memory > arithmetic else (arithmetic, "arithmetic")

    def step(shared: int, own: float) -> tuple[float, Bound]:
        return seconds(shared + n * own, n * (work.layer_macs + work.head_macs))

    if kind == "prefill":
        time, bound = seconds(0, request["prompt"] * work.layer_macs)
        return request["prompt"] / time, bound
    if kind == "decode":
        time, bound = step(0, request["prompt"] + request["new"] / 2)
        return n / time, bound
    if kind == "prefix":
        filling, bound = seconds(0, (request["prefix"] + n * request["tail"]) * work.layer_macs)
        each, _ = step(request["prefix"], request["tail"] + request["new"] / 2)
        return filling + (request["new"] - 1) * each, bound
    return None
