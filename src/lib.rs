pub mod skeleton {}
