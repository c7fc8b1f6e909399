"""Medians of rounds, and goals with their verdicts."""

import sys
from dataclasses import dataclass
from statistics import median


def say(line: str) -> None:
    """What is going on; standard output has only results."""
    print(line, file=sys.stderr, flush=True)


def medians(results: list, keys: tuple, value: str) -> dict:
    """The median of a value over the rounds, by what the keys say."""
    values = {}
    for result in results:
        if value in result:
            values.setdefault(tuple(result[key] for key in keys), []).append(result[value])
    return {key: median(many) for key, many in values.items()}


@dataclass
class Goal:
    """What is promised, and what was measured."""

    what: str
    measured: float
    sign: str
    target: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Compared as measured, not as printed."""
        return self.measured < self.target if self.sign == "<" else self.measured >= self.target

    @property
    def verdict(self) -> str:
        return "met" if self.is_met else "NOT MET"


def at_least(what: str, measured: float, target: float, unit: str = "×") -> Goal:
    return Goal(what, measured, "≥", target, unit)


def below(what: str, measured: float, target: float, unit: str) -> Goal:
    return Goal(what, measured, "<", target, unit)


def print_goals(goals: list) -> None:
    """A line for each goal."""
    width = max(len(goal.what) for goal in goals)
    print(f"\n{'goal':{width}} {'measured':>14} {'target':>14}  verdict")
    for goal in goals:
        measured, target = f"{goal.measured:.2f} {goal.unit}", f"{goal.sign} {goal.target:g} {goal.unit}"
        print(f"{goal.what:{width}} {measured:>14} {target:>14}  {goal.verdict}")
    print(f"{sum(goal.is_met for goal in goals)} of {len(goals)} goals met")
