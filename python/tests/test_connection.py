"""Promise: a client neither loses nor doubles anything when answers are lost, cut off or put off, and keeps its token
to itself."""

import asyncio
import hashlib
import json
import os
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import distillery
from support import environment, scripted

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def document(handler, value, status=200, **headers):
    handler.reply(status, json.dumps(value).encode(), content_type="application/json", **headers)


class Connection(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory()
        self.addCleanup(self.home.cleanup)
        changed = mock.patch.dict(os.environ, environment(HOME=self.home.name, XDG_CONFIG_HOME=""), clear=True)
        changed.start()
        self.addCleanup(changed.stop)

    def test_a_request_that_is_put_off_is_sent_again(self):
        def answer(handler):
            if len(asked) < 3:
                handler.reply(503, retry_after="0")
            else:
                document(handler, {"data": []})

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            self.assertEqual(client.workers(), [])
        self.assertEqual(len(asked), 3)

    def test_a_job_whose_answer_was_lost_is_posted_again_with_the_same_key(self):
        def answer(handler):
            if handler.command == "GET":
                document(handler, {"data": [], "has_more": False})
            elif len(asked) == 1:
                handler.reply(200, b"{", length=500)
            else:
                document(handler, {"id": "job_1"})

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            self.assertEqual(client.submit({}), {"id": "job_1"})
        keys = [headers["idempotency-key"] for method, _, headers in asked if method == "POST"]
        self.assertEqual(len(keys), 2)
        self.assertEqual(len(set(keys)), 1)

    def test_a_download_goes_on_where_it_was_cut_off(self):
        def answer(handler):
            headers = {"etag": f'"{SHA256}"', "content_disposition": 'attachment; filename="student.bin"'}
            if len(asked) == 1:
                handler.reply(200, CONTENT[:4000], length=len(CONTENT), **headers)
            else:
                start = int(handler.headers["range"].removeprefix("bytes=").removesuffix("-"))
                part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
                handler.reply(206, CONTENT[start:], content_range=part, **headers)

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            student = client.student("job_1", to=self.home.name)
        self.assertEqual(student.path, Path(self.home.name, "student.bin"))
        self.assertEqual(student.path.read_bytes(), CONTENT)
        self.assertEqual(os.listdir(self.home.name), ["student.bin"])
        (_, _, second), *rest = asked[1:]
        self.assertEqual((second["if-range"], rest), (f'"{SHA256}"', []))
        self.assertNotEqual(second["range"], "bytes=0-")

    def test_bytes_with_another_hash_are_not_kept(self):
        def answer(handler):
            handler.reply(200, CONTENT[:-1] + b"!", etag=f'"{SHA256}"')

        with scripted(answer) as (url, _), distillery.Client(url) as client:
            with self.assertRaises(distillery.Damaged):
                client.artifact("job_1", "manifest.json", to=self.home.name)
        self.assertEqual(os.listdir(self.home.name), [])

    def test_an_upload_is_another_file_only_without_stack_traces(self):
        file = Path(self.home.name, "net.pt2")
        file.write_bytes(CONTENT)
        notes = []

        def answer(handler):
            stored = {"id": "ckpt_1", "size_bytes": len(CONTENT), "sha256": "0" * 64, "notes": notes}
            handler.reply(201, json.dumps(stored).encode())

        with scripted(answer) as (url, _), distillery.Client(url) as client:
            with self.assertRaises(distillery.Damaged):
                client.upload(file)
            notes.append("its stack traces, with paths of the machine that exported it, were removed")
            with warnings.catch_warnings():
                warnings.simplefilter("error", distillery.UploadWarning)
                self.assertEqual(client.upload(file)["id"], "ckpt_1")
            notes.append("every key begins with module., which is left out")
            with self.assertWarnsRegex(distillery.UploadWarning, "ckpt_1: every key begins with module"):
                client.upload(file)

    def test_a_file_with_other_bytes_is_replaced_only_if_asked(self):
        target = Path(self.home.name, "manifest.json")
        target.write_text("mine")

        def answer(handler):
            handler.reply(200, CONTENT, etag=f'"{SHA256}"')

        with scripted(answer) as (url, _), distillery.Client(url) as client:
            with self.assertRaisesRegex(distillery.DistilleryError, "overwrite=True"):
                client.artifact("job_1", "manifest.json", to=target)
            self.assertEqual(target.read_text(), "mine")
            client.artifact("job_1", "manifest.json", to=target, overwrite=True)
        self.assertEqual(target.read_bytes(), CONTENT)

    def test_a_refusal_lists_the_faults_with_their_fields(self):
        def answer(handler):
            faults = [{"pointer": "/student", "detail": "is required"}]
            document(handler, {"detail": "the job has a fault", "errors": faults}, status=422)

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            with self.assertRaisesRegex(distillery.Refused, "/student: is required") as caught:
                client.check({})
        self.assertEqual((caught.exception.status, len(asked)), (422, 1))

    def test_a_single_fault_is_said_once(self):
        fault = {"pointer": "/student", "detail": "is required"}
        for detail, expected in [
            ("/student: is required", "/student: is required"),
            ("the job has a fault", "the job has a fault\n  /student: is required"),
        ]:
            with self.subTest(detail):
                refused = distillery.Refused(422, detail, [fault])
                self.assertEqual((str(refused), refused.errors), (expected, [fault]))

    def test_a_plain_string_is_one_name(self):
        page = {"data": [], "has_more": False, "series": [{"name": "eval/top1"}], "id": "job_1", "warnings": []}
        page |= {"by": [], "total": 0}
        expected = ["status=failed", "name=eval/top1", "by=method", "webhook=ops", "webhook=ops", "webhook=ops"]

        async def ask(url):
            async with distillery.AsyncClient(url) as client:
                await client.jobs(status="failed")
                await client.series("job_1", names="eval/top1")
                await client.groups("method")
                await client.check({}, webhooks="ops")
                await client.submit({}, webhooks="ops")
                await client.sweep({}, job_webhooks="ops")

        def queries(asked):
            return [path for _, path, _ in asked if "?" in path and "/events" not in path]

        with scripted(lambda handler: document(handler, page)) as (url, asked), distillery.Client(url) as client:
            client.jobs(status="failed")
            client.series("job_1", names="eval/top1")
            client.groups("method")
            client.check({}, webhooks="ops")
            client.submit({}, webhooks="ops")
            client.sweep({}, job_webhooks="ops")
            sent = queries(asked)
            asked.clear()
            asyncio.run(ask(url))
        self.assertEqual(queries(asked), sent)
        for name, path in zip(expected, sent, strict=True):
            self.assertEqual(unquote(path).replace("?", "&").split("&").count(name), 1, path)

    def test_names_without_a_series_are_warned_of(self):
        def answer(handler):
            known = [] if handler.path.startswith("/v1/jobs/job_2/") else ["eval/top1", "train/loss"]
            wanted = [unquote(part.removeprefix("name=")) for part in handler.path.split("?")[1].split("&")]
            is_all = not any("name=" in part for part in handler.path.split("?")[1].split("&"))
            document(handler, {"series": [{"name": name, "points": []} for name in known if is_all or name in wanted]})

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            expected = "no series eval/topp1, did you mean eval/top1.*train/loss"
            with self.assertWarnsRegex(distillery.JobWarning, expected):
                self.assertEqual(client.series("job_1", names=["eval/topp1"]), [])
            with self.assertWarnsRegex(distillery.JobWarning, "job_2 has no series eval/top1; it has none yet"):
                client.series("job_2", names="eval/top1")
            before = len(asked)
            self.assertEqual(len(client.series("job_1", names=["eval/top1", "train/loss"])), 2)
            self.assertEqual(len(asked), before + 1)

    def test_what_is_wrong_with_a_shape_of_images_is_said_as_it_was_given(self):
        for images, expected in [
            ((2, 3, 32, 32), r"images is \(2, 3, 32, 32\), which has 4 sizes.*here \(3, 32, 32\).*as a tensor"),
            ((32, 32), r"images is \(32, 32\): expected the shape of one image \[C, H, W\]"),
            ((3, 0, 32), r"images is \(3, 0, 32\): expected"),
            ("3x32x32", "images is of type str: expected"),
            (32, "images is of type int: expected"),
        ]:
            with self.subTest(images), distillery.Client("http://127.0.0.1:1") as client:
                with self.assertRaisesRegex(ValueError, expected):
                    client.upload(object(), images=images)

    def test_a_redirect_is_refused_and_gets_no_token(self):
        def answer(handler):
            handler.reply(307, location="http://elsewhere.example/")

        with scripted(answer) as (url, asked), distillery.Client(url, token="secret") as client:
            with self.assertRaisesRegex(distillery.Refused, "elsewhere.example"):
                client.workers()
        self.assertEqual(len(asked), 1)

    def test_where_nobody_listens_is_said_at_once(self):
        with scripted(lambda handler: None) as (url, _):
            pass
        with distillery.Client(url) as client, self.assertRaisesRegex(distillery.Unreachable, "Is the server running"):
            client.workers()

    def test_the_token_comes_from_a_file_that_nobody_else_reads(self):
        path = Path(self.home.name, ".config/distillery/token")
        path.parent.mkdir(parents=True)
        path.write_text("a-token\n")
        path.chmod(0o644)
        with self.assertRaisesRegex(distillery.DistilleryError, "chmod 600"):
            distillery.Client("http://127.0.0.1:1")
        path.chmod(0o600)
        empty = {"data": []}
        with scripted(lambda handler: document(handler, empty)) as (url, asked), distillery.Client(url) as client:
            client.workers()
        self.assertEqual(asked[0][2]["authorization"], "Bearer a-token")

    def test_a_server_without_sweeps_is_told_from_a_faulty_sweep(self):
        def answer(handler):
            document(handler, {"detail": "there is nothing here"}, status=404)

        with scripted(answer) as (url, _), distillery.Client(url) as client:
            with self.assertRaisesRegex(distillery.DistilleryError, "no sweeps"):
                client.sweep({"base": {}})

    def test_a_sweep_is_followed_to_its_end_and_says_which_jobs_do_not_count(self):
        failure = {"id": "job_1", "error": {"class": "user", "message": "the data is gone"}}
        states = [
            {"status": "running", "jobs": {"queued": 2}, "next_rung": 5},
            {"status": "finished", "jobs": {"succeeded": 1, "failed": 1}, "next_rung": None, "first_failure": failure},
            {"status": "cancelled", "jobs": {"cancelled": 1, "cancelling": 1}, "next_rung": None},
            {"status": "cancelled", "jobs": {"cancelled": 2}, "next_rung": None},
        ]
        left = [{"id": "swp_1", **state} for state in states]
        with scripted(lambda handler: document(handler, left.pop(0))) as (url, _), distillery.Client(url) as client:
            with self.assertWarnsRegex(distillery.JobWarning, "swp_1: 1 of its 2 jobs failed.*job_1: the data is gone"):
                self.assertEqual(client.wait_for_sweep("swp_1", progress=False)["status"], "finished")
            with self.assertRaisesRegex(distillery.SweepCancelled, "swp_1 was cancelled") as cancelled:
                client.wait_for_sweep("swp_1", progress=False)
        self.assertEqual((cancelled.exception.sweep["jobs"], left), ({"cancelled": 2}, []))

    def test_what_the_server_doubts_of_a_sweep_becomes_warnings(self):
        made = {"id": "swp_1", "warnings": ["combination 2 is left out"]}
        with scripted(lambda handler: document(handler, made)) as (url, asked), distillery.Client(url) as client:
            with self.assertWarnsRegex(distillery.JobWarning, "swp_1: combination 2 is left out"):
                client.sweep({"base": {}}, constraints={"size_mb": 4})
        self.assertEqual((asked[0][0], asked[0][1]), ("POST", "/v1/sweeps?size_mb=4"))
        self.assertIn("idempotency-key", {name.lower() for name in asked[0][2]})

    def test_webhooks_of_a_sweep_are_in_its_document_and_those_of_its_jobs_beside_it(self):
        bodies = []

        def answer(handler):
            bodies.append(json.loads(handler.body))
            document(handler, {"id": "swp_1", "warnings": []})

        with scripted(answer) as (url, asked), distillery.Client(url) as client:
            given = {"base": {}}
            client.sweep(given, webhooks="ops", job_webhooks=["team", "log"])
            client.sweep({"base": {}, "webhooks": ["ops"]})
            with self.assertRaisesRegex(ValueError, "names webhooks itself"):
                client.sweep({"base": {}, "webhooks": ["ops"]}, webhooks=["team"])
        self.assertEqual(bodies, [{"base": {}, "webhooks": ["ops"]}] * 2)
        queries = [path.partition("?")[2] for _, path, _ in asked]
        self.assertEqual(queries, ["webhook=team&webhook=log", ""])
        self.assertEqual(given, {"base": {}})

    def test_groups_that_are_left_out_are_said(self):
        group = {"values": ["kd", 4.0], "top1": 70.0, "deviation": None, "n": 1, "copies": 0, "best": 70.0, "jobs": []}
        found = {"by": ["method", "/distillation/temperature"], "data": [group], "total": 3}
        with scripted(lambda handler: document(handler, found)) as (url, asked), distillery.Client(url) as client:
            with self.assertWarnsRegex(distillery.JobWarning, "2 more groups"):
                frame = client.groups(found["by"], sweep={"id": "swp_1"}, limit=1)
        (row,) = frame.to_dict("records")
        self.assertEqual((row["method"], row["/distillation/temperature"], row["top1"]), ("kd", 4.0, 70.0))
        self.assertIn("sweep=swp_1", asked[0][1])

    def test_groups_of_several_data_sets_are_warned_of(self):
        group = {"values": ["kd"], "top1": 55.2, "deviation": 63.3, "n": 2, "datasets": 2}
        found = {"by": ["method"], "data": [group], "total": 1}
        with scripted(lambda handler: document(handler, found)) as (url, _), distillery.Client(url) as client:
            with self.assertWarnsRegex(distillery.JobWarning, "1 of 1 groups pool jobs of different data sets"):
                self.assertEqual(client.groups()["datasets"].tolist(), [2])

    def test_the_results_of_a_sweep_are_a_data_frame(self):
        def answer(handler):
            handler.reply(200, b"temperature,mean,n\r\n1,70.5,3\r\n4,72.11328125000001,3\r\n", content_type="text/csv")

        with scripted(answer) as (url, asked), distillery.Client(url) as client, warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = client.sweep_results("sweep_1")
        self.assertEqual(frame["mean"].tolist(), [70.5, 72.11328125000001])
        self.assertEqual(asked[0][1], "/v1/sweeps/sweep_1?format=csv")


if __name__ == "__main__":
    unittest.main()
