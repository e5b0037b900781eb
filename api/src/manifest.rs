//! YAML text to typed objects, with the line and column of every field.
//!
//! ```text
//! SourceFile --read--> marked trees --override--> --recognise--> --check against the schema--> Object
//! ```
//!
//! Scalars are those of YAML 1.2's core schema, with what Kubernetes does beside it: merge keys (`<<`), a number that starts with
//! 0 is octal, and `yes`, `no`, `on`, `off` are taken where a boolean is wanted. JSON is read as the YAML it is.

mod diagnostic;
mod did_you_mean;
mod kind;
mod load;
mod node;
mod object;
mod overrides;
mod read;
mod scalar;
mod schema;
mod source;
mod walk;

pub use diagnostic::Diagnostic;
pub use kind::Kind;
pub use load::{Loaded, load};
pub use node::{Node, Place};
pub use object::{Object, ObjectValue};
pub use overrides::{InvalidOverride, Override};
pub use schema::Schemas;
pub use source::SourceFile;

pub(crate) use read::document;
