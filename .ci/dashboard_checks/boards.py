"""Reads what is checked: the boards' JSON, the rules' YAML, and the variables of a query."""

import itertools
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
GRAFANA = DASHBOARDS / "grafana"
PROMETHEUS = DASHBOARDS / "prometheus"
SCRAPE_INTERVAL = "5s"

# Grafana's own values at a scrape interval of 5 s: $__rate_interval is four of them.
VARIABLES = {
    "__rate_interval": "20s",
    "__interval": SCRAPE_INTERVAL,
    "__range": "60s",
    "__range_s": "60",
    "__interval_ms": "5000",
    "__rate_interval_ms": "20000",
    "job": ".+",
    "instance": ".+",
    "datasource": "prometheus",
}


def boards():
    """(file name, board) of every board."""
    return [(path.name, json.loads(path.read_text())) for path in sorted(GRAFANA.glob("*.json"))]


def panels(board):
    """All panels that are no headings, those of collapsed rows included."""
    for panel in board["panels"]:
        yield from panel.get("panels", []) if panel["type"] == "row" else [panel]


def queries():
    """(where, expression, whether it is an instant query) of every query of a panel."""
    for name, board in boards():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']} {target['refId']}", target["expr"], target.get("instant", False)


def exemplar_queries():
    """(where, expression) of every query of a panel that also draws exemplars."""
    for name, board in boards():
        for panel in panels(board):
            for target in panel["targets"]:
                if target["exemplar"]:
                    yield f"{name}: {panel['title']} {target['refId']}", target["expr"]


def annotations():
    """(where, expression) of every annotation that Prometheus draws."""
    for name, board in boards():
        for annotation in board["annotations"]["list"]:
            if "expr" in annotation:
                yield f"{name}: annotation {annotation['name']}", annotation["expr"]


def variable_queries():
    """(where, selector, label) of every variable that is filled from Prometheus."""
    for name, board in boards():
        for variable in board["templating"]["list"]:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
            if match:
                yield f"{name}: variable {variable['name']}", *match.groups()


def filled(expression):
    """`expression` with every variable filled in."""
    return re.sub(
        r"\$\{(\w+)(?::\w+)?\}|\$(\w+)", lambda match: VARIABLES[match.group(1) or match.group(2)], expression
    )


def rules():
    """(kind, name, expression) of every rule, kind being `record` or `alert`.

    The files are read by their layout, since the standard library has no YAML: `- record: NAME` or `- alert: NAME`,
    then `expr:` on one line or as an indented block. `.ci/dashboards rules` compares their number with promtool's.
    """
    return [rule for path in rule_files() for rule in _rules_of(path.read_text())]


def rule_files():
    return sorted((PROMETHEUS / "rules").glob("*.yml"))


def _rules_of(text):
    lines = text.splitlines()
    kind = name = None
    for number, line in enumerate(lines):
        start = re.match(r"\s+- (record|alert): (\S+)$", line)
        if start:
            kind, name = start.groups()
        expression = re.match(r"(\s+)expr: (.*)$", line)
        if expression:
            indent, value = expression.groups()
            yield kind, name, value if value not in ("|", ">-") else _block(lines[number + 1 :], len(indent))


def _block(lines, indent):
    inside = itertools.takewhile(lambda line: len(line) - len(line.lstrip()) > indent, lines)
    return " ".join(line.strip() for line in inside)
