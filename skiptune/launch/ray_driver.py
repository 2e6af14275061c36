"""The process that speaks to a Ray cluster: reads questions, answers each with a line of JSON.

    python -m skiptune.launch.ray_driver ADDRESS

A process of its own, because Ray takes over signals, writes to the terminal, and ends its process
where a cluster goes away. One that stays, because each connection is a job in Ray's books.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from skiptune.launch.crew import LAST_SECONDS
from skiptune.launch.ray_actor import Tender

__all__ = ["AUTO", "NAMESPACE", "capacity"]

NAMESPACE: Final = "skiptune"
"""Ray's namespace of the actors."""

AUTO: Final = "auto"
"""Ray's word for the cluster of this machine."""

CONNECT_SECONDS: Final = 5.0  # for a port to answer; Ray itself tries for two minutes


class RefusalError(Exception):
    """Something is to be mended: what was expected, what was found, and how to mend it."""

    def __init__(self, expected: str, found: str, hint: str = "") -> None:
        super().__init__(found)
        self.answer = {"expected": expected, "found": found, "hint": hint}


def capacity(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> int:
    """Return how many workers the nodes of a cluster hold when nobody else is there.

    Arguments:
        nodes: The resources of each node, by Ray's names, e.g. ``CPU``.
        need: What one worker takes, on one node.
    """
    asked = {name: amount for name, amount in need.items() if amount > 0}
    # A share such as 0.1 fits ten times, whatever its last binary digit says.
    return sum(
        min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in asked.items())
        for node in nodes
    )


