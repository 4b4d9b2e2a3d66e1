"""What grammars take: compiled ones by their bytes, and the compiling itself, in a process of its own."""

import gc
import json
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar import check as grammar_check
from sampan.text.grammar import compiler as module
from sampan.text.grammar import parser as grammar_parser
from sampan.text.grammar.compiler import GrammarCompiler, GrammarConstraint, GrammarsBusy
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf

NAMES = {f"^k{n}_": {"type": "integer"} for n in range(600)}
SLOW = Grammar("json_schema", json.dumps({"type": "object", "patternProperties": NAMES}))
EVERYWHERE = [{"pattern": f".*{letter}.{{9}}"} for letter in "abcdefghijklmnopqrstuvwxyz"]
HUGE = Grammar("json_schema", json.dumps({"type": "string", "allOf": EVERYWHERE}))


@pytest.fixture(scope="module")
def tokenizer(default_model: ModelFiles) -> Tokenizer:
    return Tokenizer.from_gguf(read_gguf(default_model.path).metadata)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The grammars that were compiled here, in the order in which they were."""
    found, real = list[str](), grammar_parser.CompiledGrammar.__init__

    def counted(self, source, vocabulary, size):  # type: ignore[no-untyped-def]
        found.append(source.text)
        real(self, source, vocabulary, size)

    monkeypatch.setattr(grammar_parser.CompiledGrammar, "__init__", counted)
    return found


def number(n: int) -> Grammar:
    return Grammar("regex", f"a{{{n}}}")


def processes(*others: psutil.Process) -> set[psutil.Process]:
    """Those that check, without some."""
    found = psutil.Process().children()
    alive = {child for child in found if child.status() != psutil.STATUS_ZOMBIE}
    return {child for child in alive if any("grammar.check" in part for part in child.cmdline())} - {*others}


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_as_many_are_kept_as_there_is_room_for(tokenizer: Tokenizer, made: list[str]) -> None:
    compiler = GrammarCompiler(tokenizer, kept=1 << 20)
    for n in range(1, 21):
        compiler.compile(number(n))
    kept = [n for n in range(1, 21) if compiler.known(number(n))]
    assert kept == list(range(21 - len(kept), 21))
    assert 2 <= len(kept) <= 6
    compiler.compile(number(20))
    assert len(made) == 20
    compiler.compile(number(1))
    assert len(made) == 21
    assert compiler.known(number(1))
    assert not compiler.known(number(1), thinking=True)


def test_a_large_one_takes_the_place_of_many(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, kept=8 << 20)
    small = [number(n) for n in range(1, 9)]
    for grammar in small:
        compiler.compile(grammar)
    assert all(map(compiler.known, small))
    texts = json.dumps([{"name": f"value {n}", "number": n} for n in range(3000)])
    large = Grammar("json_schema", f'{{"enum": {texts}}}')
    compiler.compile(large)
    assert compiler.known(large)
    assert not any(map(compiler.known, small))


def test_what_somebody_holds_is_not_compiled_again(tokenizer: Tokenizer, made: list[str]) -> None:
    compiler = GrammarCompiler(tokenizer, kept=0)
    held = compiler.compile(number(1)).copy()
    for n in range(2, 6):
        compiler.compile(number(n))
    assert compiler.known(number(1))
    assert compiler.compile(number(1)).allowed() == held.allowed()
    assert len(made) == 5
    del held
    compiler.compile(number(9))
    assert not compiler.known(number(1))


def test_no_more_is_compiled_than_can_be_held(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, used=1 << 20)
    held: list[GrammarConstraint] = []

    def hold_more() -> None:
        held.extend(compiler.compile(number(n)) for n in range(1, 20))

    with pytest.raises(GrammarsBusy, match=r"the grammars in use take \d\.\d MB: try again later"):
        hold_more()
    assert 2 < len(held) < 9
    assert compiler.compile(number(1)).allowed()
    held.clear()
    assert compiler.compile(number(30)).allowed()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no process's memory")
def test_what_takes_too_much_memory_ends_another_process(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer)
    compiler.compile(number(1))
    before = psutil.Process().memory_info().rss
    with pytest.raises(RequestError, match="the JSON schema took more than 192 MiB to compile"):
        compiler.compile(HUGE)
    assert psutil.Process().memory_info().rss - before < 50 << 20
    assert compiler.compile(number(2)).allowed()


def test_what_takes_too_long_is_ended_and_leaves_nothing_behind(tokenizer: Tokenizer) -> None:
    others = processes()
    compiler = GrammarCompiler(tokenizer, seconds=0.5)
    compiler.compile(number(1))
    mine = processes(*others)
    assert len(mine) == 1
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(
        RequestError, match=r"the JSON schema took longer than 0.5 s to compile: make it simpler"
    ):
        compiler.compile(SLOW)
    assert time.monotonic() - started < 20
    wait_until(lambda: threading.active_count() <= threads)
    assert not mine & processes()
    assert compiler.compile(number(2)).allowed()


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there")
def test_a_busy_machine_refuses_nothing_that_an_idle_one_takes(tokenizer: Tokenizer) -> None:
    """The process that checks has no processor for far longer than it may use of one."""
    others = processes()
    compiler = GrammarCompiler(tokenizer, seconds=0.1)
    compiler.compile(number(1))
    (mine,) = processes(*others)
    mine.suspend()
    threading.Timer(2.0, mine.resume).start()
    started = time.monotonic()
    assert compiler.compile(number(2)).allowed()
    assert time.monotonic() - started > 1.5


def test_a_process_that_has_died_is_replaced(tokenizer: Tokenizer) -> None:
    others = processes()
    compiler = GrammarCompiler(tokenizer)
    compiler.compile(number(1))
    (mine,) = processes(*others)
    mine.kill()
    wait_until(lambda: mine not in processes())
    assert compiler.compile(number(2)).allowed()
    assert len(processes(*others)) == 1


def test_the_process_ends_with_its_compiler(tokenizer: Tokenizer) -> None:
    gc.collect()
    others = processes()
    compiler = GrammarCompiler(tokenizer)
    compiler.compile(number(1))
    assert len(processes(*others)) == 1
    del compiler
    gc.collect()
    assert not processes(*others)


def test_where_no_process_can_be_started_grammars_are_compiled_here(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check.sys, "executable", "/nowhere/python")
    assert GrammarCompiler(tokenizer).compile(number(3)).allowed()


def test_only_so_many_are_compiled_at_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs beyond its time keeps its place until it has ended."""
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    monkeypatch.setattr(module, "_START_S", 0.1)
    compiler = GrammarCompiler(tokenizer, seconds=0.001)
    go_on = threading.Event()
    monkeypatch.setattr(compiler, "_compiled", lambda _: go_on.wait(30))
    for n in (1, 2):
        with pytest.raises(RequestError, match="the regular expression took too long to compile"):
            compiler.compile(number(n))
    with pytest.raises(GrammarsBusy, match="2 other grammars are being compiled: try again later"):
        compiler.compile(number(3))
    monkeypatch.undo()
    go_on.set()
    assert compiler.compile(number(4)).allowed()


def test_requests_for_the_same_grammar_compile_it_once(tokenizer: Tokenizer, made: list[str]) -> None:
    compiler = GrammarCompiler(tokenizer)
    compiler.compile(number(1))
    threads = [threading.Thread(target=compiler.compile, args=(number(7),)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) <= 3
    assert compiler.known(number(7))
