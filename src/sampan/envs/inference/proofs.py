"""Why a syllogism follows or does not: a contradiction, or a world where the premises are true and the
conclusion is not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sampan.envs.inference.logic import Argument, Form, Statement, Verdict, model, verdict
from sampan.envs.inference.words import Noun, say

_Thing = Mapping[int, bool]  # by kind: whether it is of it


@dataclass(frozen=True)
class Syllogism:
    """What a question is made of. `nouns`: of the kinds; `order`: of the premises; `empty`: whether a kind
    may have no members, None where that makes no difference."""

    argument: Argument
    nouns: tuple[Noun, ...]
    order: tuple[int, ...]
    empty: bool | None

    @property
    def premises(self) -> tuple[Statement, ...]:
        """As they are said."""
        return tuple(self.argument.premises[place] for place in self.order)


def explain(made: Syllogism, three: bool) -> tuple[str, ...]:
    """A step a line, without the answer. `three`: whether what is false is told from what is not known."""
    asked = made.argument.conclusion
    found = verdict(made.premises, asked, made.argument.kinds, made.empty is not False)
    if found is Verdict.TRUE:
        return _refuted(made, asked.denial, "false")
    if not three:
        return (_world(made, asked.denial, "false"),)
    if found is Verdict.FALSE:
        return _refuted(made, asked, "true")
    return _world(made, asked, "true"), _world(made, asked.denial, "false")


def _world(made: Syllogism, supposed: Statement, value: str) -> str:
    """Things among which the premises and this are true: each with all that it is."""
    kinds = range(made.argument.kinds)
    things = model([*made.premises, supposed], len(kinds), made.empty is True)
    told = [_described({kind: True for kind in kinds if thing >> kind & 1}, made.nouns) for thing in things]
    return f"It may be {value}: perhaps there is only {', and '.join(told) or 'nothing of these kinds'}."


def _refuted(made: Syllogism, supposed: Statement, value: str) -> tuple[str, ...]:
    """From the premises and this to a contradiction about one thing."""
    rules = [each for each in (*made.premises, supposed) if not each.exists]
    for thing in _needed(made, supposed):
        told = _contradiction(thing, rules, made.nouns)
        if told:
            taken = f"There is {_described(thing, made.nouns)}."
            return (f"Suppose that it is {value}: {say(supposed, made.nouns)}.", taken, *told)
    raise AssertionError("no contradiction in what has no model")


def _needed(made: Syllogism, supposed: Statement) -> Iterator[_Thing]:
    """Things that must be there."""
    for each in (supposed, *made.premises):
        if each.exists:
            yield {each.subject: True, each.predicate: each.form is Form.SOME}
    if made.empty is False:
        yield from ({kind: True} for kind in range(made.argument.kinds))


def _contradiction(thing: _Thing, rules: Sequence[Statement], nouns: Sequence[Noun]) -> list[str]:
    """The steps to it, none where the rules do not contradict each other about the thing."""
    known, told = dict(thing), list[str]()
    new = True
    while new:
        new = False
        for rule in rules:
            for kind, value in _implied(rule, known):
                if known.get(kind) == value:
                    continue
                clause = say(rule, nouns)
                told.append(f"{clause[0].upper()}{clause[1:]}, so it is {_called(nouns[kind], value)}.")
                if kind in known:
                    return [*told, f"But it is {_called(nouns[kind], not value)}: a contradiction."]
                known[kind], new = value, True
    return []


def _implied(rule: Statement, known: _Thing) -> Iterator[tuple[int, bool]]:
    """What "all" or "no" says of a thing."""
    within = rule.form is Form.ALL
    if known.get(rule.subject):
        yield rule.predicate, within
    if known.get(rule.predicate) is (not within):
        yield rule.subject, False


def _described(thing: _Thing, nouns: Sequence[Noun]) -> str:
    first, *rest = (_called(nouns[kind], value) for kind, value in sorted(thing.items(), key=_last))
    return f"{first} that is {' and '.join(rest)}" if rest else first


def _last(item: tuple[int, bool]) -> bool:
    """What it is goes before what it is not."""
    return not item[1]


def _called(noun: Noun, value: bool) -> str:
    return noun.a if value else f"not {noun.a}"
