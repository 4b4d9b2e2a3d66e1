"""How PyTorch's threads wait is set where the user has not done so."""

import os
import subprocess
import sys

import pytest

from sampan.core.openmp import wait_briefly

OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("own", [None, *OWN])
def test_what_the_user_set_stays(own: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "7")
    wait_briefly()
    found = {name: os.environ[name] for name in OWN if name in os.environ}
    assert found == ({own: "7"} if own else {"GOMP_SPINCOUNT": "10000"})


@pytest.mark.parametrize("name", ["sampan.train.loss", "sampan.kernels.torch.ops"])
def test_it_is_set_before_pytorch_is_there(name: str) -> None:
    look = "import builtins, os\nload = builtins.__import__\ndef one(name, *rest):\n    if name == 'torch':\n"
    look += "        assert 'GOMP_SPINCOUNT' in os.environ\n    return load(name, *rest)\n"
    env = {key: value for key, value in os.environ.items() if key not in OWN}
    done = subprocess.run(
        [sys.executable, "-c", f"{look}builtins.__import__ = one\nimport {name}"],
        env=env,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
