"""What the three boards share: variables, links, annotations, time range."""

from .panels import PROMETHEUS, grid
from .queries import of_server, pick


def board(uid, title, description, job_metric, rows, annotations):
    """A dashboard in Grafana's classic JSON. `job_metric` is a metric that tells the board's jobs from others."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["echo"],
        "schemaVersion": 42,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]},
        "links": [_links()],
        "annotations": {"list": [_built_in(), *annotations]},
        "templating": {"list": [_datasource(), *_selection(job_metric)]},
        "panels": grid(rows),
    }


def annotation(name, colour, expression, text):
    """A vertical line wherever `expression` has a value."""
    return {
        "name": name,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "datasource": PROMETHEUS,
        "expr": expression,
        "step": "5s",
        "titleFormat": name,
        "textFormat": text,
        "useValueForTime": False,
    }


def restarts():
    """A line where a server was started again."""
    changed = of_server(f"changes({pick('process_start_time_seconds')}[$__rate_interval]) > 0")
    return annotation("Restart", "red", changed, "{{instance}} was started again")


def drains():
    """A line where a server began or ended to serve."""
    serving = pick("echo_phase", 'phase="serving"')
    changed = f"changes({serving}[$__rate_interval]) > 0"
    return annotation("Phase", "blue", changed, "{{instance}} began or ended to serve")


def _links():
    return {
        "type": "dashboards",
        "title": "Echo boards",
        "tags": ["echo"],
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": False,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "The other boards, same time range",
        "url": "",
    }


def _built_in():
    return {
        "builtIn": 1,
        "name": "Annotations & Alerts",
        "type": "dashboard",
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    }


def _datasource():
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "hide": 0,
        "current": {"text": "Prometheus", "value": "prometheus"},
        "multi": False,
        "includeAll": False,
        "refresh": 1,
        "options": [],
        "regex": "",
    }


def _selection(job_metric):
    matchers = f"{{{job_metric}}}" if "=" in job_metric else job_metric
    jobs = f"label_values({matchers}, job)"
    joined = f'{{{job_metric},job=~"$job"}}' if "=" in job_metric else f'{job_metric}{{job=~"$job"}}'
    yield _variable("job", "Job", jobs)
    yield _variable("instance", "Instance", f"label_values({joined}, instance)")


def _variable(name, label, definition):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "definition": definition,
        "query": {"query": definition, "refId": f"Variable-{name}"},
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "regex": "",
        "options": [],
    }
