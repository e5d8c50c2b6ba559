"""Promise: an interval and a p value of benches/evidence.py are those of the paired t test, and no verdict says more
than they do."""

import math
import pathlib
import statistics
import tempfile
import unittest

from support import PLANS, records
from trials.comparison import Difference, by_method, curve, difference, pairs, settled
from trials.student_t import two_sided_p, two_sided_quantile


class StudentT(unittest.TestCase):
    def test_quantiles_are_those_of_the_tables(self):
        known = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 5: 2.5705818, 9: 2.2621572, 30: 2.0422725,
                 100: 1.9839715}
        for freedom, quantile in known.items():
            self.assertAlmostEqual(two_sided_quantile(0.95, freedom), quantile, places=6)
        self.assertAlmostEqual(two_sided_quantile(0.99, 2), 9.9248432, places=6)

    def test_probabilities_are_the_closed_forms_of_one_and_two_degrees_of_freedom(self):
        for t in (0.0, 0.1, 1.0, 4.3, 30.0, 1e4):
            self.assertAlmostEqual(two_sided_p(t, 1), 2 / math.pi * math.atan2(1, t), places=12)
            self.assertAlmostEqual(two_sided_p(-t, 2), 1 - t / math.hypot(t, math.sqrt(2)), places=9)

    def test_many_degrees_of_freedom_are_the_normal_distribution(self):
        # Three terms of Cornish and Fisher's expansion.
        z, freedom = statistics.NormalDist().inv_cdf(0.975), 1000
        known = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        self.assertAlmostEqual(two_sided_quantile(0.95, freedom), known, places=6)

    def test_a_small_probability_keeps_its_digits(self):
        # 1 / t² for two degrees of freedom and a large t.
        self.assertAlmostEqual(two_sided_p(1e6, 2) * 1e12, 1, places=6)


class Differences(unittest.TestCase):
    def of(self, *values):
        return Difference("sdd_kd", "kd", dict(enumerate(values)), 0.01)

    def test_a_paired_test_is_that_of_a_known_example(self):
        # Mean 1, deviation 1 and t = sqrt(3), whose p is 1 - sqrt(3 / 5).
        found = self.of(0.0, 1.0, 2.0)
        self.assertAlmostEqual(found.p, 1 - math.sqrt(3 / 5), places=9)
        low, high = found.interval
        self.assertAlmostEqual(low, 1 - 4.3026527 / math.sqrt(3), places=6)
        self.assertAlmostEqual(high, 1 + 4.3026527 / math.sqrt(3), places=6)
        self.assertEqual(found.verdict, "not decided")

    def test_a_verdict_needs_an_interval_without_0(self):
        self.assertEqual(self.of(1.0, 1.2, 0.9).verdict, "better")
        self.assertEqual(self.of(-1.0, -1.2, -0.9).verdict, "worse")
        self.assertEqual(self.of(1.0, 1.2, -0.9).verdict, "not decided")

    def test_an_interval_that_touches_0_as_it_is_printed_decides_nothing(self):
        half = 4.3026527 * 1 / math.sqrt(3)
        found = self.of(half + 0.004 - 1, half + 0.004, half + 0.004 + 1)
        self.assertGreater(found.interval[0], 0)
        self.assertLess(found.p, 0.05)
        self.assertEqual(found.verdict, "not decided")

    def test_one_seed_decides_nothing(self):
        found = self.of(9.0)
        self.assertEqual((found.interval, found.p, found.verdict), (None, None, "one seed"))

    def test_equal_differences_deviate_by_one_image(self):
        low, high = self.of(0.5, 0.5, 0.5).interval
        self.assertAlmostEqual(high - low, 2 * 4.3026527 * 0.01 / math.sqrt(3), places=6)

    def test_only_seeds_that_both_have_are_compared(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "cifar100.json"
            runs = by_method(records(path, "cifar100", {"kd": [50.0, 51.0], "sdd_kd": [52.0]}))
        self.assertEqual(difference(runs, "sdd_kd", "kd").by_seed, {0: 2.0})
        self.assertEqual(curve(runs, "sdd_kd", "kd"), [(1.0, 1.0, None), (2.0, 2.0, None)])
        self.assertEqual(difference(runs, "sdd_dkd", "dkd").verdict, "not tried")

    def test_each_method_is_compared_with_the_same_without_its_addition(self):
        self.assertEqual(pairs(PLANS["cifar100"].methods), [
            ("kd", "none"), ("sdd_kd", "kd"), ("sdd_dkd", "dkd"), ("sdd_nkd", "nkd"), ("sdd_kd+ls", "sdd_kd")])
        self.assertEqual(pairs(PLANS["imagewoof"].methods), [
            ("kd", "none"), ("sdd_kd:1,2", "kd"), ("sdd_kd:1,2,4", "kd"), ("sdd_kd:1,2", "sdd_kd:1,2,4")])

    def test_a_sign_has_settled_after_its_last_change(self):
        points = [(1.0, 2.0, None), (2.0, -1.0, None), (3.0, 0.5, None), (4.0, 0.1, None)]
        self.assertEqual(settled(points), 3.0)
        self.assertIsNone(settled([*points, (5.0, 0.0, None)]))
        self.assertIsNone(settled([]))


if __name__ == "__main__":
    unittest.main()
