"""Promise: a data set arrives whole, whatever breaks on the way, and a directory needs no archive."""

import asyncio
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import distillery
from support import environment, scripted

PIECE = 1000
FILES = {
    "train/cat/1.ppm": b"c" * 700,
    "train/dog/1.ppm": bytes(range(256)) * 9,
    f"train/dog/{'long' * 40}.ppm": b"",
    "test/cat/1.ppm": b"t" * 512,
}


class Store:
    """A server that takes data sets in pieces. `cut` decides which requests lose their answers, and when."""

    def __init__(self, cut=lambda number: None):
        self.cut = cut
        self.uploads = {}
        self.whole = []
        self.ranges = []

    def __call__(self, handler):
        if handler.command == "GET":
            upload = handler.path.rpartition("/")[2]
            if upload not in self.uploads:
                return self.answer(handler, 404, {"detail": "none"})
            return self.answer(handler, 200, {"received_bytes": len(self.uploads[upload])})
        upload = re.search(r"upload=([^&]+)", handler.path)[1]
        range_ = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", handler.headers["content-range"])
        start, last, size = map(int, range_.groups())
        self.ranges.append(start)
        cut = self.cut(len(self.ranges))
        if cut == "before":
            return handler.reply(200, b"{", length=500)
        received = self.uploads.setdefault(upload, bytearray())
        if len(received) != start:
            return self.answer(handler, 409, {"detail": f"the next piece begins at byte {len(received)}"})
        if last - start + 1 != len(handler.body):
            # The client has ended the connection.
            handler.close_connection = True
            return None
        received += handler.body
        if cut == "after":
            return handler.reply(200, b"{", length=500)
        if len(received) < size:
            return self.answer(handler, 202, {"received_bytes": len(received)})
        self.whole.append(bytes(self.uploads.pop(upload)))
        return self.answer(handler, 201, {"id": "pets@1", "notes": []})

    @staticmethod
    def answer(handler, status, document):
        handler.reply(status, json.dumps(document).encode(), content_type="application/json")


