"""What is shipped, and what a machine must not do to it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import PACKAGES, ROOT, files, modules

#: Longest module without a reason, in lines.
LONGEST = 400
#: Longer ones, each with why it is not two.
LONG: dict[str, str] = {
    "connectors/event.py": "the vocabulary: it is read first, and as a whole",
    "detector/fuse.py": "blame, trails, alerts and their end are one state machine, read from top to bottom",
    "connectors/ocsf.py": "one standard's attributes, written and read back: each way is checked against the other",
}

#: Modules that run what they read.
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}

#: Spelled apart, so that this file does not name them itself.
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("repo", "maven", "apache", "org"),
        ("repo1", "maven", "org"),
        ("deb", "debian", "org"),
        ("conda", "anaconda", "org"),
    )
)
#: A path below a folder where machines keep people's files and checkouts. An address (``host/home/``) or a word before it is none.
_MACHINE_PATH = re.compile(r"(?<![\w.$*~}/-])/(?:home|root|Users|work)/[\w.]")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def direct(config: dict[str, Any]) -> list[str]:
    """All requirements that the project states itself."""
    groups = [requirement for group in config["dependency-groups"].values() for requirement in group]
    return [*config["build-system"]["requires"], *config["project"]["dependencies"], *groups]


def loose(requirements: list[str]) -> list[str]:
    """Requirements that are not one name at one version, on all systems or on some."""
    return [each for each in requirements if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_]+( ; sys_platform [!=]= '\w+')?", each)]


def plain(name: str) -> str:
    """A distribution's name in the spelling that does not depend on who wrote it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(requirements: list[str]) -> dict[str, str]:
    return {plain(name): version for name, _, version in (each.partition(" ; ")[0].partition("==") for each in requirements)}


def owners(distributions: list[metadata.Distribution], names: set[str]) -> dict[str, set[str]]:
    """Top-level name -> the distributions that put a file there."""
    found: dict[str, set[str]] = {}
    for distribution in distributions:
        for file in distribution.files or ():
            top = file.parts[0].removesuffix(".py")
            if top in names:
                found.setdefault(top, set()).add(plain(distribution.metadata["Name"]))
    return found


def unsafe_imports(text: str) -> list[str]:
    """Imported modules of a source text that are in ``UNSAFE``, in whatever form the import stands."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.append(str(node.args[0].value))
    return [name for name in found if name.partition(".")[0] in UNSAFE]


def machine_traces(text: str) -> list[str]:
    """What in a text belongs to one machine or names a registry."""
    found = [host for host in REGISTRIES if host in text]
    found += [match.group() for match in _MACHINE_PATH.finditer(text)]
    if f"{ROOT}/" in text:
        found.append(str(ROOT))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as it is shipped, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    # uv tells the processes it starts where it lies.
    built = subprocess.run(  # noqa: S603 - our own build
        [os.environ.get("UV", "uv"), "build", "--wheel", "--quiet", "--out-dir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (made,) = out.glob("*.whl")
    return zipfile.ZipFile(made)


def test_the_wheel_holds_every_file_of_the_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {str(path.relative_to(ROOT)) for package in PACKAGES for path in files(ROOT / package)}
    assert shipped == ours


@pytest.mark.parametrize("data", ["detector/default.toml", "connectors/techniques.toml"])
def test_the_wheel_holds_the_data_that_is_read_at_run_time(wheel: zipfile.ZipFile, data: str) -> None:
    assert wheel.read(data) == (ROOT / data).read_bytes()


def test_the_wheel_holds_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    (about,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "tocsin = replay.cli:main" in wheel.read(f"{about}/entry_points.txt").decode()


def test_no_other_distribution_owns_one_of_our_top_level_names() -> None:
    found = owners(list(metadata.distributions()), set(PACKAGES))
    assert all(who == {"tocsin"} for who in found.values()), found


def test_a_distribution_that_brings_a_models_folder_is_noticed(tmp_path: Path) -> None:
    about = tmp_path / "rival-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (about / "RECORD").write_text("models/__init__.py,,\nrival.py,,\n")
    assert owners([metadata.Distribution.at(about)], set(PACKAGES)) == {"models": {"rival"}}


def command(*first: Path) -> subprocess.CompletedProcess[str]:
    """``tocsin sources`` in a process of its own, with some folders first on its path."""
    path = os.pathsep.join(str(each) for each in (*first, ROOT))
    start = "import sys; from replay.cli import main; sys.argv = ['tocsin', 'sources']; main()"
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-P", "-c", start],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_starts_where_its_packages_lie_beside_it() -> None:
    done = command()
    assert done.returncode == 0, done.stderr
    assert "zeek_conn" in done.stdout


@pytest.mark.parametrize("package", ["connectors", "detector", "models"])
def test_the_command_refuses_to_start_on_a_foreign_package_of_one_of_its_names(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('the foreign package was run')\n")
    done = command(tmp_path)
    assert done.returncode != 0
    assert f"package '{package}'" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "the foreign package was run" not in done.stderr
    assert "Traceback" not in done.stderr


def test_every_dependency_is_pinned_to_one_version() -> None:
    config = project()
    assert loose([*direct(config), *config["tool"]["uv"]["constraint-dependencies"]]) == []


@pytest.mark.parametrize(
    "requirement", ["numpy", "numpy>=2", "numpy==2.*", "numpy~=2.4", "numpy==2.4.6,<3", "numpy>=2 ; sys_platform == 'linux'"]
)
def test_a_requirement_that_leaves_a_choice_is_noticed(requirement: str) -> None:
    assert loose([requirement]) == [requirement]


def test_every_installed_package_has_the_version_that_the_project_names() -> None:
    config = project()
    named = pins([*direct(config), *config["tool"]["uv"]["constraint-dependencies"]])
    installed = {plain(each.metadata["Name"]): each.version for each in metadata.distributions()}
    del installed["tocsin"]
    assert {name: (version, named.get(name)) for name, version in installed.items() if named.get(name) != version} == {}


def test_the_lock_file_stays_out_of_git() -> None:
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()
    index = ROOT / ".git" / "index"
    if not index.is_file():
        pytest.skip("no checkout of git's: nothing is tracked")
    # Names stand in the index as they are, each closed by a zero byte.
    assert b"uv.lock\0" not in index.read_bytes()


def test_a_long_module_has_a_reason() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(*PACKAGES, "benchmarks")}
    assert {name: many for name, many in lines.items() if many > LONGEST and name not in LONG} == {}
    assert [name for name in LONG if name not in lines] == []


def test_nothing_imports_a_module_that_runs_what_it_reads() -> None:
    found = {str(path.relative_to(ROOT)): unsafe_imports(path.read_text()) for path in modules(*PACKAGES, "benchmarks")}
    assert {name: imports for name, imports in found.items() if imports} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import loads", "def f():\n    import joblib", "import dill as d", "x = import_module('pickle')"],
)
def test_an_import_of_pickle_in_whatever_form_is_noticed(text: str) -> None:
    assert unsafe_imports(text)


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = {}
    for path in files():
        try:
            traces = machine_traces(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            traces = machine_traces(path.read_bytes().decode("latin-1"))
        if traces:
            found[str(path.relative_to(ROOT))] = traces
    assert found == {}


def test_a_registry_or_a_machine_path_is_noticed() -> None:
    # Put together here, so that this file passes its own test.
    assert machine_traces("see https://" + "pypi" + ".org/simple")
    assert machine_traces("open('" + "/ho" + "me/alice/conn.log')")
    assert machine_traces(f"cd {ROOT}/tests")
    assert machine_traces("https://site.example/home/page, ../work/x, /var/log/home/x") == []
