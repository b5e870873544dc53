"""The product's rules of scaling, for all that grows and shrinks: pools of workers, replicas.

Up when processors or memory are busy or much waits; down when all three are low; else stay, so that
nothing swings between the two. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down", "stay"]


@dataclass(frozen=True)
class Rules:
    """cpu_up, memory_up: Shares from 0 to 1; beyond them there are to be more.

    waiting_up: Units or questions that wait; beyond them too. waiting_down: Fewer may be fewer, if
    processors and memory are under half of their bounds.
    """

    cpu_up: float = 0.7
    memory_up: float = 0.8
    waiting_up: float = 100
    waiting_down: float = 10


@dataclass(frozen=True)
class Load:
    """Shares of what there is, from 0 to 1, and how much waits."""

    cpu_share: float
    memory_share: float
    waiting: float


@dataclass(frozen=True)
class Verdict:
    """direction: Where to. rule: Which of the rules said so, a word for a label. reason: A sentence."""

    direction: Direction
    rule: Literal["queue", "cpu", "memory", "idle", "none"]
    reason: str


def judge(load: Load, rules: Rules) -> Verdict:
    """Say what the rules make of a load."""
    if load.waiting > rules.waiting_up:
        return Verdict("up", "queue", f"{load.waiting:,.0f} wait (over {rules.waiting_up:g})")
    if load.cpu_share > rules.cpu_up:
        return Verdict("up", "cpu", f"CPUs are {load.cpu_share:.0%} busy (over {rules.cpu_up:.0%})")
    if load.memory_share > rules.memory_up:
        used = f"memory is {load.memory_share:.0%} used (over {rules.memory_up:.0%})"
        return Verdict("up", "memory", used)
    idle = load.cpu_share < rules.cpu_up / 2 and load.memory_share < rules.memory_up / 2
    if idle and load.waiting < rules.waiting_down:
        return Verdict(
            "down",
            "idle",
            f"CPUs are {load.cpu_share:.0%} busy (under {rules.cpu_up / 2:.0%}), memory is "
            f"{load.memory_share:.0%} used (under {rules.memory_up / 2:.0%}), {load.waiting:,.0f} wait "
            f"(under {rules.waiting_down:g})",
        )
    return Verdict("stay", "none", "the load is between the bounds")