def _connect(address: str, runtime_env: Mapping[str, Any] | None) -> str:
    """Connect to a cluster and return the address that other hosts know it by.

    Arguments:
        address: As `ray.init` takes it.
        runtime_env: Of all actors: folders are sent to the cluster for a whole job alone.

    Raises:
        RefusalError: There is none, or it refuses.
    """
    import ray

    host, _, port = address.rpartition("://")[2].rpartition(":")
    expected = "the address of a Ray cluster that runs"
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise RefusalError(expected, f"{address}: {error.strerror or error}") from None
    try:
        ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, runtime_env=runtime_env
        )
    except (ConnectionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        if runtime_env and isinstance(error, TypeError | ValueError):
            raise _not_taken("launch.ray.runtime_env", error) from None
        hint = (
            f"see what answers there with `ray status --address={address}`: it may want a token"
            " (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH), or be of another"
            f" version than this Ray, {ray.__version__}"
        )
        if "ray[client]" in str(error):  # what ray:// needs
            hint = "pip install 'ray[client]'"
        raise RefusalError(expected, str(error).strip(), "" if address == AUTO else hint) from None
    return address if "://" in address else str(ray.get_runtime_context().gcs_address)


def _start(question: Mapping[str, Any], place: str) -> dict[str, Any]:
    import ray

    options = dict(question["actor"])
    need = {
        "CPU": options["num_cpus"],
        "GPU": options["num_gpus"],
        **options.get("resources", {}),
    }
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room, workers = capacity(nodes, need), question["workers"]
    if workers is None or (workers > room and not question["autoscaling"]):
        workers = workers or room
        if not 0 < workers <= room:
            raise _no_room(workers, need, nodes, room)
    kind = ray.remote(Tender)
    names = [f"{question['job']}-{number}" for number in range(workers)]
    actors: list[Any] = []
    try:
        for name in names:
            try:
                placed = kind.options(name=name, lifetime="detached", **options)
            except (TypeError, ValueError) as error:
                raise _not_taken("launch.ray.resources", error) from None
            actors.append(placed.remote(question["order"], name))
        refs = [actor.is_here.remote() for actor in actors]
        for ref in ray.wait(refs, num_returns=len(refs), timeout=question["seconds"])[0]:
            _raise_if_refused(ref)
    except BaseException:
        for actor in actors:
            ray.kill(actor, no_restart=True)
        raise
    return {"place": place, "workers": workers}


def _not_taken(key: str, error: Exception) -> RefusalError:
    return RefusalError(f"a value of {key} that Ray takes", str(error), f"change {key}")


def _no_room(
    workers: int, need: Mapping[str, float], nodes: Sequence[Mapping[str, float]], room: int
) -> RefusalError:
    totals = {
        name: sum(node.get(name, 0.0) for node in nodes)
        for name, amount in need.items()
        if amount > 0
    }
    asked = ", ".join(f"{amount:g} {name}" for name, amount in need.items() if amount > 0)
    there = ", ".join(f"{total:g} {name}" for name, total in totals.items())
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return RefusalError(
        f"a cluster that holds {max(workers, 1)} workers with {asked} each",
        f"room for {room}: {there} on {count}",
        "ask for fewer, with --workers N or in launch.ray; or, where the cluster gets nodes as"
        " they are asked for: -s launch.ray.autoscaling=true",
    )


def _raise_if_refused(ref: Any) -> None:
    """Raise what kept an actor from being made; one that has ended since was made.

    Raises:
        RefusalError: In Ray's words.
    """
    import ray
    from ray.exceptions import RayActorError, RayError, RuntimeEnvSetupError

    try:
        ray.get(ref)
    except RayError as error:
        made = isinstance(error, RayActorError) and not error.actor_init_failed
        if made and not isinstance(error, RuntimeEnvSetupError):
            return
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RefusalError(
            "a node on which a worker can be started",
            lines[-1],
            "install skiptune on every node, or name it in launch.ray.runtime_env; --logs names"
            " a folder that nodes can make",
        ) from None


def _list(question: Mapping[str, Any], place: str) -> dict[str, Any]:
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError

    refs = [actor.is_here.remote() for actor in _actors(question["job"])]
    if not refs:
        return {"waiting": 0, "running": 0}
    ready, waiting = ray.wait(refs, num_returns=len(refs), timeout=question["seconds"])
    counts = {"waiting": len(waiting), "running": 0}
    for ref in ready:
        try:
            ray.get(ref)
            counts["running"] += 1
        except ActorUnavailableError:
            counts["waiting"] += 1  # Ray is making it anew
        except RayActorError:
            pass  # it has ended meanwhile
    return counts


def _stop(question: Mapping[str, Any], place: str) -> dict[str, Any]:
    import ray

    for actor, answered in _asked_to_leave(question["job"], question["seconds"]):
        if not answered:
            ray.kill(actor, no_restart=True)  # it has no place yet, or none any more
    until = time.monotonic() + LAST_SECONDS + 5.0
    while (left := _actors(question["job"])) and time.monotonic() < until:
        time.sleep(0.2)
    for actor in left:
        ray.kill(actor, no_restart=True)
    return {"killed": len(left)}


def _asked_to_leave(job: str, seconds: float) -> list[tuple[Any, bool]]:
    """Ask every actor of a job to leave; return them, and whether each has understood."""
    import ray
    from ray.exceptions import RayActorError

    asked = {actor.leave.remote(): actor for actor in _actors(job)}
    if not asked:
        return []
    ready, _ = ray.wait([*asked], num_returns=len(asked), timeout=seconds)
    understood = set()
    for ref in ready:
        try:
            ray.get(ref)
            understood.add(ref)
        except RayActorError:
            pass
    return [(actor, ref in understood) for ref, actor in asked.items()]


def _actors(job: str) -> list[Any]:
    """Return the actors of a job that have not ended."""
    import ray

    found = []
    for name in ray.util.list_named_actors():
        if name.rpartition("-")[0] == job:
            try:
                found.append(ray.get_actor(name))
            except ValueError:
                pass  # it has ended between the two questions
    return found


_ANSWERS: Final[Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]]] = {
    "start": _start,
    "list": _list,
    "stop": _stop,
}


def _main(address: str) -> None:
    # Ray and what it loads write to the output too: answers have a copy of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    place: str | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if place is None:
                place = _connect(address, question.get("runtime_env"))
            answer = {"answer": _ANSWERS[question["do"]](question, place)}
        except RefusalError as refusal:
            answer = {"refusal": refusal.answer}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
