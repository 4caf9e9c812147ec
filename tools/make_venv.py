"""Makes or refreshes a virtual environment from a hash-locked requirements file.

Usage: python3 tools/make_venv.py VENV REQUIREMENTS STAMP

Runs under whatever Python the machine has, also one that is too old, so that the mistake is
one sentence and not a syntax error: nothing newer than Python 3.6 is used here. Two copies
that start at once in one checkout take turns.
"""

import os
import shutil
import subprocess
import sys
from typing import IO, NoReturn

OLDEST = (3, 11)


def main(venv: str, requirements: str, stamp: str) -> None:
    if sys.version_info < OLDEST:
        fail(
            f"Headgate needs Python 3.11 or newer, but {sys.executable} is {sys.version.split()[0]}: "
            "install a newer one, or name it with `make PYTHON=python3.12 ...`."
        )
    wanted = read(requirements)
    with turn(venv + ".lock"):
        if not usable(venv):
            print(f"Making {venv} from {requirements}, once; this takes half a minute.", flush=True)
            create(venv)
        elif read(stamp) == wanted:
            os.utime(stamp)
            return
        else:
            print(f"Bringing {venv} up to {requirements}.", flush=True)
        install(venv, requirements)
        with open(stamp, "w") as file:
            file.write(wanted)


def turn(path: str) -> IO[str]:
    """A lock that is free again as soon as its holder is gone, however it went."""
    file = open(path, "w")  # noqa: SIM115
    try:
        import fcntl
    except ImportError:
        return file
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def usable(venv: str) -> bool:
    """Whether the environment has a Python that still runs and is new enough."""
    check = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.call([python_of(venv), "-c", check], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def create(venv: str) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", venv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        fail("Python's venv module does not work here: on Debian and Ubuntu, `apt-get install python3-venv` brings it.")


def install(venv: str, requirements: str) -> None:
    pip = [python_of(venv), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    # --no-deps: the lock is the whole answer, so nothing is resolved again.
    if subprocess.call([*pip, "--require-hashes", "--no-deps", "-r", requirements]):
        fail(f"The packages of {requirements} could not be installed: pip says why above.")


def python_of(venv: str) -> str:
    return os.path.join(venv, "bin", "python")


def read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def fail(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
