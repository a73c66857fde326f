"""What is made of other files says what they say."""

from pathlib import Path

import pytest
import yaml
from kube import generate

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "infra/collector"


@pytest.mark.parametrize("path", [generate.RULE_FILE, generate.COLLECTOR_FILE], ids=str)
def test_a_generated_file_equals_a_fresh_run(path: Path) -> None:
    """A change of the source is a change of the file: `python -m kube.generate`."""
    assert (ROOT / path).read_text() == generate.generated(ROOT)[path]


def test_every_rule_is_in_a_prometheusrule() -> None:
    """The operator's Prometheus knows the groups that the platform's knows, as they are."""
    files = sorted((ROOT / "infra/prometheus/rules").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rules = list(yaml.safe_load_all((ROOT / generate.RULE_FILE).read_text()))

    assert groups
    assert [group for rule in rules for group in rule["spec"]["groups"]] == groups


def test_the_operator_gets_the_collector_as_it_is() -> None:
    """Configuration, image and limits are those of the Deployment, and the name makes the same Service."""
    resource = yaml.safe_load((ROOT / generate.COLLECTOR_FILE).read_text())
    pod = yaml.safe_load((COLLECTOR / "deployment.yaml").read_text())["spec"]["template"]
    (container,) = pod["spec"]["containers"]

    assert resource["spec"]["config"] == yaml.safe_load((COLLECTOR / "config/collector.yaml").read_text())
    assert resource["spec"]["image"] == container["image"]
    assert resource["spec"]["resources"] == container["resources"]
    assert resource["spec"]["env"] == container["env"]
    assert f"{resource['metadata']['name']}-collector" == container["name"]
    assert (
        resource["metadata"]["labels"]["app.kubernetes.io/name"] == pod["metadata"]["labels"]["app.kubernetes.io/name"]
    )


def test_check_names_the_file_that_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` says which file is stale and how to renew it, and leaves it alone; without it the file is written."""
    for folder in (generate.RULES, generate.COLLECTOR / "config"):
        (tmp_path / folder).mkdir(parents=True)
        for file in (ROOT / folder).glob("*.yaml"):
            (tmp_path / folder / file.name).write_text(file.read_text())
    (tmp_path / generate.COLLECTOR / "deployment.yaml").write_text((COLLECTOR / "deployment.yaml").read_text())
    for path in (generate.RULE_FILE, generate.COLLECTOR_FILE):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("")
    monkeypatch.setattr(generate, "ROOT", tmp_path)

    assert generate.main(["--check"]) == 1
    assert f"{generate.RULE_FILE}: out of date, run python -m kube.generate" in capsys.readouterr().out
    assert (tmp_path / generate.RULE_FILE).read_text() == ""
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
