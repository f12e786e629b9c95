"""What fits where a pipeline runs: how many tasks at once, and on which cards. Kept by whoever conducts; costs nothing per task."""

from __future__ import annotations

from dataclasses import dataclass

from overnight.dag.words import Node, Pipeline
from overnight.errors import UsageError


@dataclass(frozen=True, slots=True)
class Card:
    """One graphics card: ``memory_gb`` and ``kind`` are 0 and empty where nothing is known of it, as of one that was merely declared."""

    name: str
    kind: str = ""
    memory_gb: float = 0.0

    def fits(self, node: Node) -> bool:
        """Whether the card is what the node asks for, as far as is known."""
        alike = not self.kind or node.gpu_type.lower().replace("_", " ").replace("-", " ") in self.kind.lower().replace("-", " ")
        return alike and (not self.memory_gb or self.memory_gb >= node.vram_gb * 0.95)  # an "80 GB" card tells 79.6


@dataclass(frozen=True, slots=True)
class Machine:
    """Where tasks run. ``cards`` None: whoever executes sees to cards, processors and memory itself."""

    slots: int
    cards: tuple[Card, ...] | None = None
    cpus: float = 0.0
    memory_gb: float = 0.0

    def check(self, pipeline: Pipeline) -> None:
        """Refuse a node that could never run here. Raises ``UsageError`` (E-NO-GPU, E-TOO-LARGE)."""
        if self.cards is None:
            return
        for node in pipeline.nodes:
            fitting = [card for card in self.cards if card.fits(node)]
            if node.gpu_count > len(fitting):
                kind = f" of the kind '{node.gpu_type}'" if node.gpu_type else ""
                memory = f" with {node.vram_gb:g} GB" if node.vram_gb else ""
                names = ",".join(str(number) for number in range(node.gpu_count))
                raise UsageError(
                    "E-NO-GPU", f"{pipeline.file}:{node.line}: node '{node.name}' wants {node.gpu_count} GPU{kind}{memory}; here {'is' if len(fitting) == 1 else 'are'} {len(fitting)}",
                    why=f"found: {', '.join(f'{card.name} {card.kind}'.strip() for card in self.cards) or 'no GPU'}",
                    fix=f"overnight dag run {pipeline.file} --gpus {names}   # says that they are there",
                )  # fmt: skip
            for wanted, there, what in ((node.cpus, self.cpus, "processors"), (node.memory_gb, self.memory_gb, "GB of memory")):
                if there and wanted > there:
                    found = f"{pipeline.file}:{node.line}: node '{node.name}' wants {wanted:g} {what}; here are {there:.4g}"
                    raise UsageError("E-TOO-LARGE", found, fix=f"mend line {node.line} of {pipeline.file}")


class Room:
    """What is free."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._free = list(machine.cards or ())
        self._taken: dict[int, tuple[Node, list[Card]]] = {}

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return len(self._taken) >= self._machine.slots

    def take(self, position: int, node: Node) -> tuple[str, ...] | None:
        """The names of the cards that a task gets; None if there is no room for it now."""
        busy = [each for each, _ in self._taken.values()]
        if self.full:
            return None
        if self._machine.cards is None:
            self._taken[position] = (node, [])
            return tuple(str(number) for number in range(node.gpu_count))
        cards = [card for card in self._free if card.fits(node)][: node.gpu_count]
        over = busy and (
            (node.cpus and sum(each.cpus for each in busy) + node.cpus > self._machine.cpus > 0)
            or (node.memory_gb and sum(each.memory_gb for each in busy) + node.memory_gb > self._machine.memory_gb > 0)
        )
        if len(cards) < node.gpu_count or over:
            return None
        self._free = [card for card in self._free if card not in cards]
        self._taken[position] = (node, cards)
        return tuple(card.name for card in cards)

    def keep(self, position: int, node: Node, names: tuple[str, ...]) -> None:
        """A task that runs already has these cards."""
        cards = [card for card in self._free if card.name in names]
        self._free = [card for card in self._free if card.name not in names]
        self._taken[position] = (node, cards)

    def give_back(self, position: int) -> None:
        """A task is over."""
        _, cards = self._taken.pop(position, (None, []))
        order = {card: number for number, card in enumerate(self._machine.cards or ())}
        self._free = sorted([*self._free, *cards], key=order.__getitem__)
