"""Promise: docs/fidelity.md says what the records in docs/evidence say, and `report --check` notices if it does not."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from unittest import mock

from support import PLANS, ROOT, record, records
from trials.experiments import Method, identity
from trials.machine import describe
from trials.records import Mismatch, Records
from trials.running import Runner, remaining
from trials.tables import title

PROGRAM = ROOT / "benches/evidence.py"
BLOCKS = "".join(f"<!-- evidence: {name} -->\n<!-- /evidence -->\n" for name in ("claims", "shares", *PLANS))
RUNS = {"none": [50.0, 51.0, 50.5], "kd": [52.0, 53.1, 52.6], "sdd_kd": [54.0, 55.2, 54.5], "dkd": [55.0, 55.5, 55.2],
        "sdd_dkd": [53.0, 53.4, 53.1], "nkd": [50.0, 52.0, 51.0], "sdd_nkd": [51.0, 51.5, 50.5]}


def evidence(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True)


class Report(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.document = self.directory / "document.md"
        self.document.write_text(f"# Title\n\n{BLOCKS}\nThe end.\n")
        self.records = self.directory / "records"
        self.records.mkdir()

    def report(self, *arguments):
        return evidence("report", "--records", self.records, "--document", self.document, *arguments)

    def written(self):
        done = self.report()
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.document.read_text()

    def test_the_document_of_the_repository_says_what_its_records_say(self):
        done = evidence("report", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_check_fails_until_the_report_is_written_and_again_after_another_run(self):
        made = records(self.records / "cifar100.json", "cifar100", RUNS)
        before = self.document.read_text()
        self.assertIn("is not what the records say", self.report("--check").stderr)
        self.assertEqual(self.document.read_text(), before)
        self.written()
        self.assertEqual(self.report("--check").returncode, 0)
        made.records.pop()
        made.path.write_text(made.text())
        self.assertEqual(self.report("--check").returncode, 1)

    def test_check_notices_an_edited_figure_and_a_missing_plot(self):
        records(self.records / "cifar100.json", "cifar100", RUNS)
        text = self.written()
        self.document.write_text(text.replace("54.57 ± 0.60", "55.57 ± 0.60"))
        self.assertEqual(self.report("--check").returncode, 1)
        self.assertEqual(self.written(), text)
        (self.records / "cifar100.svg").unlink()
        self.assertIn("cifar100.svg is not what", self.report("--check").stderr)

    def test_each_claim_holds_does_not_hold_is_open_or_was_not_tried(self):
        records(self.records / "cifar100.json", "cifar100", RUNS)
        lines = self.written().splitlines()
        said = lambda claim: next(line.split(" | ")[-1] for line in lines if line.startswith(f"| {claim}"))
        self.assertEqual(said("Regions improve KD |"), "**holds**, 3 seeds |")
        self.assertEqual(said("Regions improve DKD |"), "**does not hold**: the opposite does, 3 seeds |")
        self.assertEqual(said("Regions improve NKD |"), "not decided by 3 seeds |")
        self.assertEqual(said("Regions improve KD on fine-grained"), "not tried |")

    def test_an_experiment_without_runs_says_how_to_make_them(self):
        text = self.written()
        self.assertIn("Not run yet: `benches/evidence.py run imagewoof`.", text)
        self.assertTrue(text.startswith("# Title\n") and text.endswith("\nThe end.\n"))

    def test_the_plot_is_svg_with_a_line_and_a_band_for_each_loss(self):
        records(self.records / "cifar100.json", "cifar100", RUNS)
        self.written()
        root = xml.etree.ElementTree.parse(self.records / "cifar100.svg").getroot()
        words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertEqual([word for word in words if " − " in word],
                         ["SD-KD − KD", "SD-DKD − DKD", "SD-NKD − NKD"])
        self.assertIn("epoch", words)
        bands = [node for node in root.iter("{http://www.w3.org/2000/svg}path") if node.get("fill-opacity")]
        self.assertEqual(len(bands), 3)

    def test_records_without_a_place_in_the_document_are_refused(self):
        records(self.records / "another.json", "cifar100", RUNS)
        self.assertIn("no place for records of another", self.report().stderr)

    def test_a_damaged_file_of_records_is_named(self):
        (self.records / "cifar100.json").write_text("{")
        self.assertIn("cifar100.json is no file of records", self.report().stderr)

    def test_an_open_marker_is_refused(self):
        self.document.write_text("<!-- evidence: claims -->\n")
        self.assertIn("needs a <!-- /evidence -->", self.report().stderr)


class Runs(unittest.TestCase):
    def test_a_run_is_recognised_whatever_it_is_called_and_wherever_its_teacher_is(self):
        experiment = PLANS["cifar100"].experiment
        teacher = identity(experiment.teacher_document())
        document = experiment.document("sdd_kd", 1)
        elsewhere = {**document, "name": "another", "labels": {"a": "b"}, "teacher": {"checkpoint": "ckpt_1"}}
        self.assertEqual(identity(document, teacher), identity(elsewhere, teacher))
        others = [experiment.document("sdd_kd", 2), experiment.document("kd", 1), experiment.document("sdd_kd+ls", 1)]
        hashes = {identity(of, teacher) for of in [document, *others]} | {identity(document, "another teacher")}
        self.assertEqual(len(hashes), 5)
        alone = experiment.document("none", 1)
        self.assertEqual(identity(alone, teacher), identity(alone, "another teacher"))

    def test_methods_are_read_and_others_refused(self):
        self.assertEqual(Method.parse("sdd_kd+ls:1,2,4"), Method("sdd_kd", True, (1, 2, 4)))
        self.assertEqual(title("sdd_kd+ls:1,2,4"), "SD-KD + LS {1, 2, 4}")
        for text in ("crd", "kd:1,2", "none+ls", "sdd_kd:", "sdd_kd:1,", "sdd_kd+xx"):
            with self.assertRaises(ValueError, msg=text):
                Method.parse(text)

    def test_a_file_takes_no_runs_of_another_experiment(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "cifar100.json"
            made = records(path, "cifar100", RUNS)
            self.assertEqual(Records.open(path, "cifar100", made.settings).records, made.records)
            with self.assertRaisesRegex(Mismatch, "epochs 60, not 30"):
                Records.open(path, "cifar100", {**made.settings, "epochs": 30})

    def test_runs_go_seed_by_seed(self):
        runner = Runner(None, PLANS["cifar100"].experiment, None, ("none", "kd"), 2, teachers=None, poll=1)
        self.assertEqual([run[:2] for run in runner.wanted], [("none", 0), ("kd", 0), ("none", 1), ("kd", 1)])

    def test_the_file_has_each_run_as_soon_as_it_is_added_and_nothing_lies_beside_it(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "new/cifar100.json"
            experiment = PLANS["cifar100"].experiment
            made = Records.open(path, "cifar100", experiment.settings())
            for seed in range(2):
                made.add(record(experiment, "kd", seed, 50.0 + seed))
                self.assertEqual(Records.read(path).records, made.records)
                self.assertEqual([file.name for file in path.parent.iterdir()], ["cifar100.json"])

    def test_a_run_that_cannot_be_written_leaves_the_file_as_it_was(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "cifar100.json"
            made = records(path, "cifar100", RUNS)
            before = path.read_text()
            with mock.patch("os.replace", side_effect=OSError("no space")), self.assertRaises(OSError):
                made.add(record(PLANS["cifar100"].experiment, "kd", 3, 50.0))
            self.assertEqual(path.read_text(), before)
            self.assertEqual([file.name for file in path.parent.iterdir()], ["cifar100.json"])

    def test_another_experiment_needs_a_name(self):
        done = evidence("run", "cifar100", "--epochs", "2")
        self.assertEqual(done.returncode, 2)
        self.assertIn("give it a --name", done.stderr)

    def test_the_time_left_is_that_of_the_method_or_else_of_all_runs(self):
        recorded = [{"method": "kd", "seconds": 100}, {"method": "none", "seconds": 50}]
        job = lambda method, **fields: ((method, 0, {}, "job"), {"status": "queued", **fields})
        self.assertEqual(remaining(recorded, [job("kd"), job("dkd")]), 100 + 75)
        running = job("kd", status="running", progress={"eta_seconds": 30, "fraction": 0.5})
        self.assertEqual(remaining(recorded, [running, job("kd")]), 30 + 100)
        self.assertEqual(remaining([], [running, job("kd")]), 30 + 60)
        self.assertIsNone(remaining([], [job("kd")]))

    def test_a_processor_is_described_by_its_best_vector_instructions(self):
        text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512f\n"
        found = describe(text)
        self.assertEqual((found["cpu"], found["flags"]), ("A CPU (family 25, model 1)", "AVX-512"))
        self.assertEqual(describe("")["cpu"], "unknown")


if __name__ == "__main__":
    unittest.main()
