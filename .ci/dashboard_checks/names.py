"""Boards and exporters name the same metrics: a query on a metric that nobody exports is an empty panel, and a metric
that no panel, rule or alert reads is either missing from a board or not worth its counter.
"""

import re
import sys

from . import promql
from .boards import DASHBOARDS, annotations, filled, queries, rules, variable_queries

# What Prometheus itself adds to every scrape, and to every alert.
SYNTHETIC = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS"}
HISTOGRAM_SUFFIXES = ("_bucket", "_count", "_sum")


def run(texts):
    """1 if a used metric is not in one of `texts`, or one in them is not used and not listed."""
    exported = set().union(*(families(text) for text in texts))
    used, recorded = _used(), {name for kind, name, _ in rules() if kind == "record"}
    unused, optional = _listed("unused-metrics.txt"), _listed("optional-metrics.txt")
    problems = [
        f"{metric} is read by {', '.join(places)} but exported by nobody"
        for metric, places in sorted(used.items())
        if metric not in exported and metric not in optional and metric not in SYNTHETIC and metric not in recorded
    ]
    problems += [
        f"{metric} is exported but not read: draw it, or give a reason in dashboards/unused-metrics.txt"
        for metric in sorted(exported - set(used) - set(unused))
    ]
    problems += [
        f"{metric} is listed as unused and is read by {', '.join(used[metric])}"
        for metric in sorted(set(unused) & set(used))
    ]
    problems += [f"{metric} is listed as unused and is not exported" for metric in sorted(set(unused) - exported)]
    problems += [f"{metric} is listed as optional and is not read" for metric in sorted(set(optional) - set(used))]
    problems += [f"{name} is recorded and not read" for name in sorted(recorded - set(used))]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(
        f"names: {len(exported)} metrics exported, {len(set(used) & exported)} of them read, "
        f"{len(unused)} listed as unused: {len(problems)} findings"
    )
    return 1 if problems else 0


def families(text):
    """The metrics of an OpenMetrics or Prometheus text, a histogram by its name without suffix."""
    histograms = set(re.findall(r"^# TYPE (\S+) (?:histogram|summary)$", text, re.MULTILINE))
    return {_family(sample, histograms) for sample in re.findall(r"^([A-Za-z_:][\w:]*)[{ ]", text, re.MULTILINE)}


def _family(sample, histograms):
    for suffix in HISTOGRAM_SUFFIXES:
        if sample.removesuffix(suffix) in histograms:
            return sample.removesuffix(suffix)
    return sample


def _used():
    """metric -> where it is read."""
    places = [(where, expression) for where, expression, _ in queries()]
    places += annotations()
    places += [(where, selector) for where, selector, _ in variable_queries()]
    places += [(f"{kind} {name}", expression) for kind, name, expression in rules()]
    read = [(where, metric) for where, expression in places for metric in promql.metrics(filled(expression))]
    histograms = {metric.removesuffix("_bucket") for _, metric in read if metric.endswith("_bucket")}
    used = {}
    for where, metric in read:
        found = used.setdefault(_family(metric, histograms), [])
        if where not in found:
            found.append(where)
    return used


def _listed(name):
    """metric -> reason, of a file with lines `metric  reason`."""
    lines = [line for line in (DASHBOARDS / name).read_text().splitlines() if line and not line.startswith("#")]
    listed = dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    if len(listed) != len(lines):
        raise SystemExit(f"dashboards/{name}: each line is a metric and a reason, each metric once")
    return listed
