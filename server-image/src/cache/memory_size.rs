//! How many bytes a cached value takes, so that a capacity in bytes means memory.

use serde_json::Value;

/// Bytes that a value holds on the heap, beside itself. Allocators round up; that is part of an entry's fixed cost.
pub trait HeapBytes {
    /// An estimate within a few bytes for each piece.
    fn heap_bytes(&self) -> usize;
}

impl HeapBytes for String {
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl<Inner: HeapBytes> HeapBytes for Option<Inner> {
    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, HeapBytes::heap_bytes)
    }
}

impl<Inner: HeapBytes> HeapBytes for Vec<Inner> {
    fn heap_bytes(&self) -> usize {
        self.capacity() * size_of::<Inner>() + self.iter().map(HeapBytes::heap_bytes).sum::<usize>()
    }
}

impl HeapBytes for Value {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::String(text) => text.heap_bytes(),
            Self::Array(items) => items.heap_bytes(),
            // An ordered map keeps each entry with its hash, and an index to find it.
            Self::Object(fields) => fields
                .iter()
                .map(|(name, value)| name.heap_bytes() + value.heap_bytes() + size_of::<(u64, String, Value, usize)>())
                .sum(),
        }
    }
}
