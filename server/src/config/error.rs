//! Why there is no configuration: a user who is told "invalid value" has to guess which, and what would be right.

use std::path::PathBuf;

use super::Setting;

/// Why there is no configuration. Each message names the value, what it may be, and where to change it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not allow.
    #[error(
        "{origin} = {value:?}: must be {limit} (flag {flag}, environment {env}, file key {key})",
        flag = setting.flag(), env = setting.env(), key = setting.key
    )]
    Value {
        /// The flag, environment variable or file line that the value came from.
        origin: String,
        /// The value as given.
        value: String,
        /// What the setting allows.
        limit: String,
        /// The setting.
        setting: &'static Setting,
    },
    /// Two settings that contradict each other.
    #[error("{left} = {left_value} must not be above {right} = {right_value}: {why}")]
    Contradiction {
        /// Flag of the smaller one.
        left: String,
        /// Its value.
        left_value: String,
        /// Flag of the larger one.
        right: String,
        /// Its value.
        right_value: String,
        /// Why they depend on each other.
        why: &'static str,
    },
    /// A setting that means nothing without another, or beside it.
    #[error("{flag} = {value} needs {needs}")]
    Incomplete {
        /// The setting's flag.
        flag: String,
        /// Its value.
        value: String,
        /// What has to be set, too, or not.
        needs: &'static str,
    },
    /// A setting that this build has no part for.
    #[error("{flag} = {value} needs a build with {needs}")]
    NotBuilt {
        /// The setting's flag.
        flag: String,
        /// Its value.
        value: String,
        /// What to build with.
        needs: &'static str,
    },
    /// The file-descriptor limit does not carry the connections.
    #[error(
        "--connections-max {wanted} needs {} file descriptors ({reserved} are kept for the process itself), but the \
         limit is {fd_limit}: raise it (ulimit -n, LimitNOFILE=, docker --ulimit nofile=), or lower --connections-max",
        wanted + reserved
    )]
    TooFewFds {
        /// Connections asked for; 1 where none fits.
        wanted: usize,
        /// `RLIMIT_NOFILE`, after raising the soft limit to the hard one.
        fd_limit: usize,
        /// Descriptors that are not for connections.
        reserved: usize,
    },
    /// The file cannot be read.
    #[error("--config {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("--config {}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The reason, with the line.
        source: Box<toml::de::Error>,
    },
    /// The file sets a key that is no setting.
    #[error("--config {}: unknown key {key:?}{hint}; --print-config lists all", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// `, did you mean ...?` where a key is close.
        hint: String,
    },
    /// The command line does not parse, or asks for help or the version.
    #[error(transparent)]
    Usage(Box<clap::Error>),
}
