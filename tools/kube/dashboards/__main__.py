"""The command that writes the dashboards; see `kube.dashboards`."""

import argparse
import sys
from pathlib import Path

from workspace import ROOT

from kube.dashboards import DASHBOARDS, as_json

FOLDER = ROOT / "infra" / "grafana" / "dashboards"


def main() -> int:
    """Write the files, or with `--check` name those that differ; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kube.dashboards", description="Writes the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    check = parser.parse_args().check
    texts = {FOLDER / f"{name}.json": as_json(dashboard) for name, dashboard in DASHBOARDS.items()}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        _refresh(path, texts[path], check=check)
    return 1 if check and stale else 0


def _refresh(path: Path, text: str, *, check: bool) -> None:
    name = path.relative_to(ROOT)
    if check:
        print(f"{name} is not what kube.dashboards writes; run python -m kube.dashboards", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{name} written")


if __name__ == "__main__":
    sys.exit(main())
