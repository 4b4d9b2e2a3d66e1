"""Joules from Linux's powercap files, and the split of the machine's time among requests."""

from pathlib import Path

import pytest

from sampan.server.watch.energy import EVERY_S, Meter, Rapl

TURN = 262_143_328_850  # of a common package, microjoules


class Machine:
    """A powercap folder as Linux lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def zone(self, folder: str, name: str, microjoules: int, turn: int = TURN) -> None:
        """Make a zone, or set its counter."""
        path = self.root / folder
        path.mkdir(exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{turn}\n")
        (path / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "powercap")


def found(machine: Machine) -> Rapl:
    rapl = Rapl.find(machine.root)
    assert rapl is not None
    return rapl


def test_two_packages_and_their_memory_add_up_and_nothing_counts_twice(machine: Machine) -> None:
    # Two sockets: cores and psys are parts and sums of what the packages count; mmio is another view of one.
    names = ["package-0", "core", "dram", "package-1", "psys"]
    folders = ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:2"]
    for folder, name in zip(folders, names, strict=True):
        machine.zone(folder, name, 1000)
    machine.zone("intel-rapl-mmio:0", "package-0", 1000)
    (machine.root / "intel-rapl").mkdir()  # the control type itself, which has no counter

    rapl = found(machine)
    assert rapl.joules == 0
    for folder, name in zip(folders, names, strict=True):
        machine.zone(folder, name, 1000 + 2_000_000)
    machine.zone("intel-rapl-mmio:0", "package-0", 9_000_000)
    assert rapl.joules == 6.0


def test_an_amd_package(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 5, 65_532_610_987)
    machine.zone("intel-rapl:0:0", "core", 5, 65_532_610_987)
    rapl = found(machine)
    machine.zone("intel-rapl:0", "package-0", 1_500_005, 65_532_610_987)
    assert rapl.joules == 1.5


def test_a_counter_that_starts_again(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", TURN - 999_999)
    rapl = found(machine)
    machine.zone("intel-rapl:0", "package-0", 1_000_000)
    assert rapl.joules == 2.0
    machine.zone("intel-rapl:0", "package-0", 1_500_000)
    assert rapl.joules == 2.5


def test_a_machine_that_reports_nothing(tmp_path: Path, machine: Machine) -> None:
    assert Rapl.find(tmp_path / "none") is None
    assert Rapl.find(machine.root) is None
    machine.zone("intel-rapl:0", "package-0", 0)
    (machine.root / "intel-rapl:0" / "energy_uj").unlink()
    (machine.root / "intel-rapl:0" / "energy_uj").mkdir()  # for root, whom no permission stops
    assert Rapl.find(machine.root) is None


def test_a_counter_that_cannot_be_read_for_a_while(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    rapl = found(machine)
    counter = machine.root / "intel-rapl:0" / "energy_uj"
    counter.write_text("")
    assert rapl.joules == 0
    counter.write_text("3000000\n")
    assert rapl.joules == 3.0


def test_this_machine() -> None:
    rapl = Rapl.find()
    if rapl is not None:
        before = rapl.joules
        assert rapl.joules >= before >= 0


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_share_the_time_in_which_they_run() -> None:
    clock = Clock()
    meter = Meter(None, clock)
    clock.now += 5  # idle
    first = meter.enter()
    clock.now += 2  # alone
    second = meter.enter()
    clock.now += 4  # both
    assert meter.leave(first) == pytest.approx(2 + 2)
    clock.now += 1  # the second alone
    assert meter.leave(second) == pytest.approx(2 + 1)
    clock.now += 9
    meter.look(clock.now)
    assert meter.busy_s == pytest.approx(7)
    assert meter.joules is None
    assert meter.joules_in(7) is None


def test_energy_counts_while_requests_run(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    clock = Clock()
    meter = Meter(found(machine), clock)
    assert meter.joules_in(1) is None  # nothing has been measured yet
    machine.zone("intel-rapl:0", "package-0", 50_000_000)  # idle
    mark = meter.enter()
    clock.now += 4
    machine.zone("intel-rapl:0", "package-0", 90_000_000)
    assert meter.leave(mark) == pytest.approx(4)
    machine.zone("intel-rapl:0", "package-0", 190_000_000)
    meter.look(clock.now)
    assert meter.joules == pytest.approx(40)
    assert meter.joules_in(2) == pytest.approx(20)


def test_a_long_answer_is_looked_at_before_the_counter_turns(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", TURN - 10_000_000)
    clock = Clock()
    meter = Meter(found(machine), clock)
    meter.enter()
    for microjoules in (TURN, TURN - 5_000_000):  # more than a turn in all
        clock.now += EVERY_S + 1
        machine.zone("intel-rapl:0", "package-0", microjoules)
        meter.look_if_due(clock.now)
    assert meter.joules == pytest.approx(10 + (TURN + 1 - 5_000_000) / 1e6)
