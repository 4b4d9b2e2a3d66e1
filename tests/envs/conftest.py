"""Sandboxes in every mode that this machine has."""

from collections.abc import Callable, Iterator

import pytest

from sampan.core.errors import EnvError
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.walls import MODES, Limits, Mode

MakeSandbox = Callable[[Limits], Sandbox]


@pytest.fixture(scope="session", params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    with Sandbox(mode=request.param) as sandbox:
        try:
            return sandbox.mode
        except EnvError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def sandbox(mode: Mode) -> Iterator[Sandbox]:
    """With time enough for a busy machine."""
    with Sandbox(Limits(seconds=60), mode=mode) as made:
        yield made
