//! Refuses what is too much before any work is done for it: an overloaded server that first works and then refuses does
//! nothing else.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{
    LongLived,
    body::{BodyError, RequestBody},
    failure::Failure,
    gate::{Entry, Gate, Ticket},
    place::{Admitted, PlaceKeeper},
    response::ResponseBody,
};
use crate::{activity::Activity, overload, telemetry::metrics::Shed};

/// Decides in `call`: hyper has no readiness to push back on, and a place that is reserved in `poll_ready` but never
/// used is lost.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    activity: Activity,
}

/// What becomes of a request.
enum Decision {
    Admit(Admitted),
    Refuse(Failure),
    /// It waits for its turn.
    Wait(Turn),
}

#[derive(Debug)]
enum Turn {
    /// To be decided when its stream's task has its turn: until then it may have waited too long.
    Worker,
    /// A place in the limit of requests.
    Place(Ticket),
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }
}

impl Decision {
    fn of(activity: &Activity, request: &Request<RequestBody>, now: Option<Instant>) -> Self {
        if is_exempt(activity, request) {
            return Self::Admit(Admitted::exempt());
        }
        // Before the body is polled, so before 100-continue: the client need not send what we would not take.
        let limit = activity.config().body_max;
        if request.body().size_hint().exact().is_some_and(|declared| declared > limit) {
            return Self::Refuse(Failure::Body(BodyError::TooLarge { limit }));
        }
        match now.and_then(|now| shed_for_worker(activity, now)) {
            Some(reason) => Self::Refuse(shed(activity, reason)),
            None => Self::enter(activity, now),
        }
    }

    /// A place in the limit of requests, or in its queue.
    fn enter(activity: &Activity, now: Option<Instant>) -> Self {
        let core = activity.core();
        let entered = match core.gate.try_enter() {
            Entry::Free => Ok(Admitted::request(activity)),
            Entry::MostlyUsed => {
                let admitted = Admitted::request(activity);
                let now = now.unwrap_or_else(Instant::now);
                if core.overload.is_greedy(&activity.peer(), now) {
                    Err(Shed::FairShare)
                } else {
                    Ok(admitted)
                }
            }
            Entry::Full => {
                if let Some(limit) = core.overload.limit_reached(now.unwrap_or_else(Instant::now)) {
                    core.gate.set_limit(limit);
                }
                match Gate::enqueue(activity) {
                    Ok(ticket) => return Self::Wait(Turn::Place(ticket)),
                    Err(reason) => Err(reason),
                }
            }
        };
        match entered {
            Ok(admitted) => {
                core.overload.admitted();
                Self::Admit(admitted)
            }
            Err(reason) => Self::Refuse(shed(activity, reason)),
        }
    }
}

/// Health is asked for most when there is trouble, and to refuse the answer makes more of it.
fn is_exempt(activity: &Activity, request: &Request<RequestBody>) -> bool {
    let is_exempt = activity.core().reporting.is_exempt;
    let is_exempt = is_exempt.is_some_and(|is_exempt| is_exempt(request.uri().path()));
    if is_exempt {
        activity.asks_for_health();
    }
    is_exempt
}

/// Why the calling worker cannot take the request, if it cannot.
fn shed_for_worker(activity: &Activity, now: Instant) -> Option<Shed> {
    activity.core().overload.refusal(&activity.peer(), now)
}

fn shed(activity: &Activity, reason: Shed) -> Failure {
    activity.core().metrics.shard().shed(reason);
    Failure::Shed(reason)
}

