"""Which queued job a worker gets: what fits, then priority, then age; small ones fill gaps that no older large one could use sooner.

Backfill is that of Slurm: an older job that must wait has the worker on which it would start first reserved; a younger one may run there
only if it ends, by its time limit, before that, or leaves enough beside it. Pure: jobs, workers and the time are arguments.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence

from overnight.queue.inputs import address_of, is_below
from overnight.queue.words import Busy, Card, Machine, Offer, Standing, Wish

_RESERVED = 8  # older jobs that hold back younger ones on one worker
_LOOKED_AT = 5000  # queued jobs that one claim looks at
_NEVER = 1e12  # seconds: the end of a job without a time limit; the one to be started is taken to end after all others


def choose(
    offer: Offer, now: float, wishes: Iterable[Wish], others: Callable[[], Sequence[Standing]]
) -> tuple[Wish, tuple[str, ...]] | None:
    """The job that the worker gets, and its GPUs. ``wishes`` come in order; ``others`` (all live workers) is asked only if one must wait."""
    waiting: list[Wish] = []
    standings: Sequence[Standing] | None = None
    for looked, wish in enumerate(wishes):
        if looked >= _LOOKED_AT:
            break
        if not could_run(wish, offer.machine):
            continue
        gpus = _taken(wish, offer)
        if gpus is None:
            standings = others() if standings is None else standings
            if len(waiting) < _RESERVED and _is_reserved(wish, offer.machine.name, standings, now):
                waiting.append(wish)
            continue
        here = next((each for each in standings or () if each.machine.name == offer.machine.name), Standing(offer.machine))
        if not any(_delays(wish, gpus, older, here, now) for older in waiting):
            return wish, gpus
    return None


def could_run(wish: Wish, machine: Machine) -> bool:
    """Whether the job could run on the machine when nothing else does."""
    whole = Offer(machine, machine.slots, tuple(card.index for card in machine.cards), machine.cpus, machine.memory_gb)
    return _taken(wish, whole) is not None


def lacking(wish: Wish, machines: Sequence[Machine]) -> str:
    """What the workers have, in words, if none of them could ever run the job; empty if one could, or there is none."""
    if not machines or any(could_run(wish, machine) for machine in machines):
        return ""
    return "; ".join(f"{machine.name} has {described(machine)}" for machine in machines[:8]) + ("; …" if len(machines) > 8 else "")


def described(machine: Machine) -> str:
    """A machine in words: GPUs by their names, else processors; tags; whether it runs the jobs of some clients alone."""
    kinds: dict[tuple[str, int], int] = {}
    for card in machine.cards:
        kinds[card.name, card.memory_mb] = kinds.get((card.name, card.memory_mb), 0) + 1
    found = [f"{count} {name or 'GPU'}" + (f" ({size / 1000:.0f} GB)" if size else "") for (name, size), count in kinds.items()]
    words = [
        ", ".join(found) or "no GPU",
        f"{machine.cpus} CPUs" if machine.cpus else "",
        f"{machine.memory_gb:.0f} GB" if machine.memory_gb else "",
    ]
    closed = f"runs jobs of {len(machine.clients)} clients alone" if machine.clients is not None else ""
    return ", ".join(filter(None, [*words, f"tags {' '.join(machine.tags)}" if machine.tags else "", closed]))


def unwelcome(wish: Wish, machines: Sequence[Machine]) -> bool:
    """Whether a client asks and there are workers, all of whose owners let the jobs of others alone run there."""
    return bool(machines) and not any(_lets_in(wish, machine) for machine in machines)


def unshared(wish: Wish, machines: Sequence[Machine]) -> str:
    """A path or URL that a client's job wants to read, and that no worker which runs this client's jobs lets it; empty if there is none."""
    open_to = [machine for machine in machines if _lets_in(wish, machine)]
    if not wish.owner or not open_to:
        return ""
    return next((path for path in wish.inputs if not any(lets_read(path, machine) for machine in open_to)), "")


def is_shared(path: str, shares: Sequence[str]) -> bool:
    """Whether an absolute path is one of the folders ``shares`` or lies below one, by its name."""
    whole = posixpath.normpath(path)
    return any(whole == share or whole.startswith(f"{share.rstrip('/')}/") for share in map(posixpath.normpath, shares))


def lets_read(path: str, machine: Machine) -> bool:
    """Whether jobs of clients may read this path, or what this URL gives, on the machine, by its name."""
    address = address_of(path)
    if address is None or address.path:
        return is_shared(address.path if address else path, machine.shares)
    return is_below(address.url, machine.fetches)


def _lets_in(wish: Wish, machine: Machine) -> bool:
    return not wish.owner or machine.clients is None or wish.owner in machine.clients


def _takes(wish: Wish, machine: Machine) -> bool:
    """Whether it may run there: named, not ruled out, let in, and with its inputs shared."""
    if (wish.workers and machine.name not in wish.workers) or machine.name in wish.not_workers or not _lets_in(wish, machine):
        return False
    return not wish.owner or all(lets_read(path, machine) for path in wish.inputs)


def waits(wishes: Iterable[Wish], standings: Sequence[Standing], seconds: Mapping[str, float], now: float) -> dict[str, float]:
    """Expected seconds until each job starts, by id, as if each took its ``seconds``; jobs after one of unknown length may be missing."""
    found: dict[str, float] = {}
    plan = {each.machine.name: each for each in standings}
    for wish in wishes:
        starts = [(_start(wish, each, now), name) for name, each in plan.items() if could_run(wish, each.machine)]
        if not starts:
            continue
        start, name = min(starts)
        if start >= now + _NEVER:
            continue
        found[wish.id] = max(0.0, start - now)
        here = plan[name]
        gpus = _first_free(wish, here, start)
        until = start + (seconds.get(wish.id) or wish.time_limit or _NEVER)
        plan[name] = Standing(here.machine, (*here.busy, Busy(gpus, wish.cpus, wish.memory_gb, until)))
    return found


def _taken(wish: Wish, offer: Offer) -> tuple[str, ...] | None:
    """The GPUs that the job would get of what is free; None if it does not fit."""
    machine = offer.machine
    if offer.slots < 1 or not set(wish.tags) <= {*machine.tags, machine.kind} or not _takes(wish, machine):  # its class counts as a tag
        return None
    # A worker that does not tell its processors or memory has enough of them.
    if (machine.cpus and wish.cpus > offer.cpus) or (machine.memory_gb and wish.memory_gb > offer.memory_gb):
        return None
    if not wish.gpu_count:
        return ()
    free = set(offer.gpus)
    fit = sorted((card for card in machine.cards if card.index in free and _suits(wish, card)), key=lambda card: card.memory_mb)
    # The smallest that will do, so that large ones are left for those who need them.
    return tuple(card.index for card in fit[: wish.gpu_count]) if len(fit) >= wish.gpu_count else None


def _suits(wish: Wish, card: Card) -> bool:
    return wish.gpu_type.casefold() in card.name.casefold() and card.memory_mb >= wish.vram_gb * 1000


def _free(standing: Standing, at: float) -> Offer:
    """What is free on the worker at that time, if nothing is started until then."""
    machine, busy = standing.machine, [each for each in standing.busy if each.until > at]
    used = {gpu for each in busy for gpu in each.gpus}
    return Offer(
        machine, machine.slots - len(busy), tuple(card.index for card in machine.cards if card.index not in used),
        machine.cpus - sum(each.cpus for each in busy), machine.memory_gb - sum(each.memory_gb for each in busy),
    )  # fmt: skip


def _start(wish: Wish, standing: Standing, now: float) -> float:
    """When the job could start there at the earliest; far away if that is not known."""
    moments = sorted({now, *(max(now, _end(each, now)) for each in standing.busy)})
    bounded = Standing(standing.machine, tuple(Busy(each.gpus, each.cpus, each.memory_gb, _end(each, now)) for each in standing.busy))
    return next((moment for moment in moments if _taken(wish, _free(bounded, moment)) is not None), math.inf)


def _end(busy: Busy, now: float) -> float:
    return busy.until if math.isfinite(busy.until) else now + _NEVER


def _first_free(wish: Wish, standing: Standing, at: float) -> tuple[str, ...]:
    return _taken(wish, _free(standing, at)) or ()


def _is_reserved(wish: Wish, name: str, standings: Sequence[Standing], now: float) -> bool:
    """Whether this is the worker on which the waiting job would start first."""
    starts = [
        (_start(wish, each, now), len(each.busy), each.machine.name) for each in standings if could_run(wish, each.machine)
    ]  # of equal ones, the one with the least to do
    return bool(starts) and min(starts)[2] == name and min(starts)[0] > now


def _delays(wish: Wish, gpus: tuple[str, ...], older: Wish, here: Standing, now: float) -> bool:
    """Whether the older job would start later on this worker if the younger one were started now."""
    until = now + wish.time_limit if wish.time_limit else now + 2 * _NEVER
    after = Standing(here.machine, (*here.busy, Busy(gpus, wish.cpus, wish.memory_gb, until)))
    return _start(older, after, now) > _start(older, here, now)
