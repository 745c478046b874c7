//! YAML, behind one door: the rest of the code names no YAML crate.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use yaml_serde::Error;

/// One document.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    yaml_serde::to_string(value)
}

/// One document.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    yaml_serde::from_str(text)
}

/// Every document of a stream, in order; empty documents are left out.
pub fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, Error> {
    yaml_serde::Deserializer::from_str(text)
        .map(Option::<T>::deserialize)
        .filter_map(Result::transpose)
        .collect()
}

use serde::Deserialize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_documents_is_read_in_order_without_the_empty_ones() {
        let read: Vec<i32> = documents("1\n---\n---\n2\n").expect("valid YAML");
        assert_eq!(read, [1, 2]);
    }
}