impl<S, B> Service<Request<RequestBody>> for Admission<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure> + Clone,
    B: Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Failure;
    type Future = AdmissionFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> AdmissionFuture<S> {
        let now = overload::arrival();
        let decision = if request.version() == Version::HTTP_2
            && (self.activity.core().overload.streams_wait() || now.is_some())
        {
            // A connection of HTTP/2 has many requests read at once, and then each waits for its task's turn: what has
            // waited too long is refused then. What is too much already is refused here.
            let now = now.filter(|_| !is_exempt(&self.activity, &request));
            now.and_then(|now| shed_for_worker(&self.activity, now))
                .map_or(Decision::Wait(Turn::Worker), |reason| Decision::Refuse(shed(&self.activity, reason)))
        } else {
            Decision::of(&self.activity, &request, now)
        };
        match decision {
            Decision::Admit(admitted) => {
                AdmissionFuture::Admitted { inner: self.inner.call(request), admitted: Some(admitted) }
            }
            Decision::Refuse(failure) => AdmissionFuture::Refused { failure: Some(failure) },
            Decision::Wait(turn) => {
                let (inner, activity) = (self.inner.clone(), self.activity.clone());
                AdmissionFuture::Waiting {
                    waiting: Some(Box::new(Waiting { inner, activity, request, turn })),
                }
            }
        }
    }
}

/// A request that waits, with what it waits for. In a box: few do, and every request's future has room for what it is.
#[derive(Debug)]
pub(crate) struct Waiting<S> {
    inner: S,
    activity: Activity,
    request: Request<RequestBody>,
    turn: Turn,
}

impl<S> Waiting<S> {
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted, Failure>> {
        loop {
            match &mut self.turn {
                Turn::Place(ticket) => {
                    let turn = ready!(ticket.poll_turn(cx));
                    if turn.is_ok() {
                        self.activity.core().overload.admitted();
                    }
                    return Poll::Ready(turn.map_err(|reason| shed(&self.activity, reason)));
                }
                Turn::Worker => match Decision::of(&self.activity, &self.request, Some(Instant::now())) {
                    Decision::Admit(admitted) => return Poll::Ready(Ok(admitted)),
                    Decision::Refuse(failure) => return Poll::Ready(Err(failure)),
                    Decision::Wait(turn) => self.turn = turn,
                },
            }
        }
    }
}

pin_project! {
    /// See [`Admission`].
    #[project = AdmissionProjection]
    pub(crate) enum AdmissionFuture<S: Service<Request<RequestBody>>> {
        Admitted { #[pin] inner: S::Future, admitted: Option<Admitted> },
        Refused { failure: Option<Failure> },
        Waiting { waiting: Option<Box<Waiting<S>>> },
    }
}

impl<S, B> Future for AdmissionFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Failure>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled_again = "a future is not polled after it was ready";
        loop {
            let next = match self.as_mut().project() {
                AdmissionProjection::Refused { failure } => {
                    #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                    let failure = failure.take().expect(polled_again);
                    return Poll::Ready(Err(failure));
                }
                AdmissionProjection::Admitted { inner, admitted } => {
                    let response = ready!(inner.poll(cx))?;
                    #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                    let admitted = admitted.take().expect(polled_again);
                    return Poll::Ready(admit(response, admitted));
                }
                AdmissionProjection::Waiting { waiting } => {
                    #[expect(clippy::expect_used, reason = "the contract of Future::poll")]
                    let turn = ready!(waiting.as_mut().expect(polled_again).poll_turn(cx));
                    let waited = waiting.take().zip(Some(turn?));
                    waited.map(|(waited, admitted)| {
                        let Waiting { mut inner, request, .. } = *waited;
                        Self::Admitted { inner: inner.call(request), admitted: Some(admitted) }
                    })
                }
            };
            if let Some(next) = next {
                self.set(next);
            }
        }
    }
}

/// A response that has no natural end would hold its place for ever, and fill the limit with its like: it has a limit of
/// its own.
fn admit<B: Body>(response: Response<B>, admitted: Admitted) -> Result<Response<ResponseBody<B>>, Failure> {
    let admitted = if response.extensions().get::<LongLived>().is_some() {
        let becomes_connection = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let admitted = admitted.into_stream(becomes_connection)?;
        match response.extensions().get::<PlaceKeeper>() {
            Some(keeper) => {
                keeper.keep(admitted);
                Admitted::exempt()
            }
            None => admitted,
        }
    } else {
        admitted
    };
    Ok(response.map(|body| ResponseBody::of_service(body, admitted)))
}
