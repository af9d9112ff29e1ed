"""As much of PromQL as the checks need: which series a query reads, inside which function, and what it compares."""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<range>\[[^\]]*\])
      | (?P<number>\d[\d.]*(?:[eE][+-]?\d+)?(?:ms|[smhdwy])?|\.\d+)
      | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
      | (?P<operator>=~|!~|==|!=|<=|>=|[-+*/%^<>=(){},@])""",
    re.VERBOSE,
)
KEYWORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}
LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
SET_OPERATORS = {"and", "or", "unless"}
COMPARISONS = {"==", "!=", "<", ">", "<=", ">="}


@dataclass
class Selector:
    """One `metric{...}[...]`; `within` is the function whose argument it is."""

    metric: str
    matchers: dict = field(default_factory=dict)
    window: str = ""
    within: str = ""


def tokens(expression):
    """(kind, text) pairs without spaces and comments."""
    place, found = 0, []
    while place < len(expression):
        match = TOKEN.match(expression, place)
        if not match:
            raise ValueError(f"cannot read {expression[place : place + 20]!r} in {expression!r}")
        if match.lastgroup != "space":
            found.append((match.lastgroup, match.group()))
        place = match.end()
    return found


def selectors(expression):
    """All selectors of a query. ValueError or IndexError if it is no PromQL."""
    left, found, functions = tokens(expression), [], []
    while left:
        kind, text = left.pop(0)
        following = left[0][1] if left else ""
        if text in LABEL_LISTS:
            if following == "(":
                _skip_parentheses(left)
        elif kind == "name" and following in ("(", "by", "without"):
            if left.pop(0)[1] != "(":
                _skip_parentheses(left)
                left.pop(0)
            functions.append(text)
        elif text == "(":
            functions.append("")
        elif text == ")":
            functions.pop()
        elif (kind == "name" and text.lower() not in KEYWORDS) or text == "{":
            selector = Selector(text if kind == "name" else "", within=functions[-1] if functions else "")
            if text == "{" or following == "{":
                if text != "{":
                    left.pop(0)
                selector.matchers = _matchers(left)
            if left and left[0][0] == "range":
                selector.window = left.pop(0)[1][1:-1]
            found.append(selector)
    if functions:
        raise ValueError(f"a parenthesis is not closed in {expression!r}")
    return found


def metrics(expression):
    """The names of all metrics that a query reads."""
    names = []
    for selector in selectors(expression):
        _, by_name = selector.matchers.get("__name__", ("", ""))
        names += [selector.metric] if selector.metric else by_name.split("|")
    return names


def existence(expression):
    """The expressions that must return series so that an alert on `expression` can fire at all.

    Every comparison outside of parentheses becomes a subtraction: it returns a series exactly where both sides have one
    with the same labels, whatever their values. What `and` and `or` join stays joined, so labels that never match are
    found as well. `absent(x)` is true where nothing is: there `x` must be something. `unless` hides what its right side
    names: both sides must exist on their own.
    """
    expression = _without_outer_parentheses(expression)
    absent = re.fullmatch(r"absent\((.*)\)", expression, re.DOTALL)
    if absent:
        return [absent.group(1)]
    parts, operators = _split(expression, SET_OPERATORS)
    joined = [_as_difference(parts[0])]
    for operator, part in zip(operators, parts[1:]):
        if operator.split()[0] == "unless":
            joined.append(_as_difference(re.sub(r"^\s*(on|ignoring)\s*\([^)]*\)", "", part)))
        else:
            joined[0] += f" {operator} {_as_difference(part)}"
    return joined


def _as_difference(part):
    matching = re.match(r"\s*(on|ignoring)\s*\([^)]*\)", part)
    prefix = matching.group() if matching else ""
    sides, _ = _split(_without_outer_parentheses(part[len(prefix) :]), COMPARISONS)
    sides = [side for side in sides if side.strip()]
    return f"{prefix} (({') - ('.join(side.strip() for side in sides)}))"


def _split(expression, separators):
    """The parts of `expression` between those of `separators` that stand outside of parentheses, and the separators."""
    parts, found, depth, begin = [], [], 0, 0
    for match in TOKEN.finditer(expression):
        text = match.group()
        depth += (text in "({") - (text in ")}") if match.lastgroup == "operator" else 0
        if depth == 0 and text in separators and match.lastgroup in ("name", "operator"):
            parts.append(expression[begin : match.start()])
            found.append(text)
            begin = match.end()
    return [*parts, expression[begin:]], found


def _without_outer_parentheses(expression):
    expression = expression.strip()
    while expression.startswith("("):
        depth = 0
        for match in TOKEN.finditer(expression):
            if match.lastgroup == "operator":
                depth += (match.group() == "(") - (match.group() == ")")
            if depth == 0:
                break
        if match.end() != len(expression):
            break
        expression = expression[1:-1].strip()
    return expression


def _matchers(left):
    """The matchers up to the closing brace."""
    found = {}
    while left and left[0][1] != "}":
        label, operator, value = left.pop(0)[1], left.pop(0)[1], left.pop(0)[1]
        found[label] = (operator, value[1:-1])
        if left and left[0][1] == ",":
            left.pop(0)
    left.pop(0)
    return found


def _skip_parentheses(left):
    while left.pop(0)[1] != ")":
        pass
