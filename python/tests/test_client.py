"""Promise: whoever has Python can give a teacher, distil, see the metrics, and load the student, with an event loop or
without. The server is the wheel's own."""

import asyncio
import contextlib
import inspect
import json
import re
import tempfile
import unittest
import warnings
from unittest import mock
from pathlib import Path

import distillery
import numpy
from distillery import types
from support import HAS_TORCH, NO_TORCH, PATIENCE, ROOT, server

SMALL = {"epochs": 1, "batch_size": 64, "augmentation": "none"}
DIGITS = {"name": "digits", "limit": 320, "image_size": 16}
TEACHER = {
    "name": "teacher", "student": {"architecture": "resnet8"}, "dataset": DIGITS,
    "distillation": {"method": "none"}, "training": SMALL, "labels": {"role": "teacher"},
}


def pupil(teacher):
    return {
        "name": "pupil", "teacher": {"architecture": "resnet8", "checkpoint": teacher["id"]},
        "student": {"architecture": "resnet8"}, "dataset": DIGITS, "training": SMALL,
        "distillation": {"method": "sdd_kd", "scales": [1, 2]},
    }


class Clients(unittest.TestCase):
    def test_both_have_the_same_methods(self):
        def methods(kind):
            found = inspect.getmembers(kind, inspect.isfunction)
            return {name: str(inspect.signature(method)) for name, method in found if not name.startswith("_")}

        self.assertEqual(methods(distillery.Client), methods(distillery.AsyncClient))

    def test_the_documentation_has_the_signature_of_every_method(self):
        text = (ROOT / "docs/python.md").read_text()
        for name, method in inspect.getmembers(distillery.Client, inspect.isfunction):
            if not name.startswith("_"):
                found = inspect.signature(method)
                _, *given = found.parameters.values()
                bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given]
                bare = found.replace(parameters=bare, return_annotation=inspect.Signature.empty)
                self.assertIn(f"`{name}{bare}`", text)

    def test_every_named_type_is_in_the_api(self):
        for module in ("client.py", "errors.py"):
            text = (Path(distillery.__file__).parent / module).read_text()
            for name in re.findall(r"\btypes\.(\w+)", text):
                self.assertTrue(hasattr(types, name), f"{module}: types.{name}")


