"""Nouns for kinds of things: of people, of animals, of objects, and made-up ones without end; and
what is said of kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from sampan.envs.inference.logic import Form, Statement

_PEOPLE = (
    "artist, baker, banker, builder, chef, child:children, climber, collector, dancer, dentist, doctor,"
    " driver, engineer, farmer, fisher, gardener, guitarist, hiker, inventor, judge, lawyer, librarian,"
    " miner, musician, neighbour, nurse, painter, parent, pilot, plumber, poet, sailor, scientist,"
    " singer, student, swimmer, tailor, teacher, traveller, volunteer, winner, writer"
)
_ANIMALS = (
    "ant, badger, bat, bear, bee, bird, butterfly:butterflies, camel, cat, cow, crab, dog, dolphin,"
    " duck, eagle, elephant, ferret, fox:foxes, frog, goat, hawk, horse, insect, lion, lizard, mammal,"
    " monkey, mouse:mice, otter, owl, panda, parrot, penguin, pet, rabbit, reptile, seal, snake, spider,"
    " tiger, turtle, whale, wolf:wolves, zebra"
)
_OBJECTS = (
    "apple, bag, basket, bicycle, book, bottle, box:boxes, bridge, candle, chair, clock, coin, cup,"
    " drum, engine, flag, garden, gift, guitar, hammer, house, jewel, kettle, lamp, letter, machine,"
    " map, mirror, novel, oven, painting, pencil, piano, picture, plate, poem, robot, rock, ship, shoe,"
    " song, stone, table, toy, tree, violin, wheel, window"
)
_ONSETS = "b bl br d dr f fl fr g gl gr j k kl kr l m n p pl pr r s sk sl sn st t tr v w y z"
_VOWELS = "a e i o u"
_CODAS = "b d g k l lk lm lp m mp n nd nk nt p r rb rk rm rn rp rt t"
_SYLLABLE = tuple(sounds.split() for sounds in (_ONSETS, _VOWELS, _CODAS))


@dataclass(frozen=True)
class Noun:
    """One and many of a kind."""

    one: str
    many: str

    @property
    def a(self) -> str:
        """With its article."""
        return f"{'an' if self.one[0] in 'aeiou' else 'a'} {self.one}"


def _nouns(text: str) -> tuple[Noun, ...]:
    pairs = (word.strip().partition(":") for word in text.split(","))
    return tuple(Noun(one, many or f"{one}s") for one, _, many in pairs)


NOUNS: Mapping[str, Sequence[Noun]] = {
    "people": _nouns(_PEOPLE),
    "animals": _nouns(_ANIMALS),
    "objects": _nouns(_OBJECTS),
}
WORDS = ("mixed", *NOUNS, "nonsense")
"""Of one list, made up, or of any of these."""


def choose(random: Random, words: str, count: int) -> list[Noun]:
    """So many different nouns of one list."""
    if words == "mixed":
        words = random.choice(WORDS[1:])
    if words in NOUNS:
        return random.sample(NOUNS[words], count)
    made: dict[str, Noun] = {}
    while len(made) < count:
        parts = [random.choice(sounds) for sounds in _SYLLABLE]
        if random.random() < 0.5:
            parts = [random.choice(sounds) for sounds in _SYLLABLE[:2]] + parts
        one = "".join(parts)
        made[one] = Noun(one, f"{one}s")
    return list(made.values())


SAID: Mapping[Form, Sequence[str]] = {
    Form.ALL: (
        "all {S.many} are {P.many}",
        "every {S.one} is {P.a}",
        "each {S.one} is {P.a}",
        "whatever is {S.a} is {P.a}",
        "there is no {S.one} that is not {P.a}",
    ),
    Form.NO: (
        "no {S.many} are {P.many}",
        "no {S.one} is {P.a}",
        "nothing that is {S.a} is {P.a}",
        "there is no {S.one} that is {P.a}",
        "there are no {S.many} that are {P.many}",
    ),
    Form.SOME: (
        "some {S.many} are {P.many}",
        "at least one {S.one} is {P.a}",
        "there is {S.a} that is {P.a}",
        "one or more {S.many} are {P.many}",
    ),
    Form.SOME_NOT: (
        "some {S.many} are not {P.many}",
        "at least one {S.one} is not {P.a}",
        "there is {S.a} that is not {P.a}",
        "not all {S.many} are {P.many}",
        "not every {S.one} is {P.a}",
    ),
}


def say(statement: Statement, nouns: Sequence[Noun]) -> str:
    """In its plainest words, as a clause."""
    return SAID[statement.form][0].format(S=nouns[statement.subject], P=nouns[statement.predicate])
