//! Without flags that users of hey and oha know already, nobody would try it for a minute.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use http::{
    header::CONTENT_TYPE,
    {HeaderMap, HeaderName, HeaderValue, Method},
};

use crate::{
    engine::{request::parse_header, tls::TlsOptions},
    healthcheck,
    live::Progress,
    plan::{BODY_LEN_MAX, BodySource, CONNECTIONS_DEFAULT, CheckMode, Plan, PlanError, PlanOptions},
    stages::Stages,
    units::{count, duration, size},
};

/// What is shown to someone who types the bare name.
pub const SHORT_HELP: &str = "\
loadgen sends HTTP load, checks every answer and proves its numbers. Type one of:

  loadgen demo                                           see it work: own server, own load, all checked
  loadgen -z 10s http://localhost:8080/                  as fast as the server answers (closed loop)
  loadgen -q 2k -z 30s http://localhost:8080/            2,000 requests per second (open loop)
  loadgen -q 1k -z 30s --body-size 64,16k http://localhost:8080/echo
                                                         random bodies, every echoed byte checked
  loadgen --help                                         all flags
";

const EXAMPLES: &str = "\
Examples:
  loadgen demo
  loadgen -c 64 -z 10s http://localhost:8080/
  loadgen -q 2k -z 30s --warmup 5s http://localhost:8080/
  loadgen -q 1k -z 30s --body-size 64,16k --seed 42 --json run.json http://localhost:8080/echo
  loadgen --http2 --streams 10 -c 8 -q 5k --insecure https://localhost:8443/
  loadgen --stages '10s@500,30s@500->5000,20s@5000->500' --repeat --metrics 0.0.0.0:9091 http://localhost:8080/
  loadgen -n 100k -m PUT -D body.bin -T image/png -H 'X-Key: v' http://localhost:8080/echo

Latency counts from the instant at which a request was due, always; service time, and the lags of busy \
connections and of the generator itself, stand beside it and add up to it.

Every flag of a run has an environment twin: LOADGEN_URL, LOADGEN_STAGES, LOADGEN_BODY_SIZE... (long names, in \
capitals). A flag beats its twin and the twins of what it excludes (-q beats LOADGEN_STAGES); an empty variable counts \
as unset.

Exit codes: 0 all right; 1 a request failed or an echo was wrong; 2 wrong usage; 4 the run says nothing \
about the server (see the verdict); 130, 143 ended by SIGINT, SIGTERM, also where nothing else ends the run \
(--repeat): then the report is whole.";

/// The command line of loadgen.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    about = "An HTTP load generator whose every report carries its own proof."
)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What loadgen does besides runs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start an echo server, find its capacity, load it at a part of that, and check everything
    Demo(DemoArgs),
    /// Ask a load generator that runs with --metrics, or any other URL: exit code 0 if the answer is 2xx, else 1
    Healthcheck(HealthcheckArgs),
    /// Run the embedded echo server (what `demo` starts as its child)
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// Flags of `loadgen demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Seconds of open-loop load
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Load as a fraction of the capacity found, above 0 and up to 2
    #[arg(long, value_name = "F", default_value_t = 0.7, value_parser = rate_fraction)]
    pub rate_fraction: f64,
    /// Write the report of the open-loop run as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
}

/// Arguments of `loadgen healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct HealthcheckArgs {
    /// What to ask; 2 s are allowed for it
    #[arg(default_value = healthcheck::URL_DEFAULT)]
    pub url: String,
}

/// Arguments of the hidden `loadgen serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Run on these cores only
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// The server's own flags
    #[arg(last = true)]
    pub server: Vec<OsString>,
}

