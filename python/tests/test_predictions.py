"""Promise: what the server says of a student's mistakes reaches Python whole, and what is left out is said. The
server's answers are scripted here; `test_client.py` asks a real one."""

import json
import unittest
from urllib.parse import parse_qs, urlsplit

import distillery
from support import scripted

NETWORK = {"predicted": 1, "class": "<b>dog</b>", "confidence": 0.5, "label_probability": 0.25}


def image(position, picture=None):
    return {
        "position": position, "label": 0, "class": "cat & kitten", "outcome": "student_wrong", "difference": 0.5,
        "student": NETWORK, "teacher": None, "picture": picture, "regions": None,
    }


def page(images, total, following):
    return {
        "split": "test", "images": total, "pictured": 1, "scales": [1, 2], "data": images,
        "has_more": following is not None, "next": following,
    }


def report(**changes):
    counts = {"images": 2, "student": 50.0, "teacher": None, "agreement": None, "student_predicted": 2}
    classes = [{"class": number, "name": None, **counts, "teacher_predicted": None} for number in (0, 1)]
    return {
        "split": "test", "images": 4, "student": {}, "teacher": None, "outcomes": {}, "agreement": None,
        "classes": classes, "cells": [{"label": 0, "predicted": 1, "student": 3, "teacher": 0}], "cells_left_out": 0,
        **changes,
    }


class Predictions(unittest.TestCase):
    def answers(self, *documents):
        """A client of a server that gives these documents one after the other, and what was asked."""
        left = list(documents)
        url, asked = self.enterContext(scripted(lambda handler: handler.reply(200, json.dumps(left.pop(0)).encode())))
        return self.enterContext(distillery.Client(url)), asked

    def test_pages_follow_each_other_up_to_the_limit(self):
        pages = [page([image(n) for n in range(100)], 150, 100), page([image(n) for n in range(100, 120)], 150, 120)]
        client, asked = self.answers(*pages)
        found = client.predictions("job_1", outcome="student_wrong", label="cat & kitten", predicted=1, limit=120)
        self.assertEqual([one["position"] for one in found], list(range(120)))
        self.assertEqual((found.images, found.split, found.scales), (150, "test", [1, 2]))
        first, second = (parse_qs(urlsplit(path).query) for _, path, _ in asked)
        filters = {"outcome": ["student_wrong"], "label": ["cat & kitten"], "predicted": ["1"]}
        self.assertEqual(first, {**filters, "limit": ["100"]})
        self.assertEqual(second, {**filters, "limit": ["20"], "after": ["100"]})

    def test_a_gallery_shows_pictures_and_runs_nothing_that_a_class_is_called(self):
        client, _ = self.answers(page([image(7, "data:image/jpeg;base64,/9g="), image(8)], 2, None))
        found = client.predictions("job_1")
        shown = found._repr_html_()
        self.assertEqual(shown.count("<figure"), 1)
        self.assertIn("student: &lt;b&gt;dog&lt;/b&gt; 50%", shown)
        self.assertIn("cat &amp; kitten (7)", shown)
        self.assertNotIn("<b>dog", shown)
        self.assertEqual(distillery.jpeg_of(found[0]), b"\xff\xd8")
        with self.assertRaisesRegex(distillery.DistilleryError, "image 8 has no picture"):
            distillery.jpeg_of(found[1])

    def test_a_frame_has_a_row_for_each_image(self):
        client, _ = self.answers(page([image(7)], 1, None))
        (row,) = client.predictions("job_1").frame().to_dict("records")
        self.assertEqual((row["position"], row["student_class"], row["teacher_class"]), (7, "<b>dog</b>", None))

    def test_a_matrix_without_its_rarest_cells_says_so(self):
        client, _ = self.answers(report(), report(cells_left_out=9))
        self.assertEqual(client.confusion("job_1").to_numpy().tolist(), [[0, 3], [0, 0]])
        with self.assertWarnsRegex(distillery.JobWarning, "9 others are 0 here"):
            matrix = client.confusion("job_1")
        self.assertEqual(matrix.attrs, {"cells_left_out": 9})

    def test_there_is_no_matrix_of_a_network_that_there_is_not(self):
        client, _ = self.answers(report(), report())
        for network in ("teacher", "pupil"):
            with self.assertRaisesRegex(ValueError, network):
                client.confusion("job_1", network=network)


if __name__ == "__main__":
    unittest.main()
