"""The checks find what they are for: a check that finds nothing looks like a board without faults."""

import copy
import unittest

from . import boards, lint, names, promql


class Promql(unittest.TestCase):
    def test_a_selector_is_found_with_its_matchers_window_and_function(self):
        found = promql.selectors(
            'sum by (le, a) (rate(x_bucket{job=~"$job",le="0.5"}[$__rate_interval])) / on (b) group_left (c) y'
        )
        self.assertEqual([each.metric for each in found], ["x_bucket", "y"])
        self.assertEqual(found[0].matchers, {"job": ("=~", "$job"), "le": ("=", "0.5")})
        self.assertEqual((found[0].window, found[0].within, found[1].within), ("$__rate_interval", "rate", ""))

    def test_a_selector_without_a_name_reads_all_that_its_matcher_names(self):
        self.assertEqual(
            promql.metrics('count({__name__=~"a|b",job="x"}) or instance:c:rate5m'), ["a", "b", "instance:c:rate5m"]
        )

    def test_keywords_labels_and_functions_are_no_metrics(self):
        self.assertEqual(
            promql.metrics("max without (x) (a) and ignoring (y) b unless time() - 1e3 > bool inf"), ["a", "b"]
        )

    def test_a_comparison_becomes_a_subtraction_and_what_is_joined_stays_joined(self):
        self.assertEqual(promql.existence("(a / b > 0.9)"), [" ((a / b) - (0.9))"])
        self.assertEqual(
            promql.existence('a > 1 and on (job) b{x="a>b"} < 2'), [' ((a) - (1)) and  on (job) ((b{x="a>b"}) - (2))']
        )

    def test_an_absent_alert_needs_what_must_not_be_absent(self):
        self.assertEqual(promql.existence('absent(up{job="a"})'), ['up{job="a"}'])

    def test_both_sides_of_unless_must_exist(self):
        self.assertEqual(promql.existence("a > 1 unless on (x) b"), [" ((a) - (1))", " ((b))"])

    def test_text_that_is_no_promql_is_refused(self):
        with self.assertRaises(ValueError):
            promql.selectors("rate(x[5m]) ; drop")
        with self.assertRaises(ValueError):
            promql.selectors("sum(rate(x[5m])")


class Lint(unittest.TestCase):
    def test_the_boards_pass_every_rule(self):
        for name, board in boards.boards():
            for rule, check in lint.RULES.items():
                self.assertEqual(list(check(board)), [], f"{name} {rule}")

    def test_every_rule_finds_its_fault(self):
        self.assertEqual(set(FAULTS), set(lint.RULES))
        for rule, spoil in FAULTS.items():
            board = copy.deepcopy(boards.boards()[0][1])
            spoil(board)
            self.assertTrue(list(lint.RULES[rule](board)), f"{rule} does not find its fault")


class Names(unittest.TestCase):
    def test_a_histogram_has_one_name_and_a_counter_keeps_its_suffix(self):
        histogram = '# TYPE h histogram\nh_bucket{le="1"} 2\nh_count 2\nh_sum 3\n'
        text = f"{histogram}# TYPE c counter\nc_total 1\ng_count 4\n# EOF\n"
        self.assertEqual(names.families(text), {"h", "c_total", "g_count"})


def _variable(board, name):
    return next(each for each in board["templating"]["list"] if each["name"] == name)


def _panel(board):
    return next(boards.panels(board))


def _query(expression):
    return lambda board: _panel(board)["targets"][0].update(expr=expression)


FAULTS = {
    "template-datasource-rule": lambda board: _variable(board, "datasource").update(name="prometheus"),
    "template-job-rule": lambda board: _variable(board, "job").update(allValue=".*"),
    "template-instance-rule": lambda board: _variable(board, "instance").update(multi=False),
    "template-on-time-change-reload-rule": lambda board: _variable(board, "job").update(refresh=1),
    "panel-datasource-rule": lambda board: _panel(board)["targets"][0].update(datasource={"uid": "prometheus"}),
    "panel-title-description-rule": lambda board: _panel(board).update(description="Requests per second."),
    "panel-units-rule": lambda board: _panel(board)["fieldConfig"]["defaults"].update(unit="requests"),
    "panel-no-targets-rule": lambda board: _panel(board).update(targets=[]),
    "target-promql-rule": _query("sum(rate(x[5m])"),
    "target-rate-interval-rule": _query("rate(x_total[5m])"),
    "target-job-rule": _query('x{job="echo-server",instance=~"$instance"}'),
    "target-instance-rule": _query('x{job=~"$job"}'),
    "target-counter-agg-rule": _query("sum(x_total)"),
    "uneditable-dashboard": lambda board: board.update(editable=True),
    "shared-crosshair": lambda board: board.update(graphTooltip=0),
    "ids": lambda board: board["panels"][1].update(id=board["panels"][2]["id"]),
    "places": lambda board: board["panels"][1]["gridPos"].update(w=12),
    "rows": lambda board: board["panels"][0].update(collapsed=True),
    "links": lambda board: board.update(links=[]),
    "conditions": _query('tokio_poll_time_seconds_bucket{job=~"$job",instance=~"$instance"}'),
    "variables": _query('x{job=~"$jobs"}'),
}


def run():
    """1 if a test fails."""
    result = unittest.TextTestRunner(verbosity=0).run(
        unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__, fromlist=["tests"]))
    )
    return 0 if result.wasSuccessful() else 1
