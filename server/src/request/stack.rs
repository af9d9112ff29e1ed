//! The list of layers: without one place that reads from top to bottom nobody can say what a request meets, and in
//! what order.

use super::{
    admission::Admission, conformance::Conformance, deadline::Deadline, meter::Meter, rescue::Rescue,
    trace::Trace,
};
use crate::activity::Activity;

/// [`stack`]'s layers around the service `S`.
pub(crate) type Stack<S> = Meter<Rescue<Conformance<Admission<Trace<Deadline<S>>>>>>;

/// Puts the layers around a service, for one connection.
pub(crate) fn stack<S>(service: S, activity: &Activity) -> Stack<S> {
    // Innermost first, as the values nest; read upwards for the path of a request.

    // Ends a request whose response head takes too long. Next to the service: what it cuts is the service alone.
    let deadline = Deadline::new(service, activity.config().request_timeout);
    // Only admitted requests get a span, and only sampled ones pay for it. It ends with the response's body.
    let trace = Trace::new(deadline, activity.clone());
    // Refuses before any work is done; its guard goes with the body to its end.
    let admission = Admission::new(trace, activity.clone());
    // Refuses what no service may have to understand; costs less than admission, and such a request takes no place.
    let conformance = Conformance::new(admission);
    // The one place where an error or a panic becomes a status.
    let rescue = Rescue::new(conformance, activity.clone());
    // Outermost: counts sheds, panics and aborts, too.
    Meter::new(rescue, activity.clone())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tower::Service;

    use super::*;
    use crate::{echo::Echo, request::RequestBody};

    /// Every request moves its future through the layers and into hyper's box: bytes are time.
    #[test]
    fn the_future_of_a_request_stays_small() {
        type Future = <Stack<Echo> as Service<Request<RequestBody>>>::Future;
        let (service, whole) =
            (size_of::<<Echo as Service<Request<RequestBody>>>::Future>(), size_of::<Future>());
        assert!(
            whole <= service + 240,
            "the layers add {} bytes to the {service} of the service",
            whole - service
        );
        assert!(size_of::<RequestBody>() <= 96, "{}", size_of::<RequestBody>());
        assert!(service <= 240, "{service}");
    }
}
