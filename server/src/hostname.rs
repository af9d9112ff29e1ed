//! The name of the machine: without it nobody can say which of many instances answered.

use std::sync::LazyLock;

use http::HeaderValue;

/// The machine's name (in a container its own), asked for once.
pub(crate) fn text() -> &'static str {
    static NAME: LazyLock<String> =
        LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    &NAME
}

/// The same as the value of a header.
pub(crate) fn value() -> HeaderValue {
    static VALUE: LazyLock<HeaderValue> =
        LazyLock::new(|| HeaderValue::try_from(text()).unwrap_or(HeaderValue::from_static("?")));
    VALUE.clone()
}
