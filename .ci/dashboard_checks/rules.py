"""Rules as Prometheus reads them: configuration, all expressions of rules and boards, tests of rules; all by promtool."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .boards import DASHBOARDS, PROMETHEUS, annotations, filled, queries, rule_files, rules


def run():
    """1 if promtool refuses anything, if a rule has no test, or if an alert is not in the README."""
    config = _promtool("check", "config", PROMETHEUS / "prometheus.yml")
    counted = _promtool("check", "rules", *rule_files())
    read, found = sum(map(int, re.findall(r"(\d+) rules found", counted.stdout))), rules()
    tests = sorted((PROMETHEUS / "rules" / "tests").glob("*.yml"))
    tested = _promtool("test", "rules", *tests)
    text = "".join(path.read_text() for path in tests)
    untested = [name for _, name, _ in found if not re.search(rf"(?<![\w:]){re.escape(name)}(?![\w:])", text)]
    syntax = _board_queries_are_promql()
    problems = [run.stdout + run.stderr for run in (config, counted, tested, syntax) if run.returncode]
    if read != len(found):
        problems.append(
            f"promtool reads {read} rules, this check {len(found)}: a rule file's layout is not what boards.py expects"
        )
    problems += [f"no test names the rule {name}" for name in untested]
    alerts = [name for kind, name, _ in found if kind == "alert"]
    listed = re.findall(r"^\| (\w+) \| .* \| (?:page|ticket) \|$", (DASHBOARDS / "README.md").read_text(), re.MULTILINE)
    if listed != alerts:
        problems.append(
            f"the table of alerts in dashboards/README.md differs in {sorted(set(listed) ^ set(alerts)) or 'its order'}"
        )
    for problem in problems:
        print(problem, file=sys.stderr)
    print(
        f"rules: {len(alerts)} alerts, {len(found) - len(alerts)} recording rules, {len(tests)} files of tests: "
        f"{len(problems)} findings"
    )
    return 1 if problems else 0


def _board_queries_are_promql():
    """promtool has no check for a single query, but it has one for rules: every query of a board becomes one."""
    expressions = [(where, expression) for where, expression, _ in queries()] + list(annotations())
    text = "groups:\n  - name: boards\n    rules:\n"
    for number, (where, expression) in enumerate(expressions):
        text += (
            f"      # {where}\n      - record: board:query:{number}\n        expr: |\n          {filled(expression)}\n"
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "boards.yml"
        path.write_text(text)
        return _promtool("check", "rules", path)


def _promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