/// Flags of a run.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct RunArgs {
    /// Target, e.g. http://localhost:8080/echo or https://localhost:8443/
    #[arg(required = true, env = "LOADGEN_URL")]
    pub url: Option<String>,
    /// Open loop: requests per second in total over all threads (k and m allowed); closed loop without
    #[arg(short = 'q', long, value_name = "RATE", value_parser = count, env = "LOADGEN_RATE")]
    pub rate: Option<u64>,
    /// Open loop at rates that change, e.g. 10s@500,30s@500->5000 (steady, then rising); ends with the last stage
    #[arg(long, value_name = "STAGES", env = "LOADGEN_STAGES")]
    pub stages: Option<Stages>,
    /// No end but SIGINT or SIGTERM: stages begin again after the last one, other runs just go on. Waits for a
    /// server that is not there yet, and for one that goes away
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LOADGEN_REPEAT")]
    pub repeat: bool,
    /// Connections in total
    #[arg(short, long, value_name = "N", default_value_t = CONNECTIONS_DEFAULT, env = "LOADGEN_CONNECTIONS")]
    pub connections: usize,
    /// Speak HTTP/2: agreed on by ALPN over https://, by prior knowledge over http://
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LOADGEN_HTTP2")]
    pub http2: bool,
    /// Requests at a time on each HTTP/2 connection [default: 1]
    #[arg(long, value_name = "N", env = "LOADGEN_STREAMS")]
    pub streams: Option<usize>,
    /// Trust any certificate of the server
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LOADGEN_INSECURE")]
    pub insecure: bool,
    /// Trust the certificates in this file (PEM) instead of the built-in roots
    #[arg(long, value_name = "FILE", env = "LOADGEN_CACERT")]
    pub cacert: Option<PathBuf>,
    /// Client certificate with its chain (PEM)
    #[arg(long, value_name = "FILE", env = "LOADGEN_CERT")]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", env = "LOADGEN_KEY")]
    pub key: Option<PathBuf>,
    /// Connect to this Unix socket; the URL still says what is asked for
    #[arg(long, value_name = "PATH", env = "LOADGEN_UNIX")]
    pub unix: Option<PathBuf>,
    /// Stop after this many requests (k and m allowed), warm-up not counted
    #[arg(short = 'n', long, value_name = "N", value_parser = count, env = "LOADGEN_REQUESTS")]
    pub requests: Option<u64>,
    /// Stop sending after this time, e.g. 30s or 500ms; a bare number is seconds [default: 10s without -n]
    #[arg(short = 'z', long, value_name = "TIME", value_parser = duration, env = "LOADGEN_DURATION")]
    pub duration: Option<Duration>,
    /// Send for this time before measuring; checked and counted apart
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration, env = "LOADGEN_WARMUP")]
    pub warmup: Duration,
    /// Give up a request this long after its first byte was written, and let nothing wait longer at the end
    #[arg(short, long, value_name = "TIME", default_value = "20s", value_parser = duration, env = "LOADGEN_TIMEOUT")]
    pub timeout: Duration,
    /// Method [default: GET, or POST with a body]
    #[arg(short, long, value_name = "METHOD", env = "LOADGEN_METHOD")]
    pub method: Option<Method>,
    /// Header field 'Name: value'; may be repeated (its twin holds one)
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = parse_header, env = "LOADGEN_HEADER")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Content-Type of the body
    #[arg(short = 'T', long, value_name = "TYPE", env = "LOADGEN_CONTENT_TYPE")]
    pub content_type: Option<HeaderValue>,
    /// Body of every request
    #[arg(short = 'd', long, value_name = "TEXT", conflicts_with_all = ["data_file", "body_size"], env = "LOADGEN_DATA")]
    pub data: Option<String>,
    /// File with the body of every request
    #[arg(short = 'D', long, value_name = "FILE", conflicts_with = "body_size", env = "LOADGEN_DATA_FILE")]
    pub data_file: Option<PathBuf>,
    /// Random bodies in these sizes, equally mixed, e.g. 64,16k (k = 1024); another content each time
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size, env = "LOADGEN_BODY_SIZE")]
    pub body_size: Vec<u64>,
    /// What a right response is: echo = 2xx with the request's own body; status = 2xx; auto = echo with a body
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = CheckMode::Auto, hide_possible_values = true, env = "LOADGEN_CHECK")]
    pub check: CheckMode,
    /// Seed of bodies, request ids and trace ids [default: drawn, and shown in the report]
    #[arg(long, value_name = "N", env = "LOADGEN_SEED")]
    pub seed: Option<u64>,
    /// One request in N carries a traceparent with the sampled flag, so that the server keeps its trace; none if 0
    #[arg(long, value_name = "N", default_value_t = 0, env = "LOADGEN_TRACE_ONE_IN")]
    pub trace_one_in: u64,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", env = "LOADGEN_THREADS")]
    pub threads: Option<usize>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE", env = "LOADGEN_JSON")]
    pub json: Option<PathBuf>,
    /// Answer /metrics (Prometheus, OpenMetrics) and /livez on this address while the run lasts, e.g. 0.0.0.0:9091; the
    /// verdict there covers the last 30 s of the measured time
    #[arg(long, value_name = "ADDR", env = "LOADGEN_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Show no progress
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LOADGEN_NO_PROGRESS")]
    pub no_progress: bool,
}

