"""What `kubectl apply -k` sends, for the few words of kustomize that docker/k8s uses.

Facts are those of the reference of kustomization files (kustomize.config.k8s.io/v1beta1).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["built"]

KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "images",
    "secretGenerator",
    "generatorOptions",
    "labels",
}


def built(folder: Path, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the objects that a folder describes.

    Arguments:
        folder: It holds `kustomization.yaml`.
        files: Contents of files that are not in the repository, by their path below the folder.
    """
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(said) <= KNOWN
    assert said.get("generatorOptions", {}).keys() <= {"disableNameSuffixHash"}
    found: list[dict[str, Any]] = []
    for name in said["resources"]:
        # Dumped once more, so that what YAML's anchors share is no longer one object.
        for item in yaml.safe_load_all((folder / name).read_text()):
            found.append(yaml.load(yaml.dump(item, Dumper=_NoAliases), yaml.SafeLoader))
    for secret in said.get("secretGenerator", ()):
        assert set(secret) == {"name", "files"}
        data = {
            Path(path).name: base64.b64encode(files[path].encode()).decode()
            for path in secret["files"]
        }
        named = {"name": secret["name"]}
        found.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": named, "type": "Opaque"}
            | {"data": data}
        )
    for item in found:
        item["metadata"]["namespace"] = said["namespace"]
        for label in said.get("labels", ()):
            item["metadata"].setdefault("labels", {}).update(label["pairs"])
        for container in _containers(item):
            for image in said.get("images", ()):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['name']}:{image['newTag']}"
    return found


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _containers(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    pod = item.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]
