pub mod checkpoint;
pub mod chunk;
pub mod codec;
pub mod reject;
pub mod row;
pub mod stream_id;
pub mod sum;
pub mod transaction;
