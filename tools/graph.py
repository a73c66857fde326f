"""
Write the build graph into BUILD.md, between its two markers.

It is derived from hatch.toml and the members' pyproject.toml, so that the page cannot drift: a test runs `--check`.
"""

import re
import sys
from collections.abc import Sequence

from workspace import ROOT, Environment, Member, environments, members

PAGE = ROOT / "BUILD.md"
BEGIN, END = "<!-- graph: begin (./hatchw run graph) -->\n", "<!-- graph: end -->\n"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the page; with `--check` leave it alone and return 1 if that would change it."""
    before = PAGE.read_text()
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    after = f"{head}{BEGIN}{graph()}{END}{tail}"
    if "--check" in arguments:
        print("graph: BUILD.md is true" if after == before else "graph: out of date, run ./hatchw run graph")
        return int(after != before)
    PAGE.write_text(after)
    return 0


def graph() -> str:
    """Return the generated part: who needs whom, what goes into each package and what comes out."""
    edges = [f"  {member.package} --> {sibling}" for member in members() for sibling in siblings(member)]
    picture = "\n".join(["```mermaid", "graph TD", *edges, "```"])
    packages = table(
        ("Package", "Folder", "Needs", "Inputs, beside what it needs", "Outputs in `dist/`", "Tag"),
        [package_row(member) for member in members()],
    )
    where = table(("Environment", "Lock", "Packages"), [environment_row(each) for each in environments().values()])
    return f"\n{picture}\n\n{packages}\n{where}\n"


def siblings(member: Member) -> list[str]:
    """Return the import names of the members that *member* depends on."""
    needs = {re.split(r"[^a-z0-9-]", need)[0] for need in member.project["dependencies"]}
    return [other.package for other in members() if other.name in needs]


def package_row(member: Member) -> tuple[str, ...]:
    """Return what the table of packages says about one."""
    inputs = code(*member.inputs, "locks/build.txt")
    stem = f"{member.package}-{member.version}"
    outputs = code(f"{stem}.tar.gz", f"{stem}-py3-none-any.whl")
    return (
        code(member.name),
        code(str(member.folder)),
        code(*siblings(member)) or "nothing",
        inputs,
        outputs,
        code(member.tag),
    )


def environment_row(environment: Environment) -> tuple[str, ...]:
    """Return what the table of environments says about one."""
    lock = code(f"locks/{environment.lock}.txt")
    return (code(environment.name), lock, code(*(member.removeprefix("./") for member in environment.members)))


def code(*words: str) -> str:
    """Return words in code type."""
    return ", ".join(f"`{word}`" for word in words)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
