//! Each rule by hand; `model`: anything in any order, against a naive model; `workload`: how much it saves.

mod model;
mod rig;
mod rules;
mod workload;
