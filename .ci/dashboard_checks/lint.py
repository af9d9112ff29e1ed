"""The rules of the public linter (github.com/grafana/dashboard-linter), and what it ignores: ids, places, texts.

A rule yields one sentence per finding. The names in RULES are the linter's own where it has the rule.
"""

import contextlib
import subprocess
import sys

from . import promql
from .boards import GRAFANA, boards, filled, panels

GRID_WIDTH = 24
TEMPLATED = ("$datasource", "${datasource}")
RATES = ("rate", "irate")
COUNTER_FUNCTIONS = ("rate", "irate", "increase")
RAW_WINDOWS = ("rate", "irate", "increase", "delta", "idelta")
QUERY_TYPES = {"timeseries", "stat", "heatmap", "state-timeline", "table"}
# Of Grafana's list of units, those that a panel here may have; another one is added here after a look at that list.
UNITS = {"none", "string", "short", "percentunit", "bytes", "Bps", "s", "reqps", "ops", "cps"}
MARK = "**When it looks wrong:**"
# What a panel must say in its description if it reads such a metric: else it is taken for broken where it is empty.
CONDITIONS = {
    "tokio_poll_time_seconds": "--task-histograms",
    "tokio_schedule_latency_seconds": "--task-histograms",
    "echo_console_events_dropped_total": "--features console",
}


def run():
    """Prints every finding; 1 if there is one."""
    findings = [
        f"{name}: {rule}: {text}" for name, board in boards() for rule, check in RULES.items() for text in check(board)
    ]
    findings += _across_boards()
    for finding in findings:
        print(finding, file=sys.stderr)
    count = sum(1 for _, board in boards() for _ in panels(board))
    print(f"lint: {len(boards())} boards, {count} panels, {len(RULES)} rules each: {len(findings)} findings")
    built = subprocess.run([sys.executable, GRAFANA / "build.py", "--check"], check=False).returncode
    return 1 if findings or built else 0


def template_datasource(board):
    found = [each for each in _variables(board) if each["type"] == "datasource"]
    if [(each["name"], each["label"], each["query"]) for each in found] != [
        ("datasource", "Data source", "prometheus")
    ]:
        yield "there must be one data source variable, $datasource, labelled 'Data source'"


def template_job(board):
    yield from _selection(board, "job")


def template_instance(board):
    yield from _selection(board, "instance")


def template_on_time_change_reload(board):
    for variable in _variables(board):
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield f"${variable['name']} must be filled again when the time range changes (refresh 2)"


def panel_datasource(board):
    for panel in panels(board):
        for holder in [panel, *panel["targets"]]:
            if holder["datasource"]["uid"] not in TEMPLATED:
                yield f"{panel['title']!r} must use $datasource"


def panel_title_description(board):
    for panel in panels(board):
        shows, mark, act = panel.get("description", "").partition(MARK)
        if not panel.get("title"):
            yield f"panel {panel['id']} has no title"
        if not (mark and shows.strip().endswith(".") and act.strip().endswith(".")):
            yield f"{panel['title']!r} must say what it shows and what to do when it looks wrong"


def panel_units(board):
    for panel in panels(board):
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{panel['title']!r} has no unit, or one that Grafana does not have"


def panel_no_targets(board):
    for panel in panels(board):
        if panel["type"] not in QUERY_TYPES:
            yield f"{panel['title']!r} is of the unknown type {panel['type']}"
        if not panel["targets"]:
            yield f"{panel['title']!r} has no query"


def target_promql(board):
    for panel, target in _targets(board):
        try:
            if not promql.selectors(target["expr"]):
                yield f"{panel['title']!r} reads no series"
        except (ValueError, IndexError) as error:
            yield f"{panel['title']!r}: {error}"


def target_rate_interval(board):
    for panel, selector in _selectors(board):
        if selector.within in RAW_WINDOWS and selector.window != "$__rate_interval":
            call = f"{selector.within}({selector.metric}[{selector.window}])"
            yield f"{panel['title']!r}: {call} must use $__rate_interval"


