"""What a user gets from pip: light to import, typed, complete."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zmqdist

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {"gensim", "matplotlib", "pyspark", "scipy", "sklearn", "torch", "tqdm"}

# Run with -I, so that only the directory given can come before what is installed; tells
# the version found there and every module that `import zmqdist` loads, with its file.
PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import zmqdist
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps([zmqdist.__version__, files]))
"""


def probe(directory):
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, str(directory)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install a wheel, built from a copy: a build leaves its rubbish in the tree."""
    tree, wheels, target = (tmp_path_factory.mktemp(name) for name in ("tree", "wheels", "target"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "zmqdist", tree / "zmqdist")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, tree)
    pip("install", "--no-deps", "--no-index", "--target", target, *wheels.iterdir())
    return target


def test_import_needs_only_the_core():
    _, files = probe(ROOT)
    assert {name.partition(".")[0] for name in files} & HEAVY == set()


def test_version_is_the_one_in_the_metadata():
    assert zmqdist.__version__ == importlib.metadata.version("zmqdist")


def test_wheel_works_without_the_source_tree(installed):
    version, files = probe(installed)
    assert version == zmqdist.__version__
    ours = [file for name, file in files.items() if name.partition(".")[0] == "zmqdist"]
    assert all(Path(file).is_relative_to(installed) for file in ours), ours


def test_wheel_holds_every_module_and_the_type_marker(installed):
    package = installed / "zmqdist"
    shipped = {path.relative_to(package) for path in package.rglob("*.py")}
    assert shipped == {path.relative_to(ROOT / "zmqdist") for path in ROOT.glob("zmqdist/**/*.py")}
    assert (package / "py.typed").is_file()
