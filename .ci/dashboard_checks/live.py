"""Every query and rule against a Prometheus that scraped a real run: what is right in PromQL may still find nothing."""

import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from . import promql
from .boards import SCRAPE_INTERVAL, annotations, exemplar_queries, filled, queries, rules, variable_queries


def run(url, seconds=60):
    """1 if a query returned no finite value in the last `seconds`."""
    prometheus = Prometheus(url, seconds)
    rows = [(where, *prometheus.series(filled(expression), instant)) for where, expression, instant in queries()]
    rows += [(where, *_each(prometheus, promql.existence(filled(expression)))) for where, expression in annotations()]
    rows += [
        (where, len(prometheus.label_values(filled(selector), label)), "")
        for where, selector, label in variable_queries()
    ]
    rows += [
        (f"{where}, exemplars", prometheus.exemplars(filled(expression)), "")
        for where, expression in exemplar_queries()
    ]
    for kind, name, expression in rules():
        parts = promql.existence(expression) if kind == "alert" else [expression, name]
        rows.append((f"{kind}: {name}", *_each(prometheus, parts)))
    loaded = prometheus.rules()
    rows += [(f"{name}, as Prometheus evaluates it", 0, error) for name, healthy, error in loaded if not healthy]
    rows.append(
        ("rules that Prometheus evaluates without an error", sum(healthy for _, healthy, _ in loaded), "none is loaded")
    )
    _print(rows)
    empty = [row for row in rows if row[1] == 0]
    for where, _, problem in empty:
        print(f"no finite series: {where}{': ' if problem else ''}{problem}", file=sys.stderr)
    print(f"live: {len(rows)} queries, rules, annotations and variables: {len(empty)} findings")
    return 1 if empty else 0


class Prometheus:
    """The HTTP API, as far as it is needed."""

    def __init__(self, url, seconds):
        self.url, self.end = url.rstrip("/"), time.time()
        self.start = self.end - seconds

    def series(self, expression, instant=False):
        """(series with a finite value, error)."""
        try:
            if instant:
                result = self._get("query", query=expression, time=self.end)["result"]
                return sum(math.isfinite(float(each["value"][1])) for each in result), ""
            result = self._get("query_range", query=expression, start=self.start, end=self.end, step=SCRAPE_INTERVAL)[
                "result"
            ]
            return sum(any(math.isfinite(float(value)) for _, value in each["values"]) for each in result), ""
        except urllib.error.HTTPError as error:
            return 0, json.load(error).get("error", str(error))

    def label_values(self, selector, label):
        found = self._get("series", **{"match[]": selector, "start": self.start, "end": self.end})
        return {each[label] for each in found if label in each}

    def exemplars(self, expression):
        """Exemplars of the series that `expression` reads which name a trace."""
        found = self._get("query_exemplars", query=expression, start=self.start, end=self.end)
        return sum("trace_id" in exemplar["labels"] for each in found for exemplar in each["exemplars"])

    def rules(self):
        """(name, whether its last evaluation succeeded, error) of every rule that is loaded."""
        loaded = [rule for group in self._get("rules")["groups"] for rule in group["rules"]]
        return [(rule["name"], rule["health"] == "ok", rule.get("lastError", "")) for rule in loaded]

    def _get(self, path, **parameters):
        data = urllib.parse.urlencode(parameters).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data or None, timeout=30) as answer:
            return json.load(answer)["data"]


def _each(prometheus, expressions):
    """The fewest series that one of `expressions` returned, and its error."""
    found = [(*prometheus.series(expression), expression) for expression in expressions]
    count, error, expression = min(found)
    return count, error or ("" if count else expression)


def _print(rows):
    width = max(len(where) for where, _, _ in rows)
    for where, count, _ in rows:
        print(f"  {where:<{width}}  {count:>4}")
