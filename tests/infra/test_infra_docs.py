"""The commands in the pages about Kubernetes: no cluster runs them here, but what they name has to be there."""

import re
from functools import cache
from pathlib import Path

import pytest
from kube.objects import metadata_name, namespace
from kube.render import INFRA, deployments
from workspace import ROOT

PAGES = (ROOT / "README.md", ROOT / "docs" / "opentelemetry.md", *sorted(INFRA.rglob("README.md")))
_LINES = re.compile(r"^ *((?:kubectl|docker|kind|\./hatchw) .*)$", re.MULTILINE)
_QUOTED = re.compile(r"`((?:kubectl|docker|kind|\./hatchw) [^`]*)`")
_FOLDER = re.compile(r" (?:-k|-f) (infra/[\w./<>-]+)")
_NAMED = re.compile(r"-n (\w+) .*\b(service|deployment|statefulset|configmap)/([\w-]+)")
KINDS = {"service": "Service", "deployment": "Deployment", "statefulset": "StatefulSet", "configmap": "ConfigMap"}


def commands(page: Path) -> list[str]:
    """Return the commands of a page, in blocks and in lines, without their comments."""
    text = page.read_text().replace("\\\n", " ")
    found = _LINES.findall(text) + [" ".join(each.split()) for each in _QUOTED.findall(text)]
    return [each.partition(" #")[0].strip() for each in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_folders_and_objects_of_commands_exist(page: Path) -> None:
    """Each folder that is applied has a kustomization or manifests, and each object named is in an overlay."""
    there = _everything()
    for command in commands(page):
        for folder in _FOLDER.findall(command):
            assert _exists(folder), f"{command}: no {folder}"
        for space, kind, name in _NAMED.findall(command):
            assert (space, KINDS[kind], name) in there, f"{command}: no {kind} {name} in {space}"


def test_the_pages_have_commands() -> None:
    """So that the test above looks at something."""
    assert sum(len(commands(page)) for page in PAGES) > 30


@cache
def _everything() -> set[tuple[str, str, str]]:
    objects = [each for unit in deployments() for each in unit.unit().objects]
    return {(namespace(each), each["kind"], metadata_name(each)) for each in objects}


def _exists(folder: str) -> bool:
    """Tell whether a folder is there; a part in angle brackets stands for each that may be put there."""
    found = list(ROOT.glob(re.sub(r"<[^>]+>", "*", folder)))
    return bool(found) and all(any(each.glob("*.yaml")) for each in found if each.is_dir())
