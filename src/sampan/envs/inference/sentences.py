"""Sentences about people, and what they say and do not say, in the manner of HANS (arXiv:1902.01007): every
word of a conclusion stands in its premise, so that only the sentence's structure tells whether it follows.

`{A}`, `{B}`, `{C}` are people, one or several; `{v}` and `{w}` what one does to another (the past is the
participle, too), `{i}` what one does alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Case:
    """A kind of sentence. `says`: clauses that it asserts; `asks`: one that it may assert or not."""

    heuristic: str
    name: str
    premise: str
    says: tuple[str, ...]
    asks: str

    @property
    def follows(self) -> bool:
        """Whether what it asks is among what it says."""
        return self.asks in self.says


OVERLAP, SUBSEQUENCE, CONSTITUENT = HEURISTICS = ("lexical_overlap", "subsequence", "constituent")

CASES: Sequence[Case] = (
    Case(OVERLAP, "swap", "{A} {v} {B}", ("{A} {v} {B}",), "{B} {v} {A}"),
    Case(OVERLAP, "place", "{A} {near} {B} {v} {C}", ("{A} {v} {C}",), "{C} {v} {A}"),
    Case(OVERLAP, "relative", "{A} {v} {B} who {C} {w}", ("{A} {v} {B}", "{C} {w} {B}"), "{B} {w} {C}"),
    Case(OVERLAP, "passive", "{A} {A_was} {v} by {B}", ("{B} {v} {A}",), "{A} {v} {B}"),
    Case(OVERLAP, "pair", "{A} {v} {B} and {C}", ("{A} {v} {B}", "{A} {v} {C}"), "{B} {v} {C}"),
    Case(OVERLAP, "relative", "{A} who {B} {v} {w} {C}", ("{B} {v} {A}", "{A} {w} {C}"), "{B} {v} {A}"),
    Case(OVERLAP, "place", "{A} {near} {B} {v} {C}", ("{A} {v} {C}",), "{A} {v} {C}"),
    Case(OVERLAP, "subject", "{A} who {i} {v} {B}", ("{A} {i}", "{A} {v} {B}"), "{A} {v} {B}"),
    Case(OVERLAP, "passive", "{A} {A_was} {v} by {B}", ("{B} {v} {A}",), "{B} {v} {A}"),
    Case(OVERLAP, "pair", "{A} {v} {B} and {C}", ("{A} {v} {B}", "{A} {v} {C}"), "{A} {v} {C}"),
    Case(SUBSEQUENCE, "clause", "{A} {knew} {B} {i}", (), "{A} {knew} {B}"),
    Case(SUBSEQUENCE, "place", "{A} {near} {B} {i}", ("{A} {i}",), "{B} {i}"),
    Case(SUBSEQUENCE, "relative", "{A} who {v} {B} {i}", ("{A} {v} {B}", "{A} {i}"), "{B} {i}"),
    Case(SUBSEQUENCE, "participle", "{A} {paid} {inside} {i}", ("{A} {i}",), "{A} {paid} {inside}"),
    Case(SUBSEQUENCE, "garden", "before {A} {left} {B} {i}", ("{B} {i}",), "{A} {left} {B}"),
    Case(SUBSEQUENCE, "pair", "{A} and {B} {i}", ("{A} {i}", "{B} {i}"), "{B} {i}"),
    Case(SUBSEQUENCE, "quality", "{what} {D} {v} {A}", ("{D} {v} {A}", "{what} {D} {v} {A}"), "{D} {v} {A}"),
    Case(SUBSEQUENCE, "object", "{A} {made} {it}", ("{A} {made} {it}", "{A} {made}"), "{A} {made}"),
    Case(SUBSEQUENCE, "relative", "{A} {v} {B} who {i}", ("{A} {v} {B}", "{B} {i}"), "{A} {v} {B}"),
    Case(SUBSEQUENCE, "place", "{A} {v} {B} {near} {C}", ("{A} {v} {B}",), "{A} {v} {B}"),
    Case(CONSTITUENT, "condition", "{unless} {A} {i}, {B} {v} {C}", (), "{A} {i}"),
    Case(CONSTITUENT, "consequence", "{unless} {A} {v} {B}, {C} {i}", (), "{C} {i}"),
    Case(CONSTITUENT, "report", "{A} {claimed} that {B} {v} {C}", (), "{B} {v} {C}"),
    Case(CONSTITUENT, "either", "{A} {i}, or {B} {v} {C}", (), "{B} {v} {C}"),
    Case(CONSTITUENT, "perhaps", "{perhaps} {A} {v} {B}", (), "{A} {v} {B}"),
    Case(CONSTITUENT, "reason", "{because} {A} {i}, {B} {v} {C}", ("{A} {i}", "{B} {v} {C}"), "{A} {i}"),
    Case(CONSTITUENT, "result", "{because} {A} {v} {B}, {C} {i}", ("{A} {v} {B}", "{C} {i}"), "{C} {i}"),
    Case(CONSTITUENT, "fact", "{A} {remembered} that {B} {v} {C}", ("{B} {v} {C}",), "{B} {v} {C}"),
    Case(CONSTITUENT, "both", "{A} {i}, and {B} {v} {C}", ("{A} {i}", "{B} {v} {C}"), "{B} {v} {C}"),
    Case(CONSTITUENT, "surely", "{surely} {A} {v} {B}", ("{A} {v} {B}",), "{A} {v} {B}"),
)


def _words(text: str) -> list[str]:
    return text.split()


_PEOPLE = _words(
    "actor artist athlete author baker banker builder chef dancer dentist doctor driver farmer gardener"
    " guest judge lawyer librarian manager minister painter pilot plumber poet president professor"
    " sailor scientist secretary senator singer student tailor teacher tourist writer"
)
_DEEDS = _words(
    "admired advised amused avoided blamed called contacted encouraged helped hired ignored interviewed"
    " introduced mentioned praised recommended supported thanked visited warned"
)
_ALONE = _words("arrived coughed danced laughed resigned shouted sighed slept smiled stumbled waited yawned")

LEXICON: Mapping[str, Sequence[str]] = {
    "near": ("near", "behind", "beside", "next to", "in front of"),
    "knew": ("knew", "forgot", "heard", "believed"),
    "paid": ("paid", "helped", "called", "trained", "interviewed"),
    "inside": ("in the office", "in the garden", "at the station", "in the library", "at the hotel"),
    "left": ("left", "moved", "paid", "studied", "called"),
    "what": ("happy", "tired", "famous", "young", "angry", "careful", "tall"),
    "unless": ("unless", "if", "provided that"),
    "claimed": ("claimed", "said", "hoped", "believed", "feared", "suspected"),
    "perhaps": ("perhaps", "maybe", "probably", "supposedly", "possibly"),
    "because": ("because", "although", "after", "since", "though"),
    "remembered": ("remembered", "knew", "forgot", "realized", "learned"),
    "surely": ("certainly", "clearly", "obviously", "undoubtedly", "of course"),
}
"""What else stands in a sentence, by its place."""

_MADE: Mapping[str, Sequence[str]] = {
    "read": ("the book", "the letter", "the poem"),
    "ate": ("the cake", "the soup", "the apple"),
    "sang": ("the song", "the hymn"),
    "drank": ("the tea", "the juice"),
    "wrote": ("the letter", "the story", "the report"),
    "painted": ("the wall", "the portrait", "the door"),
    "cooked": ("the meal", "the rice"),
}


def _plural(person: str) -> str:
    return f"{person[:-1]}ies" if person.endswith("y") else f"{person}s"


def fill(random: Random, case: Case) -> tuple[str, str, tuple[str, ...]]:
    """Its premise, the clause that it asks, and those that it says, with words."""
    words = {name: random.choice(choices) for name, choices in LEXICON.items()}
    words["v"], words["w"] = random.sample(_DEEDS, 2)
    words["i"] = random.choice(_ALONE)
    people = random.sample(_PEOPLE, 4)
    for name, person in zip("ABC", people, strict=False):
        many = random.random() < 0.5
        words[name] = f"the {_plural(person) if many else person}"
        words[f"{name}_was"] = "were" if many else "was"
    words["D"] = _plural(people[3])
    words["made"] = random.choice(list(_MADE))
    words["it"] = random.choice(_MADE[words["made"]])
    premise, asked, *said = (text.format(**words) for text in (case.premise, case.asks, *case.says))
    return premise, asked, tuple(said)
