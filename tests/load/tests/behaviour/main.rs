//! Runs of the load tester against servers with known behaviour.

#[cfg(test)]
mod fake;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod timing;