class Datasets(unittest.TestCase):
    def setUp(self):
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.dict(os.environ, environment(HOME=str(self.home), XDG_CONFIG_HOME=""), clear=True))
        self.enterContext(mock.patch("distillery._pieces.PIECE", PIECE))
        self.enterContext(mock.patch("distillery._pieces._FIRST_PAUSE", 0.0))
        self.file = self.home / "pets.zip"
        self.file.write_bytes(bytes(range(256)) * 18)
        self.directory = self.home / "pets"
        for name, content in FILES.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def send(self, store, source, is_async=False):
        async def send_async(url):
            async with distillery.AsyncClient(url) as client:
                return await client.upload_dataset("pets", source, progress=False)

        with scripted(store) as (url, _):
            if is_async:
                return asyncio.run(send_async(url))
            with distillery.Client(url) as client:
                return client.upload_dataset("pets", source, progress=False)

    def test_a_file_that_is_cut_off_arrives_whole_and_no_stored_piece_is_sent_again(self):
        for is_async in (False, True):
            with self.subTest(is_async=is_async):
                # The second piece is lost on its way, and the answer to the third one on its way back.
                store = Store({2: "before", 4: "after"}.get)
                self.assertEqual(self.send(store, self.file, is_async)["id"], "pets@1")
                self.assertEqual(store.whole, [self.file.read_bytes()])
                self.assertEqual(store.ranges, [0, 1000, 1000, 2000, 3000, 4000])

    def test_a_later_call_goes_on_with_what_an_earlier_one_left(self):
        store = Store(lambda number: "before" if number > 2 else None)
        with mock.patch("distillery._pieces._RECONNECT", -1.0):
            with self.assertRaisesRegex(distillery.Unreachable, "2000 of 4608 bytes.*the same call continues"):
                self.send(store, self.file)
        store.cut = lambda number: None
        store.ranges.clear()
        self.send(store, self.file)
        self.assertEqual((store.whole, store.ranges), ([self.file.read_bytes()], [2000, 3000, 4000]))
        # Another file is another upload.
        store.ranges.clear()
        self.file.write_bytes(b"other" * 300)
        self.send(store, self.file)
        self.assertEqual((store.whole[1:], store.ranges), ([b"other" * 300], [0, 1000]))

    def test_a_directory_arrives_as_a_tar_of_its_files(self):
        (self.directory / ".git").mkdir()
        (self.directory / "empty").mkdir()
        for is_async in (False, True):
            store = Store({3: "before"}.get)
            with self.assertWarnsRegex(distillery.UploadWarning, r"left out: 1 entry.*\.git"):
                self.send(store, self.directory, is_async)
            with tarfile.open(fileobj=io.BytesIO(store.whole[0])) as packed:
                found = {entry.name: packed.extractfile(entry).read() for entry in packed if entry.isfile()}
                self.assertTrue(packed.getmember("empty").isdir())
            self.assertEqual(found, FILES)

    def test_links_and_what_is_not_there_are_refused_before_anything_is_sent(self):
        store = Store()
        (self.directory / "train/cat/link.ppm").symlink_to("1.ppm")
        with self.assertRaisesRegex(ValueError, "train/cat/link.ppm"):
            self.send(store, self.directory)
        with self.assertRaisesRegex(FileNotFoundError, "no file or directory"):
            self.send(store, self.home / "missing")
        (self.home / "nothing").mkdir()
        with self.assertRaisesRegex(ValueError, "has no file"):
            self.send(store, self.home / "nothing")
        self.assertEqual(store.ranges, [])

    def test_a_file_that_changes_meanwhile_is_not_sent_on(self):
        def change(number):
            if number == 2:
                self.file.write_bytes(b"shorter")

        with self.assertRaisesRegex(distillery.DistilleryError, "has changed since the upload began"):
            self.send(Store(change), self.file)

    def test_a_refusal_ends_the_upload_at_once(self):
        def refuse(handler):
            Store.answer(handler, 404 if handler.command == "GET" else 422, {"detail": "the file is no archive"})

        with scripted(refuse) as (url, asked), distillery.Client(url) as client, warnings.catch_warnings():
            with self.assertRaisesRegex(distillery.Refused, "no archive"):
                client.upload_dataset("pets", self.file, progress=False)
        self.assertEqual([method for method, _, _ in asked], ["GET", "PUT"])

    def test_a_piece_whose_place_the_server_refuses_is_not_sent_for_ever(self):
        def refuse(handler):
            if handler.command == "GET":
                Store.answer(handler, 404, {"detail": "none"})
            else:
                Store.answer(handler, 409, {"detail": "no space for this data set"})

        with scripted(refuse) as (url, asked), distillery.Client(url) as client:
            with self.assertRaisesRegex(distillery.Refused, "no space"):
                client.upload_dataset("pets", self.file, progress=False)
        self.assertEqual([method for method, _, _ in asked], ["GET", "PUT", "GET"])


