"""Which Python on this host installs packages for a runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys

from engine.cli.output import CliError

RUNTIME_PREFIX = "python"


def own_runtime() -> str:
    """The runtime of the Python that runs this command."""
    return f"{RUNTIME_PREFIX}{sys.version_info.major}.{sys.version_info.minor}"


def interpreter_of(runtime: str) -> str | None:
    """Path of a Python of exactly this runtime's version, or None when the host has none."""
    if runtime == own_runtime():
        return sys.executable
    from engine.cli.session import settings_of
    from engine.sandbox.interpreters import discover

    found = discover(settings_of().runtimes).get(runtime)
    return str(found.path) if found is not None else shutil.which(runtime)


def has_pip(interpreter: str) -> bool:
    """Whether ``interpreter -m pip`` works."""
    probe = [interpreter, "-c", "import pip"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0  # noqa: S603 - a Python found here
    except OSError:
        return False


def pip_install(runtime: str, requirements: str, target: str) -> list[str]:
    """The pip command that installs ``requirements`` for ``runtime`` into ``target``.

    The runtime's own pip may build source packages; another Python's pip may only take wheels, since it would build them for
    itself. Raises CliError when no Python here has pip.
    """
    version = runtime.removeprefix(RUNTIME_PREFIX)
    common = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-input"]
    common += ["--requirement", requirements, "--target", target]
    interpreter = interpreter_of(runtime)
    if interpreter is not None and has_pip(interpreter):
        return [interpreter, *common]
    for other in (sys.executable, shutil.which("python3")):
        if other is not None and has_pip(other):
            return [other, *common, "--python-version", version, "--only-binary=:all:"]
    raise CliError(
        f"requirements.txt cannot be installed: no Python here has pip. Install it (python3 -m ensurepip, or the package "
        f"python3-pip), or deploy a zip that holds the dependencies of {runtime}."
    )
