"""What is rendered and how it fails."""

from pathlib import Path

import pytest
from kube.objects import title
from kube.render import INFRA, RenderError, deployments, environment, load, render


def kustomization(folder: Path, text: str) -> Path:
    """Make a folder with a kustomization."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(text)
    return folder


def test_a_kustomization_gives_its_objects(tmp_path: Path) -> None:
    """With the name that its generator makes."""
    folder = kustomization(tmp_path, "configMapGenerator: [{name: settings, literals: [a=b]}]\n")

    assert [title(thing).rpartition("-")[0] for thing in render(folder)] == ["ConfigMap default/settings"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resources: [absent.yaml]\n", "absent.yaml"),
        ("nonsense: 1\n", "nonsense"),
        ("patches: [{path: absent.yaml}]\n", "absent.yaml"),
    ],
)
def test_a_kustomization_that_does_not_render_says_why_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    """The folder and kustomize's own reason."""
    with pytest.raises(RenderError) as error:
        render(kustomization(tmp_path, text))

    assert str(error.value).startswith(f"{tmp_path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_yaml_is_read_with_its_lists(tmp_path: Path) -> None:
    """Several documents, empty ones and Lists among them."""
    (tmp_path / "b.yml").write_text("---\n---\nkind: Secret\napiVersion: v1\nmetadata: {name: b}\n")
    (tmp_path / "a.yaml").write_text(
        "kind: List\napiVersion: v1\nitems:\n- {kind: Namespace, apiVersion: v1, metadata: {name: a}}\n"
    )

    assert sorted(map(title, load(tmp_path))) == ["Namespace a", "Secret default/b"]


def test_everything_in_infra_is_found() -> None:
    """No folder with a kustomization is left out but those that others build on."""
    names = {each.name for each in deployments()}

    for overlay in ("local", "dev", "prod"):
        assert {f"overlays/{overlay}{unit}" for unit in ("", "/platform", "/http", "/grpc")} <= names
    assert {"namespaces", "examples/minimal"} <= names
    components = {
        path.parent.relative_to(INFRA / "components") for path in INFRA.glob("components/**/kustomization.yaml")
    }
    own = {path.parts[0] for path in components} - {"examples"}
    assert own == {name.split("/")[2] for name in names if name.startswith("components/")}


def test_a_unit_is_judged_beside_the_others_of_its_cluster_and_no_more() -> None:
    """What is deployed alone refers to what the other units bring."""
    units = {each.name: each for each in deployments()}

    assert {folder.name for folder in units["overlays/prod/http"].beside} == {"namespaces", "platform", "grpc"}
    assert units["overlays/prod/http"].production
    assert not units["overlays/local/http"].production
    assert {folder.name for folder in units["overlays/prod"].beside} == {"namespaces"}


def test_an_environment_is_its_units_and_the_namespaces() -> None:
    """The three that can be deployed alone; together they are the whole."""
    assert [each.name for each in environment("local")] == [
        "namespaces",
        "overlays/local/grpc",
        "overlays/local/http",
        "overlays/local/platform",
    ]


def test_the_example_of_a_component_is_on_an_overlay(tmp_path: Path) -> None:
    """Where it names none there is nothing to judge it beside."""
    example = kustomization(tmp_path / "components/examples/spare/local", "resources: [../../../spare]\n")

    with pytest.raises(
        RenderError, match=f"^{example}: found no overlay in resources, expected one, such as overlays/prod/"
    ):
        deployments(tmp_path)
