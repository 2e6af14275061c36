"""Ray: one detached actor per worker, which Ray makes anew where its node or process is lost.

Facts are those of Ray's documentation of named actors, of actor fault tolerance and of
`ray.init`: a detached actor outlives who has made it; `max_restarts` is how often Ray makes it
anew.
"""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Final

from skiptune.errors import LaunchError
from skiptune.launch import ray_driver
from skiptune.launch.companion import Companion, CompanionError
from skiptune.launch.executor import Counts, Job, Plan, program
from skiptune.launch.programs import SECONDS
from skiptune.storage.location import DEFAULT_URL, FILE_VARIABLE, URL_VARIABLE

if TYPE_CHECKING:
    from skiptune.storage.records import Launch

__all__ = ["RayCluster"]

START_SECONDS: Final = 15.0  # in which actors that have a place are made
ANSWER_SECONDS: Final = 3.0  # in which an actor that has a place answers


class RayCluster:
    """Workers as actors of a Ray cluster."""

    name: ClassVar[str] = "ray"

    def __init__(self) -> None:
        self._drivers: dict[str, Companion] = {}

    def text(self, plan: Plan) -> str:
        """Return what Ray is asked for, as YAML."""
        import yaml

        asked = {"address": _address(plan), **_asked(plan)}
        return str(yaml.safe_dump(asked, sort_keys=False, width=99))

    def start(self, plan: Plan) -> Job:
        """Make the actors, and wait a moment for those that have a place."""
        asked = _asked(plan)
        question = {"do": "start", "seconds": START_SECONDS, **asked}
        answer = self._ask(_address(plan), question)
        return Job(str(answer["place"]), asked["job"], int(answer["workers"]))

    def list(self, launch: Launch) -> Counts | None:
        """Count the actors; those without a place, or that are being made anew, wait."""
        answer = self._ask(launch.place, _question("list", launch))
        return Counts(int(answer["waiting"]), int(answer["running"]))

    def stop(self, launch: Launch) -> None:
        """Let each actor ask its worker to leave, and wait until all have ended."""
        self._ask(launch.place, _question("stop", launch))

    def _ask(self, address: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask the cluster at an address.

        Raises:
            LaunchError: Ray is not installed here, or the cluster refuses or does not answer.
        """
        if find_spec("ray") is None:
            raise LaunchError(
                "--executor ray",
                expected="the package ray, in the version of the cluster",
                found="not installed",
                hint="pip install 'skiptune[ray]', or see what would be asked with --dry-run",
            )
        driver = self._drivers.get(address)
        if driver is None:
            words = [*program()[:-1], ray_driver.__name__, address]
            driver = self._drivers[address] = Companion(words)
        try:
            answer = driver.ask(question, seconds=SECONDS)
        except CompanionError as error:
            self._drivers.pop(address).close()
            raise _refused(address, {"found": str(error)}) from None
        if "refusal" in answer:
            raise _refused(address, answer["refusal"])
        found: dict[str, Any] = answer["answer"]
        return found


def _question(do: str, launch: Launch) -> dict[str, Any]:
    return {"do": do, "job": launch.job, "seconds": ANSWER_SECONDS}


def _address(plan: Plan) -> str:
    return plan.spec.ray.address or os.environ.get("RAY_ADDRESS") or ray_driver.AUTO


def _asked(plan: Plan) -> dict[str, Any]:
    """Return what the cluster is asked for, apart from its address.

    Raises:
        LaunchError: A GPU is wanted and none asked for, or the URL has a password in it.
    """
    spec = plan.spec.ray
    carried = plan.carried()
    if not carried.keys() & {URL_VARIABLE, FILE_VARIABLE}:
        carried[URL_VARIABLE] = DEFAULT_URL  # whatever the variables of the node say
    actor: dict[str, Any] = {
        "num_cpus": spec.cpus,
        "num_gpus": spec.gpus,
        "resources": spec.resources or {},
        "max_restarts": spec.restarts,
    }
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return {
        "job": f"{plan.study}-{stamp}-{os.getpid()}",
        "workers": plan.workers,
        "autoscaling": spec.autoscaling,
        "actor": actor,
        "runtime_env": spec.runtime_env,
        "order": {
            "words": plan.worker_words(_device(plan)),
            "environment": {
                "OMP_NUM_THREADS": str(spec.cpus),
                "GOMP_SPINCOUNT": "0",
                "PYTHONUNBUFFERED": "1",
                "SKIPTUNE_NO_PROGRESS": "1",
                **carried,
            },
            "logs": str(plan.logs),
            "folder": None if "working_dir" in (spec.runtime_env or {}) else os.getcwd(),
        },
    }


def _device(plan: Plan) -> str:
    asks = bool(plan.spec.ray.gpus)
    found, setting = "launch.ray.gpus: 0", "launch.ray.gpus=1"
    return plan.device_on("Ray", asks=asks, found=found, setting=setting)


def _refused(address: str, refusal: dict[str, str]) -> LaunchError:
    where = "Ray on this machine" if address == ray_driver.AUTO else f"Ray at {address}"
    return LaunchError(
        where,
        expected=refusal.get("expected") or "a cluster that answers",
        found=refusal["found"],
        hint=refusal.get("hint")
        or "start one with `ray start --head`, or name it: -s launch.ray.address=HOST:6379",
    )
