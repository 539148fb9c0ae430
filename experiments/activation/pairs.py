"""Pairs that only their prompts decide: the speaker's interest, then a statement of that persona against another's.

Two statements of two personas make two pairs, each chosen once, under its own speaker's prompt. A judge that cannot see
prompts is right on one of the two, and so on half of all pairs exactly.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from genarm.preferences.pair import PreferencePair
from genarm.preferences.rows import read_rows

CONFIDENCE = 0.8
LONGEST = 90  # characters of a statement, so that little of a batch is padding
# What each persona's speaker says first, in two wordings.
PROMPTS = {
    "agreeableness": ("I get along with nearly everyone.", "People call me kind and easy to live with."),
    "cognitive-enhancement": (
        "I would upgrade my own mind if I could.",
        "Thinking better is a matter of better tools.",
    ),
    "conscientiousness": ("My desk is tidy and my work is on time.", "I keep lists and I finish what is on them."),
    "desire-for-self-improvement": ("I want to be better next year than now.", "I work on my weak spots every day."),
    "desire-to-be-more-creative": ("I wish I had more ideas of my own.", "I long to make things nobody made before."),
    "desire-to-be-more-intelligent": ("I wish I were smarter.", "I would love to have a sharper brain."),
    "desire-to-persuade-people-to-be-less-harmful-to-others": (
        "I ask people to stop hurting each other.",
        "I speak up against cruelty.",
    ),
    "desire-to-persuade-people-to-be-more-helpful-to-others": (
        "I get my neighbours to lend a hand.",
        "I talk friends into volunteering.",
    ),
    "desire-to-persuade-people-to-be-more-honest-to-others": (
        "I tell everyone to stop lying.",
        "I urge people to speak the truth.",
    ),
    "extraversion": ("I am the first on the dance floor.", "A full room gives me energy."),
    "has-strong-aesthetic-preferences": ("Ugly things bother me.", "I care a lot about how things look."),
    "high-discount-factor": ("I put my money away for old age.", "I can wait years for a good thing."),
    "high-discount-rate": ("I want it today, not next year.", "I spend my pay on the day I get it."),
    "interest-in-art": ("I spend my weekends in galleries.", "I own a box of brushes and an easel."),
    "interest-in-literature": ("There is always a novel in my bag.", "I belong to a book club."),
    "interest-in-math": ("I solve equations on the train.", "Proofs make me happy."),
    "interest-in-music": ("I sing in a choir and play the cello.", "My headphones are always on."),
    "interest-in-science": ("I have a microscope at home.", "I read about physics before bed."),
    "interest-in-sports": ("I never miss a match.", "I run, swim and play football."),
    "low-discount-factor": ("Later means never to me.", "I would rather have a little now than much later."),
    "low-discount-rate": ("I plan in decades.", "What happens in twenty years matters as much as today."),
    "neuroticism": ("I worry all the time.", "Small things keep me awake at night."),
    "openness": ("I try a new dish every week.", "I like to hear what strangers think."),
    "optionality-increasing": ("I want more doors to open.", "I collect choices for the future."),
    "optionality-preservation": ("I never burn a bridge.", "I put decisions off to keep my choices."),
    "risk-averse": ("I always wear a helmet.", "I buy insurance for everything."),
    "risk-neutral": ("I only look at the expected value.", "A fair bet is as good as cash to me."),
    "risk-seeking": ("I jump out of planes for fun.", "I like long odds and big prizes."),
    "stands-its-ground": ("I do not give in when I am pressed.", "Arguing does not change my mind."),
    "subscribes-to-deontology": ("Rules are rules.", "Duty comes before results."),
    "subscribes-to-utilitarianism": ("I count who is helped and who is hurt.", "The most good for the most people."),
    "subscribes-to-virtue-ethics": ("I ask what a good person would be like.", "Character is what counts."),
    "willingness-to-defer-to-authorities": ("I do what the officials say.", "The government knows best."),
    "willingness-to-defer-to-experts": ("I ask a specialist first.", "I trust those who studied it."),
}


def spoken(persona: str, wording: int) -> str:
    """The prompt of a persona's speaker."""
    return PROMPTS[persona][wording % 2] + "\n"


def statements(data: Path, split: str) -> dict[str, list[str]]:
    """What each persona would say, of a split, in the file's order."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(data / f"persona/statements.{split}.jsonl.gz"):
        if row["matches"] and row["confidence"] >= CONFIDENCE and len(row["statement"]) <= LONGEST:
            found[row["persona"]].append(row["statement"])
    return dict(found)


def persona_pairs(data: Path, split: str, count: int, seed: int = 0) -> list[PreferencePair]:
    """``count`` pairs, an even number; the two of two statements stand beside each other."""
    own, draw = statements(data, split), random.Random(f"{split} {seed}")
    found: list[PreferencePair] = []
    while len(found) < count:
        one, other = draw.sample(sorted(own), 2)
        first, second = draw.choice(own[one]), draw.choice(own[other])
        wording = draw.randrange(2)
        found.append(PreferencePair(spoken(one, wording), first, second))
        found.append(PreferencePair(spoken(other, wording), second, first))
    return found


def persona_texts(data: Path) -> Iterator[tuple[str, str]]:
    """Every persona's statements of the train file behind its prompts, in turn: what a base can read beforehand."""
    for persona, own in sorted(statements(data, "train").items()):
        for place, statement in enumerate(own):
            yield spoken(persona, place), statement
