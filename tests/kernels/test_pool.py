"""The pool of threads: the same bits on any number of them, nothing left running or behind."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.kernels.cpu import _native
from sampan.kernels.formats import TensorType

HIDDEN, HEADS, ROWS = 256, 8, 70


def model(small: Callable[..., Any], threads: int, random_raw: Callable[..., np.ndarray]) -> Any:
    """A layer with a head: enough instructions for threads to meet between them."""
    pool = _native.Pool(threads)
    program = small("", pool=pool, rows=ROWS, kv_heads=2, head_dim=32)
    table = program.angles(1.0 / np.arange(1, 17))

    def weights(type: TensorType, n: int, k: int, seed: int) -> Any:
        matrix = _native.Packed.of(n, k, type.number)
        matrix.fill(pool, random_raw(type, n, k, seed), type.number, 0, n)
        return matrix

    one = np.ones(HIDDEN, np.float32)
    residual = program.embed(weights(TensorType.Q8_0, ROWS, HIDDEN, 1))
    qkv, attended = program.buffer(384), program.buffer(HIDDEN)
    act = program.prepare(residual, HIDDEN, op="norm", weight=one, eps=1e-5, operand=1)
    program.linear(weights(TensorType.Q4_K, 384, HIDDEN, 2), act, qkv)
    program.append(
        qkv, 256, 320, HEADS, 0, (None, 0.0, table, 0, False, 32**-0.5), (None, 0.0, table, 0, False, 1.0)
    )
    program.add("attend", x=qkv, out=attended, heads=HEADS, layer=0)
    act = program.prepare(attended, HIDDEN, operand=1)
    program.linear(weights(TensorType.Q6_K, HIDDEN, HIDDEN, 3), act, residual, accumulate=True)
    act = program.prepare(residual, HIDDEN, op="norm", weight=one, eps=1e-5, sampled=True)
    program.head(act, np.random.default_rng(4).normal(0, 1, (1000, HIDDEN)).astype(np.float32))
    return program


def answers(program: Any, times: int) -> list[bytes]:
    return [as_bytes(*program.run((ROWS, 0, (1, 3, 0)))) for _ in range(times)]


def as_bytes(logits: np.ndarray, summary: Any) -> bytes:
    return logits.tobytes() + repr(summary).encode()


def test_any_number_of_threads_gives_the_same_bits_every_time(
    small: Callable[..., Any], random_raw: Callable[..., np.ndarray]
) -> None:
    want = answers(model(small, 1, random_raw), 1)[0]
    for threads in (1, 2, 3, 4):
        assert set(answers(model(small, threads, random_raw), 10)) == {want}


@pytest.mark.timeout(60)
def test_more_threads_than_cores_finish(
    small: Callable[..., Any], random_raw: Callable[..., np.ndarray]
) -> None:
    want = answers(model(small, 1, random_raw), 1)[0]
    assert set(answers(model(small, 16, random_raw), 3)) == {want}


@pytest.mark.timeout(60)
def test_callers_from_several_threads_take_turns(
    small: Callable[..., Any], random_raw: Callable[..., np.ndarray]
) -> None:
    program = model(small, 2, random_raw)
    want = answers(program, 1)[0]
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def call() -> None:
        for _ in range(20):
            seen.append(program.run((ROWS, 0, (1, 3, 0))))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(seen) == 60
    assert answers(program, 1)[0] == want


def test_an_idle_pool_rests(small: Callable[..., Any], random_raw: Callable[..., np.ndarray]) -> None:
    program = model(small, 4, random_raw)
    answers(program, 1)
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05
    assert answers(program, 1) == answers(model(small, 1, random_raw), 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads through /proc")
def test_a_pool_takes_its_threads_with_it() -> None:
    gc.collect()  # pools of earlier tests
    before = len(list(Path("/proc/self/task").iterdir()))
    pools = [_native.Pool(3) for _ in range(5)]
    assert len(list(Path("/proc/self/task").iterdir())) == before + 10
    del pools
    for _ in range(200):
        _native.Pool(4)
    assert len(list(Path("/proc/self/task").iterdir())) == before


REFUSED = """
import resource
from sampan.kernels.cpu import _native
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    _native.Pool(2000)
except Exception as e:
    print(type(e).__name__)
print(_native.Pool(2).threads)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_threads_that_the_system_refuses_are_an_error_and_not_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    error, threads = done.stdout.split()
    assert error.endswith("Error")
    assert threads == "2"
