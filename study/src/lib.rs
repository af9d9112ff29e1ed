//! Experiments that show what the server does under load, attack and restart, and the harness that they share.
//!
//! An experiment is one file that starts what it measures as children of this program ([`harness::server`],
//! [`harness::load`], [`hostile`]), reads what they say of themselves ([`harness::process`], [`harness::metrics`]) and
//! writes a [`harness::report`].

mod attacks;
pub mod experiments;
pub mod harness;
pub mod hostile;
mod overload;
mod restart;
mod slow_clients;
pub mod usage;
