"""PromQL from its parts: by hand, one of a hundred queries forgets its matchers and shows somebody else's server.

Every selector carries the board's `$job` and `$instance`; every rate is taken over `$__rate_interval`.
"""

MATCHERS = 'job=~"$job",instance=~"$instance"'
WINDOW = "$__rate_interval"


def pick(metric, where=""):
    """The selector of a metric, e.g. `up{job=~"$job",instance=~"$instance",<where>}`."""
    return f"{metric}{{{','.join(filter(None, [MATCHERS, where]))}}}"


def gauge(metric, by="", where="", aggregate="sum"):
    """A gauge, summed over everything that `by` does not name."""
    return _aggregated(aggregate, by, pick(metric, where))


def rate(counter, by="", where="", aggregate="sum"):
    """A counter per second."""
    return _aggregated(aggregate, by, f"rate({pick(counter, where)}[{WINDOW}])")


def quantile(q, histogram, by="", where=""):
    """The `q`-quantile of a histogram, over all series that `by` does not name."""
    return f"histogram_quantile({q}, {buckets(histogram, by, where)})"


def buckets(histogram, by="", where=""):
    """The buckets of a histogram per second, for a heat map."""
    return rate(f"{histogram}_bucket", ", ".join(filter(None, ["le", by])), where)


def mean(histogram, by="", where=""):
    """The mean of a histogram; 0 where nothing was observed."""
    return ratio(rate(f"{histogram}_sum", by, where), rate(f"{histogram}_count", by, where))


def ratio(part, whole):
    """`part / whole`, and 0 (instead of NaN, or of nothing) where `whole` is 0 or `part` has no series yet.

    Both must be selectors or calls: nothing here is put in parentheses.
    """
    return f"{part} / ({whole} > 0) or {whole} * 0"


def or_zero(expression):
    """`expression` by (job, instance), or 0 for each server whose build does not export it."""
    return f"{expression} or 0 * sum by (job, instance) ({pick('echo_build_info')})"


def of_server(expression):
    """Only what echo-servers export: `process_*` has the same name in every program."""
    return f"{expression} and on (job, instance) {pick('echo_build_info')}"


def of_loadgen(expression):
    """Only what load generators export."""
    return f"{expression} and on (job, instance) {pick('loadgen_build_info')}"


def process(metric, of=of_server, where=""):
    """A gauge of the process, one series per instance."""
    return f"sum by (instance) ({of(pick(metric, where))})"


def process_rate(counter, by="instance", of=of_server, where=""):
    """A counter of the process per second."""
    return _aggregated("sum", by, of(f"rate({pick(counter, where)}[{WINDOW}])"))


def state(metric, label, states):
    """The place (from 1) in `states` of the one that is set: one number per instance, for a state timeline."""
    picked = (pick(metric, f'{label}="{name}"') for name in states)
    numbered = " or ".join(f"{number} * {series}" for number, series in enumerate(picked, 1))
    return f"sum by (instance) ({numbered})"


def _aggregated(aggregate, by, expression):
    return f"{aggregate} by ({by}) ({expression})" if by else f"{aggregate}({expression})"
