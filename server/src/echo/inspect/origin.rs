//! Which instance answers: of a hundred behind one address, the one that is wrong has to be found.

use crate::config::Config;

/// Where this instance runs, as the environment tells it. Four variables and no others: an environment holds secrets.
#[derive(Debug)]
pub(in crate::echo) struct Origin {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) service: String,
    pub(super) ingress: String,
    plain_port: String,
    tls_port: String,
}

impl Origin {
    pub(in crate::echo) fn new(config: &Config) -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        // Port 0 is whatever the kernel chose.
        let port = |port: u16| if port == 0 { String::new() } else { port.to_string() };
        Self {
            namespace: variable("NAMESPACE"),
            pod: variable("POD_NAME"),
            service: variable("SERVICE_NAME"),
            ingress: variable("INGRESS_NAME"),
            plain_port: port(config.listen.port()),
            tls_port: config.listen_tls.map_or_else(String::new, |address| port(address.port())),
        }
    }

    /// The port of the listener; empty where it is not known.
    pub(super) fn port(&self, is_tls: bool) -> &str {
        if is_tls { &self.tls_port } else { &self.plain_port }
    }
}