class ShardStore:
    """A server that takes the shards of one split, whole, and puts them together when all are there."""

    def __init__(self, shards):
        self.shards = shards
        self.here = {}
        self.places = []

    def __call__(self, handler):
        url = urlsplit(handler.path)
        if handler.command == "GET" and url.path == "/v1/datasets/pets/shards/train":
            if not self.here:
                return Store.answer(handler, 404, {"detail": "no shards wait"})
            waiting = [
                {"shard": shard, "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
                for shard, body in self.here.items()
            ]
            return Store.answer(handler, 200, {"shards": self.shards, "data": waiting})
        if handler.command == "GET":
            return Store.answer(handler, 404, {"detail": "no such upload"})
        query = dict(parse_qsl(url.query))
        self.places.append((query["split"], int(query["shard"]), int(query["shards"])))
        if handler.body == b"text":
            return Store.answer(handler, 422, {"detail": "it is no shard"})
        self.here[int(query["shard"])] = bytes(handler.body)
        if len(self.here) < self.shards:
            return Store.answer(handler, 202, {"name": "pets", "splits": ["train"]})
        return Store.answer(handler, 201, {"id": "pets@1", "notes": []})


class Shards(unittest.TestCase):
    def setUp(self):
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.dict(os.environ, environment(HOME=str(self.home), XDG_CONFIG_HOME=""), clear=True))
        self.files = [self.home / f"{number}.parquet" for number in range(3)]
        for number, file in enumerate(self.files):
            file.write_bytes(b"PAR1" + bytes([number]))

    def send(self, answer, files, split="train", is_async=False):
        async def send_async(url):
            async with distillery.AsyncClient(url) as client:
                return await client.upload_dataset("pets", files, split=split, progress=False)

        with scripted(answer) as (url, asked):
            self.asked = asked
            if is_async:
                return asyncio.run(send_async(url))
            with distillery.Client(url) as client:
                return client.upload_dataset("pets", files, split=split, progress=False)

    def test_all_shards_of_a_split_are_sent_with_their_places(self):
        for is_async in (False, True):
            with self.subTest(is_async=is_async):
                store = ShardStore(3)
                self.assertEqual(self.send(store, self.files, is_async=is_async)["id"], "pets@1")
                self.assertEqual(store.places, [("train", 0, 3), ("train", 1, 3), ("train", 2, 3)])
                self.assertEqual(list(store.here.values()), [file.read_bytes() for file in self.files])

    def test_a_single_file_is_the_only_shard_of_its_split(self):
        store = ShardStore(1)
        self.assertEqual(self.send(store, self.files[0])["id"], "pets@1")
        self.assertEqual(store.places, [("train", 0, 1)])

    def test_shards_that_the_server_has_are_not_sent_again(self):
        store = ShardStore(3)
        store.here = {0: self.files[0].read_bytes(), 2: b"PAR1x"}
        self.send(store, self.files)
        self.assertEqual([shard for _, shard, _ in store.places], [1, 2])
        # If it has all of them and did not put them together, the last one makes it do so.
        store.places.clear()
        self.send(store, self.files)
        self.assertEqual([shard for _, shard, _ in store.places], [2])

    def test_the_same_bytes_in_two_places_are_two_uploads(self):
        self.send(ShardStore(2), [self.files[0], self.files[0]])
        uploads = [dict(parse_qsl(urlsplit(path).query))["upload"] for method, path, _ in self.asked if method == "PUT"]
        self.assertEqual(len(set(uploads)), 2)

    def test_an_error_names_the_file_or_what_to_do(self):
        self.files[1].write_bytes(b"text")
        with self.assertRaisesRegex(distillery.Refused, "1.parquet: it is no shard"):
            self.send(ShardStore(3), self.files)
        # Another upload replaces shards meanwhile: the server goes on waiting.
        with self.assertRaisesRegex(distillery.DistilleryError, "has not got all shards of pets.*call this again"):
            self.send(ShardStore(9), [self.files[0], self.files[2]])

    def test_what_are_no_shards_is_refused_before_anything_is_sent(self):
        for files, split, error, words in [
            (self.files, None, TypeError, "name it with split="),
            ([self.home], "train", ValueError, "is a directory"),
            ([], "train", ValueError, "no shard to send"),
            ([self.home / "missing"], "train", FileNotFoundError, "missing"),
        ]:
            with self.subTest(words=words), self.assertRaisesRegex(error, words):
                self.send(ShardStore(1), files, split)
            self.assertEqual(self.asked, [])

    def test_unfinished_uploads_are_listed(self):
        unfinished = [{"name": "pets", "split": "train", "shards_here": 1, "shards": 2, "next": "to continue, …"}]

        def answer(handler):
            Store.answer(handler, 200, {"data": [], "unusable": [], "unfinished": unfinished})

        async def ask(url):
            async with distillery.AsyncClient(url) as client:
                return await client.unfinished_uploads()

        with scripted(answer) as (url, _):
            with distillery.Client(url) as client:
                self.assertEqual(client.unfinished_uploads(), unfinished)
            self.assertEqual(asyncio.run(ask(url)), unfinished)


if __name__ == "__main__":
    unittest.main()
