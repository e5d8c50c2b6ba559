"""Promise: examples/imagewoof.py trains the student with the teacher's job, writes what the server and ONNX Runtime say
into its document, and fails if the two disagree."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

from support import ROOT

sys.path.insert(0, str(ROOT / "examples"))

import imagewoof  # noqa: E402

TOP1 = {"job_1": 70.0, "job_2": 55.0, "job_3": 61.5}
MARKERS = [f"<!-- {imagewoof.MARKER}: {end} -->" for end in ("begin", "end")]


class Answers:
    """What a server would answer."""

    is_local = True

    def __init__(self):
        self.posted = []

    def post(self, document):
        self.posted.append(document)
        return f"job_{len(self.posted)}"

    def job(self, job_id):
        document = self.posted[int(job_id[-1]) - 1]
        return {"id": job_id, "name": document["name"], "status": "succeeded",
                "spec": {"distillation": {**document["distillation"], "scales": [1, 2]}},
                "result": {"best_top1": TOP1[job_id], "best_epoch": 2, "last_top1": TOP1[job_id] - 1,
                           "student": {"parameters": 578_474}}}

    def json(self, _method, path, _body=None):
        assert path.endswith("/attempts"), path
        return {"data": [{"started_at": "2026-12-01T10:00:00Z", "ended_at": "2026-12-01T10:01:30Z"}]}

    def artifact(self, _job_id, name):
        if name == "export-onnx.json":
            return {"parity": {"images": 512, "relative_difference": 4e-7}}
        return {"data": {"train_images": 9025, "eval_images": 3929}, "attempts": [{"device": "cpu"}],
                "versions": {"distillery": "0.1.0", "libtorch": "2.11.0"}}

    def points(self, job_id, _names):
        return {"eval/top1": [(1.0, 10.0), (2.0, TOP1[job_id])]}

    def bytes(self, method, path, _data=None):
        if method == "PUT":
            name = path.rpartition("=")[2]
            return json.dumps({"id": f"ckpt_{name}", "parameters": 1}).encode()
        assert path == "/v1/jobs/job_3/student?format=onnx", path
        return b"the student"


class Imagewoof(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        (self.directory / "validation-00000-of-00001.parquet").touch()
        self.document = self.directory / "document.md"
        self.document.write_text(f"Before.\n\n{MARKERS[0]}\n\nNothing yet.\n\n{MARKERS[1]}\n\nAfter.\n")
        self.server = Answers()

    def run_program(self, evaluated):
        """Runs it with networks that were exported before, and with this result of ONNX Runtime."""
        for name in imagewoof.NETWORKS.values():
            (self.directory / f"{name}.pt2").write_bytes(name.encode())
        runtime = types.SimpleNamespace(InferenceSession=lambda *_, **__: None)
        arguments = ["--dataset", "dogs", "--images", self.directory, "--epochs", "2", "--out", self.directory,
                     "--document", self.document]
        with mock.patch.multiple(imagewoof, Server=lambda _: self.server, onnx_runtime=lambda: runtime,
                                 versions=lambda _: {"PyTorch": "2.11.0"}, evaluate=lambda *_: dict(evaluated)):
            with contextlib.redirect_stdout(io.StringIO()):
                imagewoof.main([str(argument) for argument in arguments])

    def test_the_student_learns_from_the_teachers_job_and_otherwise_trains_as_alone(self):
        self.run_program({"images": 3929, "correct": 2416, "top1": 61.49, "seconds": 10.0})
        teacher, alone, distilled = self.server.posted
        self.assertEqual(teacher["student"], {"checkpoint": "ckpt_convnext_atto.pt2"})
        self.assertEqual(distilled["teacher"], {"job": "job_1"})
        self.assertEqual([job["distillation"]["method"] for job in self.server.posted], ["none", "none", "sdd_kd"])
        for field in ("student", "dataset", "training"):
            self.assertEqual(distilled[field], alone[field])
        self.assertEqual(distilled["training"]["epochs"], 2)

    def test_the_document_and_the_json_say_what_was_measured(self):
        self.run_program({"images": 3929, "correct": 2416, "top1": 61.49, "seconds": 10.0})
        text = self.document.read_text()
        self.assertTrue(text.startswith("Before.\n") and text.endswith("\nAfter.\n"), text)
        self.assertNotIn("Nothing yet.", text)
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        self.assertEqual(rows[-1], "| student by sdd_kd | mobilenetv3_small_050 | 0.6 M | 61.50 | 2 | 60.50 | 90 |")
        prose = " ".join(text.split())
        for part in ("2,416 of 3,929 images", "61.49 %, and the server's 61.50 %", "512 images", "libtorch 2.11.0",
                     "--dataset dogs", "--epochs 2"):
            self.assertIn(part, prose)
        self.assertNotIn(str(self.directory), text)
        results = json.loads((self.directory / "results.json").read_text())
        self.assertEqual(results["runs"]["sdd_kd"]["curve"], [[1.0, 10.0], [2.0, 61.5]])
        self.assertEqual((self.directory / "student.onnx").read_bytes(), b"the student")

    def test_another_accuracy_or_another_number_of_images_fails(self):
        for evaluated, says in [
            ({"images": 3929, "correct": 2390, "top1": 60.83}, "differ by more than 0.5 points"),
            ({"images": 3929, "correct": 0, "top1": float("nan")}, "differ by more than 0.5 points"),
            ({"images": 3000, "correct": 1845, "top1": 61.5}, "--images has 3000"),
        ]:
            with self.subTest(says), self.assertRaises(SystemExit) as ended:
                self.server = Answers()
                self.run_program({**evaluated, "seconds": 10.0})
            self.assertIn(says, str(ended.exception.code))

    def test_a_document_without_markers_is_refused_before_anything_is_trained(self):
        self.document.write_text("Nothing here.\n")
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            self.run_program({})
        self.assertIn(MARKERS[0], said.getvalue())
        self.assertEqual(self.server.posted, [])

    def test_a_label_is_a_number_or_the_name_of_a_class(self):
        names = [f"breed {number}" for number in range(10)]
        self.assertEqual(imagewoof.class_of("breed 3", names, "file"), 3)
        self.assertEqual(imagewoof.class_of(9, names, "file"), 9)
        for unknown in (10, -1, "cat", None):
            with self.subTest(unknown), self.assertRaises(SystemExit):
                imagewoof.class_of(unknown, names, "file")

    def test_a_chart_has_each_curve_from_its_lowest_to_its_highest_point(self):
        curves = {"teacher": [(1, 10.0), (5, 80.0)], "student alone": [(1, 20.0), (5, 45.0)]}
        lines = imagewoof.chart(curves).splitlines()
        self.assertTrue(lines[0].startswith(" 80.0 |") and lines[0].endswith("t"), lines)
        self.assertTrue(lines[13].startswith(" 10.0 |t"), lines)
        self.assertEqual(sum(line.count("a") for line in lines[:14]), 2)
        self.assertIn("t: teacher, a: student alone", lines[-1])


if __name__ == "__main__":
    unittest.main()
