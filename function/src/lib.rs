//! Functions: planned, launched, watched, and ended gracefully.
//!
//! | module | holds |
//! | --- | --- |
//! | [`plan`] | a Function's manifest, validated |
//! | [`launch`] | `trait Launcher`: how an instance of a function comes to life |
//! | [`process`] | an instance as a child process |
//! | [`guard`] | the process between evoke and a function, which ends the function when evoke ends |
//! | [`runtime`] | keeps an instance alive, and says where it listens |
//! | [`metrics`] | what functions count |

mod expand;
pub mod guard;
pub mod launch;
pub mod metrics;
pub mod plan;
pub mod process;
pub mod runtime;