class Jobs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.url = cls.enterClassContext(server())
        cls.client = cls.enterClassContext(distillery.Client(cls.url))
        cls.teacher_job = cls.client.submit(TEACHER)
        cls.teacher_job = cls.client.wait(cls.teacher_job, timeout=PATIENCE, progress=False)

    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory())

    def test_a_file_is_uploaded_distilled_and_its_student_downloaded(self):
        client = self.client
        weights = client.student(self.teacher_job, to=self.directory)
        teacher = client.upload(weights.path, architecture="resnet8")
        self.assertEqual(teacher["name"], weights.path.name)
        checked = client.check(pupil(teacher))
        self.assertEqual(checked["classes"], 10)
        job = client.wait(client.submit(pupil(teacher)), timeout=PATIENCE, progress=False)
        self.assertEqual(job["status"], "succeeded")
        last = client.student(job, which="last", to=Path(self.directory, "last.safetensors"))
        self.assertEqual(last.metadata["num_classes"], "10")
        manifest = client.artifact(job, "manifest.json", to=self.directory)
        plan = json.loads(manifest.read_text())["specification"]
        self.assertEqual(plan["distillation"]["method"], "sdd_kd")
        self.assertIn(job["id"], [job["id"] for job in client.jobs(status=["succeeded"], limit=200)])
        self.assertEqual([job["name"] for job in client.jobs(labels={"role": "teacher"})], ["teacher"])

    def test_a_directory_is_uploaded_in_pieces_and_a_job_can_name_it(self):
        with mock.patch("distillery._pieces.PIECE", 100_000):
            version = self.client.upload_dataset("copy", ROOT / "examples/data/digits", progress=False)
        self.assertRegex(version["id"], "^copy@[0-9a-f]{16}$")
        job = {**TEACHER, "dataset": {**DIGITS, "name": version["id"]}}
        self.assertEqual(self.client.check(job)["classes"], 10)

    def test_metrics_are_a_data_frame(self):
        frame = self.client.metrics(self.teacher_job, names=["eval/top1"])
        self.assertEqual(list(frame.columns), ["name", "step", "epoch", "time", "value"])
        self.assertEqual(frame["value"].max(), self.teacher_job["result"]["best_top1"])
        wide = self.client.metrics(self.teacher_job, wide=True)
        self.assertLessEqual({"epoch", "eval/top1", "train/loss"}, set(wide.columns))
        series = self.client.series(self.teacher_job, names=["eval/top1"])
        self.assertEqual([len(one["points"]) for one in series], [len(frame)])

    def test_what_a_student_gets_wrong_is_data_frames_and_a_gallery(self):
        client = self.client
        job = client.submit(pupil(client.upload(client.student(self.teacher_job, to=self.directory).path)))
        job = client.wait(job, timeout=PATIENCE, progress=False)
        report = client.prediction_report(job)
        for network in ("student", "teacher"):
            matrix = client.confusion(job, network=network)
            self.assertEqual((matrix.shape, int(matrix.to_numpy().sum())), ((10, 10), report["images"]))
            right = 100 * numpy.trace(matrix.to_numpy()) / report["images"]
            self.assertAlmostEqual(right, report[network]["top1"], places=6)
            self.assertEqual(matrix.sum(axis="columns").tolist(), client.classes(job)["images"].tolist())
        found = client.predictions(job, limit=1000)
        self.assertEqual((len(found), found.images), (report["images"], report["images"]))
        self.assertEqual(found.frame()["outcome"].value_counts().get("right", 0), report["outcomes"]["right"])
        wrong = client.predictions(job, outcome="student_wrong", pictured=True, limit=3)
        self.assertLessEqual(len(wrong), 3)
        self.assertTrue(all(image["outcome"] == "student_wrong" for image in wrong))
        (pictured,) = client.predictions(job, pictured=True, limit=1)
        self.assertEqual(distillery.jpeg_of(pictured)[:2], b"\xff\xd8")
        with self.assertRaisesRegex(ValueError, "has no teacher"):
            client.confusion(self.teacher_job, network="teacher")

    def test_a_sweep_is_posted_followed_and_a_data_frame(self):
        client = self.client
        document = {
            "name": "rates", "base": {**TEACHER, "labels": {}}, "seeds": 2,
            "axes": {"/training/optimizer/learning_rate": [0.05, 0.1]},
        }
        self.assertEqual(client.check_sweep(document)["jobs"], 4)
        sweep = client.sweep(document)
        ended = client.wait_for_sweep(sweep, progress=False, timeout=PATIENCE)
        self.assertEqual((ended["status"], ended["jobs"]), ("finished", {"succeeded": 4}))
        frame = client.sweep_results(sweep)
        self.assertEqual((frame["rank"].tolist(), frame["n"].tolist()), ([1, 2], [2, 2]))
        groups = client.groups("/training/optimizer/learning_rate", sweep=sweep)
        self.assertEqual(groups["top1"].tolist(), frame["top1"].tolist())
        edited = client.edit(ended["results"][0]["jobs"][0]["id"], {"notes": "the best", "labels": {"kept": "yes"}})
        self.assertEqual((edited["notes"], edited["labels"]), ("the best", {"kept": "yes"}))
        self.assertEqual(client.sweeps(limit=1)[0]["id"], sweep["id"])
        client.delete_sweep(sweep)
        with self.assertRaises(distillery.Refused):
            client.sweep_details(sweep)
        cancelled = client.cancel_sweep(client.sweep(document))
        with self.assertRaises(distillery.SweepCancelled):
            client.wait_for_sweep(cancelled, progress=False, timeout=PATIENCE)
        client.delete_sweep(cancelled)

    def test_students_are_compared_by_what_they_cost(self):
        frame = self.client.pareto({"size_mb": 1000, "parameters": 1}, labels={"role": "teacher"})
        (student,) = frame.to_dict("records")
        self.assertEqual((student["id"], student["qualifies"]), (self.teacher_job["id"], False))
        self.assertEqual((student["missed"], "size_mb" in student["front"]), (["parameters"], True))
        checked = self.client.check(TEACHER, constraints={"size_mb": 0.001})
        self.assertIs(checked["qualification"]["qualifies"], False)

    def test_tensorboard_reads_every_point(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        file = self.client.tensorboard(self.teacher_job, to=self.directory)
        self.assertEqual(file.parent, Path(self.directory, self.teacher_job["id"]))
        read = EventAccumulator(str(file.parent), size_guidance={"scalars": 0}).Reload()
        series = self.client.series(self.teacher_job)
        self.assertEqual(sorted(read.Tags()["scalars"]), [one["name"] for one in series])
        for one in series:
            found = [(event.step, event.value) for event in read.Scalars(one["name"])]
            expected = [(point["step"], numpy.float32(point["value"])) for point in one["points"]]
            self.assertEqual(found, expected, one["name"])

    def test_doubts_about_a_job_become_warnings_once(self):
        # Chance for ten classes is below what this teacher is asked for.
        weights = self.client.student(self.teacher_job, to=self.directory)
        job = {**pupil(self.client.upload(weights.path)), "training": {**SMALL, "batch_size": 320}}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            posted = self.client.submit(job)
            self.client.wait(posted, timeout=PATIENCE, progress=False)
        warned = [str(one.message) for one in caught if one.category is distillery.JobWarning]
        told = [event["message"] for event in self.client.events(posted) if event["kind"] == "warning"]
        self.assertEqual(warned, [f"{posted['id']}: {message}" for message in told])

    def test_a_job_that_fails_or_is_cancelled_is_an_error(self):
        job = self.client.submit({**TEACHER, "training": {**SMALL, "epochs": 500}, "labels": {}})
        self.client.cancel(job)
        with self.assertRaises(distillery.JobCancelled) as caught:
            self.client.wait(job, timeout=PATIENCE, progress=False)
        self.assertEqual(caught.exception.job["status"], "cancelled")
        self.client.delete(job)
        with self.assertRaises(distillery.Refused) as missing:
            self.client.job(job)
        self.assertEqual(missing.exception.status, 404)

    def test_the_same_works_with_an_event_loop(self):
        async def distil():
            async with distillery.AsyncClient(self.url) as client:
                weights = await client.student(self.teacher_job, to=self.directory)
                teacher = await client.upload(weights.path)
                posted = [await client.submit({**pupil(teacher), "name": name}) for name in ("one", "two")]
                waits = (client.wait(job, timeout=PATIENCE, progress=False) for job in posted)
                ended = await asyncio.gather(*waits)
                frame = await client.metrics(ended[0], names=["eval/top1"])
                matrix, wrong = await client.confusion(ended[0]), await client.predictions(ended[0], limit=5)
                return [job["status"] for job in ended], len(frame), matrix.shape, len(wrong)

        self.assertEqual(asyncio.run(distil()), (["succeeded", "succeeded"], 1, (10, 10), 5))

    @unittest.skipUnless(HAS_TORCH, NO_TORCH)
    def test_a_live_module_becomes_a_student_and_is_loaded(self):
        import torch

        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
        ).eval()
        before = model[0].weight.clone()
        checkpoint = self.client.upload(model, images=(3, 16, 16))
        self.assertFalse(model.training)
        job = {**TEACHER, "student": {"checkpoint": checkpoint["id"]}, "labels": {}}
        job = self.client.wait(self.client.submit(job), timeout=PATIENCE, progress=False)
        loaded = self.client.student(job, to=self.directory).load(model)
        self.assertIs(loaded, model)
        self.assertFalse(torch.equal(before, model[0].weight))
        self.assertEqual(loaded(torch.zeros(1, 3, 16, 16)).shape, (1, 10))

    def test_the_notebook_runs(self):
        notebook = json.loads((ROOT / "examples/client.ipynb").read_text())
        ran = 0
        names = {"__name__": "__main__"}
        with mock.patch.dict("os.environ", {"DISTILLERY_URL": self.url}), contextlib.chdir(self.directory):
            for cell in notebook["cells"]:
                if cell["cell_type"] != "code":
                    continue
                self.assertEqual((cell["outputs"], cell["execution_count"]), ([], None), "clear the outputs")
                if "needs-torch" in cell["metadata"].get("tags", []) and not HAS_TORCH:
                    print(f"a cell of the notebook is not run: {NO_TORCH}")
                    continue
                exec(compile("".join(cell["source"]), "client.ipynb", "exec"), names)
                ran += 1
        self.assertGreater(ran, 5)


if __name__ == "__main__":
    unittest.main()
