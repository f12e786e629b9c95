"""A tree of values that know the line they stand on: what a document is once it has been read, before anybody asks what it means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """A single value: ``text`` is how it was written, ``line`` counts from 1."""

    value: bool | int | float | str | None
    text: str
    line: int

    def __str__(self) -> str:
        return "nothing" if self.value is None else f"'{self.text if len(self.text) <= 60 else self.text[:59] + '…'}'"


@dataclass(frozen=True, slots=True)
class Seq:
    """A list."""

    items: tuple[Tree, ...]
    line: int

    def __str__(self) -> str:
        return "a list"


@dataclass(frozen=True, slots=True)
class Map:
    """Names and what they stand for, in the order written; no name twice."""

    pairs: tuple[tuple[Item, Tree], ...]
    line: int

    def __str__(self) -> str:
        return "a mapping"


Tree = Item | Seq | Map
