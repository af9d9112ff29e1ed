"""One function per panel type, so that all panels of a kind look and behave the same; and the grid that they stand on.

A panel says what it shows (`shows`) and what to do when it looks wrong (`act`): both are required.
"""

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
GRID_WIDTH = 24

# The same thing has the same colour on every board.
COLOURS = {
    "p50": "green",
    "p90": "yellow",
    "p99": "orange",
    "p99.9": "red",
    "limit": "dark-red",
    "1xx": "purple",
    "2xx": "green",
    "3xx": "blue",
    "4xx": "orange",
    "5xx": "red",
    "offered": "text",
    "due": "blue",
    "sent": "purple",
    "ok": "green",
    "failed": "red",
    "in": "blue",
    "out": "green",
    "5m": "orange",
    "1h": "yellow",
    "6h": "blue",
}
LABEL_VALUES = {"status_class": ["1xx", "2xx", "3xx", "4xx", "5xx"]}

ZEROS_OUT_OF_THE_LEGEND = {
    "matcher": {"id": "byValue", "options": {"reducer": "allIsZero", "op": "gte", "value": 0}},
    "properties": [{"id": "custom.hideFrom", "value": {"legend": True, "tooltip": True, "viz": False}}],
}


def query(expression, legend, exemplars=False):
    """One line, or one group of lines, of a panel."""
    return {"expr": expression, "legendFormat": legend, "exemplar": exemplars}


def steps(*bounds, below="green"):
    """Thresholds: `steps((0.8, "orange"), (0.9, "red"))`."""
    return [{"color": below, "value": None}, *({"color": colour, "value": value} for value, colour in bounds)]


def lines(
    title,
    unit,
    shows,
    act,
    queries,
    *,
    width=8,
    height=8,
    thresholds=None,
    stacked=False,
    log=False,
    highest=None,
    quiet_zeros=False,
):
    """Lines over time. `thresholds` draw the bounds from which on it is wrong; `quiet_zeros` leaves lines that are 0
    all the time out of the legend, where a label has many values that rarely happen.
    """
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 5,
        "gradientMode": "opacity",
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line+area" if thresholds else "off"},
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }
    defaults = {
        "unit": unit,
        "min": None if log else 0,
        "max": highest,
        "color": {"mode": "palette-classic-by-name"},
        "custom": custom,
        "thresholds": {"mode": "absolute", "steps": thresholds or steps()},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel(
        "timeseries",
        title,
        shows,
        act,
        queries,
        width,
        height,
        defaults,
        options,
        [*_colours(queries), *([ZEROS_OUT_OF_THE_LEGEND] if quiet_zeros else [])],
    )


def stat(
    title, unit, shows, act, expression, *, legend="", width=3, height=4, thresholds=None, mappings=None, decimals=None
):
    """One number, coloured by its thresholds, over its recent course."""
    defaults = {
        "unit": unit,
        "decimals": decimals,
        "mappings": mappings or [],
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": thresholds or steps(below="text")},
    }
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "auto",
        "textMode": "auto",
        "colorMode": "value",
        "graphMode": "none" if mappings else "area",
        "justifyMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return _panel("stat", title, shows, act, [query(expression, legend)], width, height, defaults, options)


def heat(title, unit, shows, act, expression, *, width=16, height=8, exemplars=False):
    """How the values of a histogram are spread over time; a dot is a request with a trace."""
    target = query(expression, "{{le}}", exemplars) | {"format": "heatmap"}
    defaults = {
        "unit": "short",
        "custom": {
            "hideFrom": {"legend": False, "tooltip": False, "viz": False},
            "scaleDistribution": {"type": "linear"},
        },
    }
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "showValue": "never",
        "color": {
            "mode": "scheme",
            "scheme": "Turbo",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        "tooltip": {"mode": "single", "showColorScale": True, "yHistogram": True},
    }
    return _panel("heatmap", title, shows, act, [target], width, height, defaults, options)


def timeline(title, shows, act, queries, mappings, *, width=12, height=5, thresholds=None):
    """Which state each instance was in, as bars over time."""
    defaults = {
        "unit": "none",
        "mappings": mappings,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": thresholds or steps(below="text")},
        "custom": {"fillOpacity": 80, "lineWidth": 0, "hideFrom": {"legend": False, "tooltip": False, "viz": False}},
    }
    options = {
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "alignValue": "left",
        "tooltip": {"mode": "single", "sort": "none"},
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    }
    return _panel("state-timeline", title, shows, act, queries, width, height, defaults, options)


def table(title, shows, act, expression, columns, *, width=12, height=5):
    """The labels of an info metric, one row per instance."""
    target = query(expression, "") | {"format": "table", "instant": True, "range": False}
    hidden = {"Time": True, "Value": True, "__name__": True}
    layout = {"excludeByName": hidden, "indexByName": {name: place for place, name in enumerate(columns)}}
    defaults = {"unit": "string", "custom": {"align": "auto", "cellOptions": {"type": "auto"}}}
    panel = _panel(
        "table",
        title,
        shows,
        act,
        [target],
        width,
        height,
        defaults,
        {"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
    )
    return panel | {"transformations": [{"id": "organize", "options": layout}]}


def states(*named):
    """Value mappings for `queries.state`: `states(("serving", "green"), ...)`, numbered from 1."""
    options = {str(n): {"text": name, "color": colour, "index": n} for n, (name, colour) in enumerate(named, 1)}
    return [{"type": "value", "options": options}]


def row(title, *panels):
    """A heading and the panels below it, laid out from left to right."""
    return title, panels


def grid(rows):
    """The panels of all rows with their places and ids. A line of a row is as high as its highest panel."""
    placed, y = [], 0
    for title, panels in rows:
        heading = {"type": "row", "title": title, "collapsed": False, "panels": []}
        placed.append(heading | {"gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}})
        x, y, line_height = 0, y + 1, 0
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > GRID_WIDTH:
                x, y, line_height = 0, y + line_height, 0
            placed.append(panel | {"gridPos": {"x": x, "y": y, **size}})
            x, line_height = x + size["w"], max(line_height, size["h"])
        y += line_height
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def _panel(kind, title, shows, act, queries, width, height, defaults, options, overrides=()):
    targets = [
        {
            "refId": chr(ord("A") + n),
            "datasource": PROMETHEUS,
            "editorMode": "code",
            "range": True,
            "instant": False,
            **each,
        }
        for n, each in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": f"{shows}\n\n**When it looks wrong:** {act}",
        "datasource": PROMETHEUS,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": {k: v for k, v in defaults.items() if v is not None}, "overrides": list(overrides)},
        "options": options,
    }


def _colours(queries):
    """Fixed colours for the legends that have one, and a dashed line for limits."""
    names = []
    for each in queries:
        label = each["legendFormat"].strip("{}")
        names += LABEL_VALUES.get(label, [each["legendFormat"]])
    for name in names:
        colour = COLOURS.get(name.split()[-1])
        if colour:
            properties = [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]
            if name.split()[-1] == "limit":
                properties += [
                    {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
                    {"id": "custom.fillOpacity", "value": 0},
                ]
            if name.startswith("server "):
                properties.append({"id": "custom.lineStyle", "value": {"fill": "dot", "dash": [2, 6]}})
            yield {"matcher": {"id": "byName", "options": name}, "properties": properties}
