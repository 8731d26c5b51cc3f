"""The AWS SDK for JavaScript that Node.js functions find without bringing it, as on Lambda: where it is, what it holds, how it gets there.

Lambda's runtimes carry hundreds of packages. Here those most in use are installed on request, by npm, from its registry, into the cache directory
that all engines of a user share; others are added by name. Every set is a directory of its own that never changes, and ``current`` is a link to
the one in use, so that engines that run see a new one at once and functions that run keep theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

# Below the cache directory, and below /var/runtime.
DIRECTORY = "nodejs-sdk"
CURRENT = "current"
COMMAND = "lambda-engine runtimes install nodejs-sdk"
_CLIENTS = (
    "apigatewaymanagementapi", "cloudwatch", "cloudwatch-logs", "cognito-identity-provider", "dynamodb", "eventbridge", "firehose", "iam", "kinesis",
    "kms", "lambda", "rds-data", "s3", "scheduler", "secrets-manager", "ses", "sesv2", "sfn", "sns", "sqs", "ssm", "sts",
)  # fmt: skip
_OTHERS = ("credential-providers", "lib-dynamodb", "lib-storage", "s3-presigned-post", "s3-request-presigner", "util-dynamodb")
PACKAGES = tuple(f"@aws-sdk/{name}" for name in (*(f"client-{c}" for c in _CLIENTS), *_OTHERS))
_NAME = re.compile(r"@(aws-sdk|smithy)/[a-z0-9][a-z0-9._-]*")
# Types and maps are for editors: three quarters of the files, two thirds of the bytes.
_NOT_RUN = (".d.ts", ".d.mts", ".d.cts", ".map", ".md", ".tsbuildinfo")
_BUILDING = ".building-"
_TIMEOUT_S = 900.0


class SdkError(Exception):
    """It cannot be installed; the text says why, and what npm said."""


def home(cache_dir: Path) -> Path:
    """Where the sets are."""
    return cache_dir / DIRECTORY


def installed(cache_dir: Path) -> dict[str, str]:
    """Package to version of what was asked for; empty when nothing is installed."""
    try:
        found: dict[str, str] = json.loads((home(cache_dir) / CURRENT / "installed.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def install(cache_dir: Path, packages: Iterable[str] = (), npm: str | None = None) -> dict[str, str]:
    """Install the newest of the usual packages, of those installed before and of ``packages``; their versions. Blocks for a minute or so.

    Raises SdkError, and OSError when the disk fails.
    """
    wanted = sorted({*PACKAGES, *installed(cache_dir), *packages})
    wrong = [name for name in wanted if not _NAME.fullmatch(name)]
    if wrong:
        raise SdkError(f"{wrong[0]} is not a package of the AWS SDK: their names begin with @aws-sdk/ or @smithy/")
    program = npm or shutil.which("npm")
    if program is None:
        raise SdkError("npm is not on PATH: install Node.js with it")
    root = home(cache_dir)
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _alone(root):
        building = root / f"{_BUILDING}{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            return _take_over(root, building, _fetch(building, wanted, program))
        finally:
            shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One at a time: whoever takes over clears away what else lies there."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _fetch(building: Path, wanted: list[str], npm: str) -> dict[str, str]:
    (building / "package.json").write_text(json.dumps({"private": True, "dependencies": dict.fromkeys(wanted, "latest")}))
    # Scripts of packages are not run: the SDK has none that it needs.
    words = [npm, "install", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=1"]
    try:
        done = subprocess.run(  # noqa: S603 - npm, with words of our own
            words, cwd=building, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as e:
        raise SdkError(f"npm did not end within {_TIMEOUT_S:.0f} s") from e
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise SdkError("npm could not fetch the packages: " + (" | ".join(said[:4]) or f"status {done.returncode}"))
    modules = building / "node_modules"
    versions = {name: str(json.loads((modules / name / "package.json").read_bytes())["version"]) for name in wanted}
    (building / "installed.json").write_text(json.dumps(versions))
    return versions


def _take_over(root: Path, building: Path, versions: dict[str, str]) -> dict[str, str]:
    """Make what was fetched the set in use; of older ones, keep that which was in use until now."""
    _prune(building)
    name = hashlib.sha256((building / "package-lock.json").read_bytes()).hexdigest()[:20]
    target, current = root / name, root / CURRENT
    before = os.path.realpath(current)
    if not target.is_dir():
        building.rename(target)
    link = root / f"{_BUILDING}link"
    link.unlink(missing_ok=True)
    # Relative: functions see it elsewhere.
    link.symlink_to(name)
    link.replace(current)
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink() and path != target and os.fspath(path) != before:
            shutil.rmtree(path, ignore_errors=True)
    return versions


def _prune(folder: Path) -> None:
    """Leave out what is never run, and let every function read the rest."""
    for path, folders, files in os.walk(folder):
        for name in [f for f in folders if f in ("dist-types", ".bin")]:
            shutil.rmtree(os.path.join(path, name), ignore_errors=True)
            folders.remove(name)
        os.chmod(path, 0o755)
        for name in files:
            full = os.path.join(path, name)
            if name.endswith(_NOT_RUN):
                os.unlink(full)
            elif not os.path.islink(full):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(full, 0o644)