impl RunArgs {
    /// The run that these flags describe.
    ///
    /// # Errors
    /// The first value that cannot be, with its limit and its flag.
    pub fn plan(self) -> Result<Plan, PlanError> {
        let body = self.body()?;
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        Plan::new(PlanOptions {
            url: self.url.unwrap_or_default(),
            method: self.method,
            headers,
            body,
            check: self.check,
            rate: self.rate,
            stages: self.stages,
            repeat: self.repeat,
            connections: self.connections,
            http2: self.http2,
            streams: self.streams,
            tls: TlsOptions { insecure: self.insecure, cacert: self.cacert, cert: self.cert, key: self.key },
            unix: self.unix,
            threads: self.threads,
            requests: self.requests,
            duration: self.duration,
            warmup: self.warmup,
            timeout: self.timeout,
            seed: self.seed,
            trace_one_in: self.trace_one_in,
        })
    }

    /// Where progress goes.
    pub fn progress(&self) -> Progress {
        progress(self.no_progress)
    }

    fn body(&self) -> Result<BodySource, PlanError> {
        if let Some(text) = &self.data {
            return Ok(BodySource::Bytes(text.clone().into_bytes().into()));
        }
        if let Some(path) = &self.data_file {
            let error =
                |problem: String| PlanError::new(path.display().to_string(), problem, "-D/--data-file");
            let len = std::fs::metadata(path).map_err(|cause| error(cause.to_string()))?.len();
            if len > BODY_LEN_MAX {
                return Err(error(format!("it has {len} bytes, at most {BODY_LEN_MAX} are kept in memory")));
            }
            let bytes = std::fs::read(path).map_err(|cause| error(cause.to_string()))?;
            return Ok(BodySource::Bytes(bytes.into()));
        }
        if self.body_size.is_empty() {
            Ok(BodySource::None)
        } else {
            Ok(BodySource::Sizes(self.body_size.clone()))
        }
    }
}

/// Where progress goes, given `--no-progress`.
pub fn progress(off: bool) -> Progress {
    if off { Progress::Off } else { Progress::Stderr }
}

fn rate_fraction(text: &str) -> Result<f64, String> {
    let fraction: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if fraction > 0.0 && fraction <= 2.0 {
        Ok(fraction)
    } else {
        Err("it must be above 0 and up to 2".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn plan(args: &[&str]) -> Plan {
        let cli = Cli::try_parse_from([&["loadgen"], args].concat()).unwrap();
        cli.run.plan().unwrap()
    }

    fn error(args: &[&str]) -> String {
        Cli::try_parse_from([&["loadgen"], args].concat()).unwrap_err().to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_hey_and_oha_mean_the_same() {
        let plan = plan(&[
            "-n",
            "10k",
            "-c",
            "8",
            "-q",
            "2k",
            "-m",
            "PUT",
            "-d",
            "text",
            "-T",
            "text/plain",
            "-H",
            "X-A: 1",
            "-t",
            "5",
            "-z",
            "1m",
            "http://h/p",
        ]);
        assert_eq!((plan.requests, plan.connections, plan.rate()), (Some(10_000), 8, Some(2_000)));
        assert_eq!((plan.timeout, plan.duration), (Duration::from_secs(5), Some(Duration::from_mins(1))));
        assert_eq!(plan.head.method, Method::PUT);
        assert_eq!(plan.head.headers["content-type"], "text/plain");
        assert_eq!(plan.head.headers["x-a"], "1");
    }

    #[test]
    fn body_sizes_are_binary() {
        assert_eq!(plan(&["--body-size", "64,16k", "h"]).body.sizes(), [64, 16_384]);
    }

    #[test]
    fn errors_name_the_flag() {
        assert!(error(&["-d", "a", "-D", "b", "h"]).contains("--data-file"));
        assert!(error(&["-z", "soon", "h"]).contains("--duration"));
        assert!(error(&["-q", "-5", "h"]).contains("-5"));
        assert!(error(&["-H", "Content-Length: 3", "h"]).contains("--header"));
        assert!(error(&["demo", "--rate-fraction", "3"]).contains("--rate-fraction"));
    }

    #[test]
    fn the_servers_flags_are_passed_on_as_they_are() {
        let cli = Cli::try_parse_from(["loadgen", "serve", "--cores", "0,1", "--", "--listen", "x"]).unwrap();
        let Some(Command::Serve(args)) = cli.command else { panic!("serve is a command") };
        assert_eq!((args.cores, args.server), (vec![0, 1], vec!["--listen".into(), "x".into()]));
    }
}