def target_job(board):
    yield from _matcher(board, "job")


def target_instance(board):
    yield from _matcher(board, "instance")


def target_counter_agg(board):
    for panel, selector in _selectors(board):
        if (
            selector.metric.endswith(("_total", "_count", "_sum", "_bucket"))
            and selector.within not in COUNTER_FUNCTIONS
        ):
            yield f"{panel['title']!r}: the counter {selector.metric} must be inside rate or increase"


def uneditable(board):
    if board["editable"]:
        yield "editable must be false: changes belong into the repository"


def shared_crosshair(board):
    if board["graphTooltip"] not in (1, 2):
        yield "graphTooltip must be 1: one crosshair on all panels"


def ids(board):
    numbers = [panel["id"] for panel in board["panels"]]
    if len(set(numbers)) != len(numbers):
        yield "panel ids are not unique"
    titles = [panel["title"] for panel in panels(board)]
    for title in {title for title in titles if titles.count(title) > 1}:
        yield f"two panels are called {title!r}"
    for panel in panels(board):
        references = [target["refId"] for target in panel["targets"]]
        if len(set(references)) != len(references):
            yield f"{panel['title']!r} uses a refId twice"


def places(board):
    taken = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > GRID_WIDTH or min(place["w"], place["h"]) < 1:
            yield f"{panel['title']!r} does not fit the grid of {GRID_WIDTH}"
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            if cell in taken:
                yield f"{panel['title']!r} lies on {taken[cell]!r}"
                break
            taken[cell] = panel["title"]


def rows(board):
    for panel in board["panels"]:
        if panel["type"] == "row" and panel["collapsed"]:
            yield f"row {panel['title']!r} is collapsed: nobody looks there"


def links(board):
    if not any(link["type"] == "dashboards" and set(link["tags"]) <= set(board["tags"]) for link in board["links"]):
        yield "no link to the other boards by a tag that this board has"


def conditions(board):
    for panel, selector in _selectors(board):
        for metric, condition in CONDITIONS.items():
            if selector.metric.startswith(metric) and condition not in panel["description"]:
                yield f"{panel['title']!r} must say that {metric} needs {condition}"


def variables_known(board):
    for panel, target in _targets(board):
        try:
            filled(target["expr"])
        except KeyError as error:
            yield f"{panel['title']!r} uses an unknown variable {error}"


RULES = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template_job,
    "template-instance-rule": template_instance,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_job,
    "target-instance-rule": target_instance,
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable,
    "shared-crosshair": shared_crosshair,
    "ids": ids,
    "places": places,
    "rows": rows,
    "links": links,
    "conditions": conditions,
    "variables": variables_known,
}


def _across_boards():
    uids = [board["uid"] for _, board in boards()]
    if sorted(uids) != ["echo-load-test", "echo-overview", "echo-runtime"]:
        yield f"the uids are {uids}: bookmarks, links and alerts name echo-overview, echo-runtime and echo-load-test"


def _variables(board):
    return board["templating"]["list"]


def _selection(board, name):
    found = [each for each in _variables(board) if each["name"] == name]
    wanted = {"type": "query", "label": name.title(), "multi": True, "includeAll": True, "allValue": ".+"}
    if len(found) != 1:
        yield f"${name} is missing"
    for variable in found:
        if variable["datasource"]["uid"] not in TEMPLATED:
            yield f"${name} must use $datasource"
        for key, value in wanted.items():
            if variable.get(key) != value:
                yield f"${name}: {key} must be {value!r}"


def _targets(board):
    return ((panel, target) for panel in panels(board) for target in panel["targets"])


def _selectors(board):
    """(panel, selector) of every query that can be read; the others are target_promql's."""
    for panel, target in _targets(board):
        with contextlib.suppress(ValueError, IndexError):
            for selector in promql.selectors(target["expr"]):
                yield panel, selector


def _matcher(board, label):
    for panel, selector in _selectors(board):
        if selector.matchers.get(label) != ("=~", f"${label}"):
            yield f'{panel["title"]!r}: {selector.metric} needs {label}=~"${label}"'
