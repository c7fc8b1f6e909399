//! The whole loop on a cluster with real pods: installed with Helm, used by real clients, under real load.
//!
//! `make test-e2e` runs most at the same time, then those in `disruption` and `installed` one by one, then those in
//! `alone` beside nothing but `calm`. Tests begin in the order of their names: the longest, in `blind`, is the first.
//! What is in `bench` is run by `make bench-replicas`.

mod alone;
mod bench;
mod blind;
mod calm;
mod connections;
mod disruption;
mod installed;
mod killed;
mod lifecycle;
mod load;
mod rolled;
mod serving;
mod support;
mod writers;
