"""Rollouts on a Ray cluster of two nodes: the bits of a run on one machine, whoever is killed meanwhile."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file

from sampan.cli.main import main
from sampan.core.errors import UsageError
from sampan.core.types import Completion, ModelFiles
from sampan.envs.gym import GymTask
from sampan.envs.task import Problem
from sampan.llm.model import LLM
from sampan.train.engines import OwnEngine
from sampan.train.grpo import Grpo
from sampan.train.lora import TrainedAdapter
from sampan.train.recipe import Measure, Recipe
from sampan.train.run import run

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sampan[scale]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, in its threads


def _port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def _node() -> dict[str, Any]:
    """One CPU. With ports of their own a node does not wait for its agents, which start slowly on a busy
    machine."""
    agents = ("runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_agent_port")
    ports = {name: _port() for name in (*agents, "metrics_export_port")}
    return {"num_cpus": 1, "include_log_monitor": False, **ports}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its head is a node too. `second`: the other one."""
    from ray.cluster_utils import Cluster

    patience = {"RAY_agent_register_timeout_ms": "300000", "RAY_worker_register_timeout_seconds": "300"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**patience, "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        made = _started(
            lambda: Cluster(True, head_node_args={"include_dashboard": False, "no_monitor": True, **_node()})
        )
        made.second = _started(lambda: made.add_node(**_node()))
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


def _started(start: Callable[[], Any]) -> Any:
    """Ray gives a node's agents 15 s, which a machine with much else to do may not have."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def _long(_problem: Problem, answer: Completion) -> float:
    return answer.completion_tokens + answer.text.count("e")


def _recipe() -> Recipe:
    task = GymTask("chain_sum", min_terms=3, max_terms=3)
    rewards = {"long": (1.0, _long)}
    grpo = Grpo(task=task, rewards=rewards, steps=4, problems=4, samples=2, max_tokens=16, rate=1e-3)
    return Recipe(stages=(grpo,), tests={"long": Measure(task, _long, 4, 12)})


def test_a_run_that_loses_workers_and_a_node_has_the_bits_of_one_here(cluster: Any, tmp_path: Path) -> None:
    from sampan.scale.cluster import rollouts

    here, there = tmp_path / "here", tmp_path / "there"
    run(_recipe(), "", here, resume=False, threads=1, tell=lambda _row: None)
    said: list[str] = []
    engines: list[Any] = []

    def elsewhere(llm: LLM, own: OwnEngine) -> Any:
        return _Noted(rollouts(llm, own, address="ray", workers=2, say=said.append), engines)

    killers: list[threading.Thread] = []

    def tell(row: Mapping[str, Any]) -> None:
        """Somebody is killed in the middle of the next step."""
        for killer in killers:
            killer.join()
        if row.get("number") == 0:
            killers.append(_soon(engines[0], lambda name: os.kill(_pid(name), signal.SIGKILL)))
        if row.get("number") == 1:
            _until(lambda: engines[0].ready == 2)  # another is there in the place of the one that was killed
            killers.append(_soon(engines[0], lambda _: _power_off(cluster, engines[0])))
        if row.get("number") == 2:
            killers.append(_soon(engines[0], lambda name: os.kill(_pid(name), signal.SIGKILL)))

    run(_recipe(), "", there, resume=False, threads=1, tell=tell, elsewhere=elsewhere)
    one, other = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (here, there))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert any(one[name].any() for name in one if "lora_B" in name)
    rows = [json.loads(line) for line in (there / "log.jsonl").read_text().splitlines()]
    assert [row["gap"] for row in rows if "gap" in row] == [0.0] * 4
    assert sum(engines[0].answered.values()) == 4 * 4 + 2 * 4
    assert sum("is lost" in line for line in said) >= 3
    assert len(engines[0].answered) >= 3, "both workers, and this process"
    assert engines[0].answered["here"] > 0


def test_a_worker_that_would_give_other_bits_is_refused(
    cluster: Any, default_model: ModelFiles, tmp_path: Path
) -> None:
    from sampan.scale.cluster import rollouts

    assert cluster.address
    path = tmp_path / default_model.path.name
    path.write_bytes(default_model.path.read_bytes())
    with LLM(path, context=128, cache_tokens=1024, adapters=1, adapter_rank=4, threads=1) as llm:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\x11" * 4096)
        own = OwnEngine(llm, TrainedAdapter.name)
        with (
            pytest.raises(UsageError, match=r"on .* would give other bits: its probabilities differ"),
            rollouts(llm, own, address="ray", workers=1, say=print),
        ):
            pass
        with (
            pytest.raises(UsageError, match=r"--rollout-workers is 9, and the cluster's . nodes have"),
            rollouts(llm, own, address="ray", workers=9, say=print),
        ):
            pass


def test_wrong_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def recipe():\n    raise ValueError('not read')\n")
    assert main(["train", "grpo", str(recipe), "--rollout-workers", "2"]) == 2
    assert "--rollout-workers goes with --rollouts" in capsys.readouterr().err
    from sampan.scale.cluster import connect

    with pytest.raises(UsageError, match="--rollouts is 'spark': give ray, or ray://HOST:PORT"):
        connect("spark")


class _Noted:
    """A context manager that also gives what it enters to a list."""

    def __init__(self, inner: Any, found: list[Any]) -> None:
        self._inner, self._found = inner, found

    def __enter__(self) -> Any:
        self._found.append(self._inner.__enter__())
        return self._found[-1]

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)


def _soon(engines: Any, act: Callable[[str], object]) -> threading.Thread:
    """Do something to a worker as soon as one has something to answer."""

    def wait() -> None:
        _until(lambda: any(engines.asked.values()))
        act(next(name for name, asked in engines.asked.items() if asked))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _power_off(cluster: Any, engines: Any) -> None:
    """Every process of the second node, at once."""
    (raylet,) = cluster.second.all_processes["raylet"]
    for name in engines.asked:
        if psutil.Process(_pid(name)).ppid() == raylet.process.pid:
            os.kill(_pid(name), signal.SIGKILL)
    cluster.remove_node(cluster.second, allow_graceful=False)


def _pid(name: str) -> int:
    return int(name.split("pid ")[1].rstrip(")"))


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
