"""The shape of the house: who may import whom, what lies where, what a plug-in is."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import PACKAGES, ROOT, ignored, modules

#: What lies at the top of the checkout, all of it.
TOP = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "benchmarks",
    "connectors",
    "deploy",
    "detector",
    "docker-compose.yml",
    "docs",
    "models",
    "pyproject.toml",
    "replay",
    "tests",
}

#: What each layer may import of ours. The contract in pyproject.toml says the same to import-linter.
ALLOWED = {
    "connectors": {"connectors"},
    "models": {"models"},
    "detector": {"connectors", "models", "detector"},
    "replay": {"connectors", "models", "detector", "replay"},
}

#: Folder of plug-ins -> the name under which each file of it offers its plug-in.
PLUGINS = {"connectors/sources": "SOURCE", "connectors/containment": "ADAPTER", "models/signals": "LEARNER"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over a checkout."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def imported(text: str) -> set[str]:
    """Top-level names that a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def assigned(path: Path) -> set[str]:
    """Names that a module assigns at its top level."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def not_plugins(folder: Path, name: str) -> list[str]:
    """Files of a plug-in folder that are neither private nor offer a plug-in under ``name``."""
    public = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    return [path.name for path in public if name not in assigned(path)]


def test_the_contract_on_imports_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(("where", "line"), [("models", "import detector.fuse"), ("connectors", "from models import kernels")])
def test_an_import_against_the_order_breaks_the_contract(tmp_path: Path, where: str, line: str) -> None:
    for folder in (*PACKAGES, "benchmarks", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / where / "wrong.py").write_text(f"{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert "imports run one way BROKEN" in done.stdout
    assert f"{where}.wrong" in done.stdout


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_of_ours_only_what_its_layer_may(package: str) -> None:
    ours = {*PACKAGES, "benchmarks", "tests"}
    found = {str(path.relative_to(ROOT)): imported(path.read_text()) & ours - ALLOWED[package] for path in modules(package)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_a_deferred_import_counts_as_one() -> None:
    assert imported("def f():\n    from models.kernels import passed\n    import detector.fuse as d\n") == {"models", "detector"}


def test_the_top_of_the_checkout_holds_what_the_architecture_names_and_no_more() -> None:
    assert {path.name for path in ROOT.iterdir() if not ignored(path)} == TOP


@pytest.mark.parametrize(("folder", "name"), PLUGINS.items())
def test_a_plug_in_folder_is_its_contract_and_plug_ins(folder: str, name: str) -> None:
    contract = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert "**The contract.**" in contract
    assert not_plugins(ROOT / folder, name) == []


@pytest.mark.parametrize("folder", PLUGINS)
def test_no_plug_in_is_listed_by_name_in_its_contract(folder: str) -> None:
    plugins = {path.stem for path in (ROOT / folder).glob("*.py") if not path.name.startswith("_")}
    tree = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert plugins
    assert not plugins & texts
    assert not any(isinstance(node, ast.ImportFrom) and node.module in plugins for node in ast.walk(tree))


def test_a_file_without_a_plug_in_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("class Good: ...\nSOURCE = Good\n")
    (tmp_path / "_shared.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_text("def f():\n    SOURCE = None\n")
    assert not_plugins(tmp_path, "SOURCE") == ["bad.py"]
