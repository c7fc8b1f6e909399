//! One reconcile, as a pipeline that data passes one way:
//!
//! 1. [`dereference`]: the only reads. Caches, and the API server itself where a mistake could cost data.
//! 2. [`validate`]: no client. The resource and what was read become a [`validate::ValidatedServer`], or a reason why
//!    not.
//! 3. [`plan`]: no client. The validated server and the scaler's decision become every child object, complete.
//! 4. [`apply`]: the only writes of children: server-side apply in a fixed order, then removal of what is no longer
//!    wanted.
//! 5. [`status`]: no client. What was observed becomes the status; it is written when it differs.
//!
//! A reconcile never waits: what is not there yet is a condition, and the watch that brings it starts the next one.

pub mod apply;
pub mod caches;
pub mod context;
pub mod dereference;
pub mod events;
pub mod plan;
pub mod policy;
pub mod reconcile;
pub mod run;
pub mod scaling;
pub mod status;
#[cfg(test)]
pub(crate) mod test_support;
pub mod validate;
